"""``gofer new``: complete distributions to begin with, each with a test that passes as it is."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from string import Template
from types import MappingProxyType

import click

from gofer.tools.output import filled

__all__ = ["new"]

_NAME = re.compile(r"[a-z][a-z0-9]*(?:[_-][a-z0-9]+)*")
_ALLOWED = "at most 30 small letters and digits, with single - or _ between; a letter comes first"
_LONGEST = 30


@dataclass(frozen=True, slots=True)
class _Kind:
    """One thing that can be made. ``taken``: names of gofer's own. ``classes``: names that its class must not have."""

    help: str
    taken: tuple[str, ...]
    classes: tuple[str, ...] = ()


_KINDS = MappingProxyType(
    {
        "plugin": _Kind(
            "Create a plugin: a class and a function to call, a descriptor, and a test with a real agent.",
            ("demo", "package", "system", "virt"),
            ("Admin", "Context", "False", "None", "True"),
        ),
        "adapter": _Kind(
            "Create an adapter to a kind of broker, with the contract of adapters as its test.",
            ("amqp", "local", "proton", "qpid"),
        ),
        "authenticator": _Kind(
            "Create an authenticator, which signs messages, with the contract of authenticators as its test.",
            ("hmac", "x509"),
        ),
    }
)


@click.group()
def new() -> None:
    """Create a plugin, an adapter or an authenticator.

    Writes a complete distribution into a new directory. You can install it; it passes its own test; gofer lists it.
    """


def _write(what: str, name: str, directory: Path | None) -> None:
    folder = Path(name) if directory is None else directory
    try:
        str(folder).encode()
    except UnicodeEncodeError:  # it stands in the README that is written
        raise click.BadParameter(f"{str(folder)!r} is not UTF-8", param_hint="DIR") from None
    shown = str(folder) if folder.is_absolute() or str(folder).startswith(".") else f"./{folder}"
    underscored = name.replace("-", "_")
    values = {
        "name": name,
        "underscored": underscored,
        "cls": _check(what, _KINDS[what], name),
        "module": f"gofer_{what}_{underscored}",
        "distribution": f"gofer-{what}-{name.replace('_', '-')}",
        "scheme": f"{name.replace('_', '-')}-1",
        "core": version("gofer-core"),
        "directory": folder.resolve().name,
        "folder": shlex.quote(shown),
    }
    try:
        folder.mkdir()
    except FileExistsError:
        raise click.ClickException(f"{what}: {str(folder)!r} already exists; nothing was written") from None
    except OSError as error:
        raise click.ClickException(f"{what}: {str(folder)!r} cannot be made: {error.strerror}") from None
    templates = files(__package__) / "templates"
    try:
        for source in (templates / "common", templates / what):
            _fill(source, folder, values)
    except OSError as error:
        shutil.rmtree(folder, ignore_errors=True)
        reason = f"{error.strerror}; it was removed again"
        raise click.ClickException(f"{what}: {str(folder)!r} cannot be written: {reason}") from None
    following = filled(f"{what}.next", **values)
    click.echo(f"{shown} holds {values['distribution']}. What to type next:\n{following}", nl=False)


def _fill(source: Traversable, folder: Path, values: Mapping[str, str]) -> None:
    """Write a directory of templates into a folder. MODULE, NAME and UNDERSCORED in their names are values, too."""
    for entry in source.iterdir():
        name = entry.name.removesuffix(".template")
        for word in ("module", "name", "underscored"):
            name = name.replace(word.upper(), values[word])
        if entry.is_dir():
            (folder / name).mkdir(exist_ok=True)
            _fill(entry, folder / name, values)
        else:
            (folder / name).write_text(Template(entry.read_text("utf-8")).substitute(values), "utf-8")


def _check(what: str, kind: _Kind, name: str) -> str:
    """Return the name of the class for a name.

    Raises:
        BadParameter: it is no name for such a thing, or taken.
    """
    if len(name) > _LONGEST or not _NAME.fullmatch(name):
        better = "-".join(re.findall("[a-z0-9]+", name.lower()))[:_LONGEST].strip("-")
        hint = f"; try {better!r}" if _NAME.fullmatch(better) else ""
        raise _bad(f"{name[:100]!r} is no name for {_a(what)}; allowed: {_ALLOWED}{hint}")
    if name in kind.taken:
        raise _bad(f"{name!r} is the name of {_a(what)} of gofer itself; choose another name")
    cls = "".join(part.capitalize() for part in re.split("[_-]", name))
    if cls in kind.classes:
        raise _bad(f"{name!r} would make a class {cls}, which has a meaning already; choose another name")
    from gofer.entry_points import listed

    for one in listed(f"gofer.{what}s"):
        if one.name == name:
            raise _bad(f"{name!r} is installed already, by {one}; choose another name, or uninstall it first")
    return cls


def _bad(text: str) -> click.BadParameter:
    return click.BadParameter(text, param_hint="NAME")


def _a(what: str) -> str:
    return f"{'an' if what[0] in 'ae' else 'a'} {what}"


_PARAMETERS = (
    click.Argument(["name"]),
    click.Option(
        ["-d", "--directory"],
        type=click.Path(path_type=Path),
        metavar="DIR",
        help="The directory to create (default: NAME, in the working directory).",
    ),
)
for _what, _kind in _KINDS.items():
    new.add_command(click.Command(_what, callback=partial(_write, _what), params=[*_PARAMETERS], help=_kind.help))
