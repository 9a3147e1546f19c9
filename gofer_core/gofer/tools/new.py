"""``gofer new``: complete distributions to begin with, each with a test that passes as it is."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from string import Template
from types import MappingProxyType
from typing import Any

import click

__all__ = ["new"]

_NAME = re.compile(r"[a-z][a-z0-9]*(?:[_-][a-z0-9]+)*")
_ALLOWED = "at most 30 small letters and digits, with single - or _ between; a letter comes first"
_LONGEST = 30


@dataclass(frozen=True, slots=True)
class _Kind:
    """One thing that can be made. ``files`` maps paths to templates; both have places for the values of a name.

    ``taken``: names of gofer's own. ``classes``: names that the class in it must not have.
    """

    group: str
    files: Mapping[str, str]
    next: str
    taken: tuple[str, ...]
    classes: tuple[str, ...] = ()


_COMMON = {".gitignore": "gitignore", "$module/py.typed": ""}

_KINDS = MappingProxyType(
    {
        "plugin": _Kind(
            "gofer.plugins",
            {
                **_COMMON,
                "pyproject.toml": "plugin/pyproject.toml",
                "README.md": "plugin/README",
                "$module/__init__.py": "plugin/module",
                "$module/$name.conf": "plugin/descriptor",
                "tests/conftest.py": "plugin/fixtures",
                "tests/test_$underscored.py": "plugin/tests",
            },
            """
  pip install $folder
  install -m 644 -Dt $$GOFER_ROOT/etc/gofer/plugins $folder/$module/$name.conf
  goferd --check
  gofer agent load $name.conf
  gofer rmi -a $name -t $cls.greet world
  python -m pytest $folder   # needs: pip install pytest

`gofer agent load` loads the plugin into a running agent. Without one, type: gofer broker & goferd &
""",
            ("demo", "package", "system", "virt"),
            ("Admin", "Context", "False", "None", "True"),
        ),
        "adapter": _Kind(
            "gofer.adapters",
            {
                **_COMMON,
                "pyproject.toml": "adapter/pyproject.toml",
                "README.md": "adapter/README",
                "$module/__init__.py": "adapter/module",
                "$module/adapter.py": "adapter/adapter",
                "tests/test_$underscored.py": "adapter/tests",
            },
            """
  pip install $folder
  python -m pytest $folder   # needs: pip install pytest

The test passes unchanged, with gofer's local broker. Replace one method after the other in
$folder/$module/adapter.py, and the URL in the test, with those of your broker.
""",
            ("amqp", "local", "proton", "qpid"),
        ),
        "authenticator": _Kind(
            "gofer.authenticators",
            {
                **_COMMON,
                "pyproject.toml": "authenticator/pyproject.toml",
                "README.md": "authenticator/README",
                "$module/__init__.py": "authenticator/module",
                "$module/authenticator.py": "authenticator/authenticator",
                "tests/test_$underscored.py": "authenticator/tests",
            },
            """
  pip install $folder
  python -m pytest $folder   # needs: pip install pytest

The test passes unchanged, with one secret for everyone. Put your keys into
$folder/$module/authenticator.py.
""",
            ("hmac", "x509"),
        ),
    }
)


@click.group()
def new() -> None:
    """Create a plugin, an adapter or an authenticator.

    Writes a complete distribution into a new directory. You can install it; it passes its own test; gofer lists it.
    """


def _arguments(command: Callable[..., Any]) -> Callable[..., Any]:
    directory = click.option(
        "-d",
        "--directory",
        type=click.Path(path_type=Path),
        metavar="DIR",
        help="The directory to create (default: NAME, in the working directory).",
    )
    return click.argument("name")(directory(command))


@new.command()
@_arguments
def plugin(name: str, directory: Path | None) -> None:
    """Create a plugin: a class and a function to call, a descriptor, and a test with a real agent."""
    _write("plugin", name, directory)


@new.command()
@_arguments
def adapter(name: str, directory: Path | None) -> None:
    """Create an adapter to a kind of broker, with the contract of adapters as its test."""
    _write("adapter", name, directory)


@new.command()
@_arguments
def authenticator(name: str, directory: Path | None) -> None:
    """Create an authenticator, which signs messages, with the contract of authenticators as its test."""
    _write("authenticator", name, directory)


def _write(what: str, name: str, directory: Path | None) -> None:
    kind = _KINDS[what]
    cls = _check(what, kind, name)
    folder = Path(name) if directory is None else directory
    underscored = name.replace("-", "_")
    try:
        str(folder).encode()
    except UnicodeEncodeError:  # it stands in the README that is written
        raise click.BadParameter(f"{str(folder)!r} is not UTF-8", param_hint="DIR") from None
    shown = str(folder) if folder.is_absolute() or str(folder).startswith(".") else f"./{folder}"
    values = {
        "name": name,
        "underscored": underscored,
        "cls": cls,
        "module": f"gofer_{what}_{underscored}",
        "distribution": f"gofer-{what}-{name.replace('_', '-')}",
        "scheme": f"{name.replace('_', '-')}-1",
        "core": version("gofer-core"),
        "directory": folder.resolve().name,
        "folder": shlex.quote(shown),
    }
    written = {Template(path).substitute(values): _fill(template, values) for path, template in kind.files.items()}
    try:
        folder.mkdir()
    except FileExistsError:
        raise click.ClickException(f"{what}: {str(folder)!r} already exists; nothing was written") from None
    except OSError as error:
        raise click.ClickException(f"{what}: {str(folder)!r} cannot be made: {error.strerror}") from None
    try:
        for path, text in written.items():
            file = folder / path
            file.parent.mkdir(exist_ok=True)
            file.write_text(text, "utf-8")
    except OSError as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise click.ClickException(
            f"{what}: {str(folder)!r} cannot be written: {error.strerror}; it was removed again"
        ) from None
    click.echo(
        f"{shown} holds {values['distribution']}. What to type next:\n{_substitute(kind.next, values)}", nl=False
    )


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

    for one in listed(kind.group):
        if one.name == name:
            raise _bad(f"{name!r} is installed already, by {one}; choose another name, or uninstall it first")
    return cls


def _bad(text: str) -> click.BadParameter:
    return click.BadParameter(text, param_hint="NAME")


def _a(what: str) -> str:
    return f"{'an' if what[0] in 'ae' else 'a'} {what}"


def _fill(template: str, values: Mapping[str, str]) -> str:
    if not template:
        return ""
    return _substitute((files(__package__) / "templates" / f"{template}.template").read_text("utf-8"), values)


def _substitute(text: str, values: Mapping[str, str]) -> str:
    return Template(text).substitute(values)
