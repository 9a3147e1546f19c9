"""Write the tables of gofer_adapter_qpid.amqp_0_10 from the specification's XML.

In this folder: ``python generate.py > ../gofer_adapter_qpid/amqp_0_10/tables.py``. A test checks that the file in the
repository is what this prints.
"""

from __future__ import annotations

import sys
from pathlib import Path
from xml.etree import ElementTree

__all__ = ["generate"]

#: The classes of which a client needs the controls, commands and structs. The others are files, streams, transactions.
_CLASSES = ("connection", "session", "execution", "message", "exchange", "queue")
#: The enumerations that are written: domain -> name of the table.
_ENUMS = {
    "connection.close-code": "CLOSE_CODES",
    "session.detach-code": "DETACH_CODES",
    "execution.error-code": "ERROR_CODES",
}
_XML = Path(__file__).with_name("amqp.0-10-qpid-errata.stripped.xml")
_HEAD = '''"""List the types, controls, commands and structs of AMQP 0-10, as far as a client needs them.

Written by spec/generate.py from amqp.0-10-qpid-errata.stripped.xml; do not edit. The specification is
Copyright (c) 2009 AMQP Working Group; its terms stand in that file.
"""

# ruff: noqa: E501 - one control, command or struct a line

from __future__ import annotations

from typing import NamedTuple

__all__ = [ALL]


class Type(NamedTuple):
    """A primitive type: its code (None: it has none and stands only where it is expected) and its width in bytes.

    ``prefix``: the width of the size that stands before a value of variable width; 0: the width is fixed.
    """

    code: int | None
    width: int
    prefix: int


class Layout(NamedTuple):
    """A control, a command or a struct: what is encoded after its code.

    ``size`` and ``pack`` are the widths of the size before it and of its packing flags; ``fields`` are names and types;
    ``result`` is the struct that execution.result brings as the answer to a command.
    """

    name: str
    code: int
    size: int
    pack: int
    fields: tuple[tuple[str, str], ...]
    result: str | None = None

'''


def generate(xml: Path = _XML) -> str:
    """Return the text of tables.py."""
    root = ElementTree.parse(xml).getroot()  # noqa: S314 - our own file, not a peer's
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
    tables = {"TYPES": _types(root)}
    domains = {each.attrib["name"]: each for each in root.findall("domain")}
    for group in root.findall("class"):
        domains |= {f"{group.attrib['name']}.{each.attrib['name']}": each for each in group.findall("domain")}
    for domain, name in _ENUMS.items():
        choices = domains[domain].findall("enum/choice")
        tables[name] = {f"{int(each.attrib['value'])}": repr(each.attrib["name"]) for each in choices}
    for name in ("CONTROLS", "COMMANDS", "STRUCTS"):
        tables[name] = {}
    for group in root.findall("class"):
        if group.attrib["name"] in _CLASSES:
            _add_class(group, domains, tables)
    kinds = {"TYPES": "str, Type", "STRUCTS": "str, Layout", "CONTROLS": "str, Layout", "COMMANDS": "str, Layout"}
    head = _HEAD.replace("ALL", ", ".join(f'"{name}"' for name in sorted((*tables, "Layout", "Type"))))
    text = [head]
    for name, table in tables.items():
        text.append(f"\n{name}: dict[{kinds.get(name, 'int, str')}] = {{\n")
        text += [f"    {key}: {value},\n" for key, value in table.items()]
        text.append("}\n")
    return "".join(text).replace("'", '"')


def _types(root: ElementTree.Element) -> dict[str, str]:
    types = {}
    for each in root.findall("type"):
        code = each.get("code")
        width, prefix = each.get("fixed-width", "0"), each.get("variable-width", "0")
        types[f"'{each.attrib['name']}'"] = f"Type({code}, {width}, {prefix})"
    return types


def _add_class(
    group: ElementTree.Element, domains: dict[str, ElementTree.Element], tables: dict[str, dict[str, str]]
) -> None:
    structs = {each.attrib["name"] for each in group.findall("struct")}

    def resolve(name: str) -> str:
        """Return the primitive type, or the struct with its class's name, behind a domain."""
        for known in (f"{group.attrib['name']}.{name}", name):
            if known in domains:
                return resolve(domains[known].attrib["type"])
        return f"{group.attrib['name']}.{name}" if name in structs else name

    def add(table: str, element: ElementTree.Element, *, size: str, pack: str, result: str | None = None) -> None:
        name, local = f"{group.attrib['name']}.{element.attrib['name']}", element.get("code")
        code = 0 if local is None else int(group.attrib["code"], 16) << 8 | int(local, 16)
        fields = [
            (each.attrib["name"].replace("-", "_"), resolve(each.attrib["type"])) for each in element.findall("field")
        ]
        listed = "".join(f"('{field}', '{type}'), " for field, type in fields).rstrip()
        listed = listed if len(fields) == 1 else listed.rstrip(",")
        more = "" if result is None else f", '{result}'"
        tables[table][f"'{name}'"] = f"Layout('{name}', 0x{code:04x}, {size}, {pack}, ({listed}){more})"

    for element in group:
        if element.tag == "struct":
            add("STRUCTS", element, size=element.attrib["size"], pack=element.attrib["pack"])
        elif element.tag == "control":
            add("CONTROLS", element, size="0", pack="2")
        elif element.tag == "command":
            struct = element.find("result/struct")
            result = None if struct is None else f"{group.attrib['name']}.{struct.attrib['name']}"
            add("COMMANDS", element, size="0", pack="2", result=result)
            if struct is not None:
                add("STRUCTS", struct, size=struct.attrib["size"], pack=struct.attrib["pack"])


if __name__ == "__main__":
    sys.stdout.write(generate(*map(Path, sys.argv[1:])))
