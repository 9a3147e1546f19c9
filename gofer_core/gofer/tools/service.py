"""``gofer service``: goferd as a service of systemd."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from gofer.agent.process import AgentLock, AlreadyRunning
from gofer.errors import ConfigError
from gofer.root import Root
from gofer.tools.output import complain, print_json, print_table
from gofer.tools.service_files import Record, Service, install, stage, uninstall

__all__ = ["service"]

_FAILED, _NOT_INSTALLED = 1, 3
_SYSTEM = Path("/etc/systemd/system")
_PACKAGED = (Path("/usr/lib/systemd/system/goferd.service"), Path("/lib/systemd/system/goferd.service"))


@click.group(no_args_is_help=True)
def service() -> None:
    """Install goferd as a service of systemd, show it, and remove it.

    The service runs the goferd that is installed beside this gofer. systemd starts it with the machine, restarts it
    when it ends or hangs, and keeps its log. The service runs as root; the documentation tells how to change that.
    Nothing is started or stopped here: the commands for that are printed.

    With --user, it is a service of your own user, with a private root: --root DIR, else GOFER_ROOT, else ~/gofer.

    \b
    Example:
      gofer service install --print
      gofer service install
      systemctl daemon-reload && systemctl enable --now goferd

    \b
    Exit status:
      0    done
      1    not done; the message says why
      2    wrong arguments
      3    show: the service is not installed, or not as this gofer would install it
    """


def _command(name: str) -> Callable[[Callable[..., int | None]], click.Command]:
    """Make a subcommand of a function, which is given the service, and returns the exit status."""

    def made(function: Callable[..., int | None]) -> click.Command:
        @functools.wraps(function)
        def run(*, root: str | None, user: bool, **given: Any) -> int:
            try:
                return function(_service(root, user), **given) or 0
            except OSError as error:
                if error.filename is None:
                    raise  # of the output
                hint = "" if user or os.geteuid() == 0 else ". Type this as root, or with --user"
                complain("gofer service", f"{error.filename}: {error.strerror}{hint}")
                return _FAILED

        where = "The root of the service's goferd (default: GOFER_ROOT, else /)."
        at = click.option("--root", metavar="DIR", help=where)
        own = click.option("--user", is_flag=True, help="A service of your own user, with a private root.")
        return service.command(name)(at(own(run)))

    return made


def _service(root: str | None, user: bool) -> Service:
    home = None
    if user:
        root = root or os.environ.get("GOFER_ROOT") or os.path.expanduser("~/gofer")
        home = Path(os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")) / "systemd/user"
    return Service(Root.from_environ(os.environ, root), Path(sys.executable).with_name("goferd"), home)


@_command("install")
@click.option("--print", "printing", is_flag=True, help="Print what would be written, and write nothing.")
@click.option("--replace", is_flag=True, help="Overwrite files that were changed by hand, too.")
@click.option("--destdir", metavar="DIR", help="For makers of packages: write the files of a package below DIR.")
def _install(made: Service, *, printing: bool, replace: bool, destdir: str | None) -> None:
    """Write the unit, the PAM service, and the directories for configuration, ledger and logs.

    After an update of gofer, the same command updates the files. A file that was changed by hand is kept, and named.
    With a private root, there are only the unit and the directories.
    """
    if destdir is not None:
        if not made.whole:
            raise click.UsageError("--destdir cannot be used with a private root (--root, GOFER_ROOT, --user)")
        made = Service(made.root, made.command, destdir=Path(destdir).absolute())
    if not os.access(made.command, os.X_OK):
        raise ConfigError(f"there is no {made.command}. Install gofer-core with pip, and use the gofer beside it")
    if printing:
        for path, mode in made.directories().items():
            click.echo(f"# directory {path}, mode {mode:04o}")
        for path, text in made.files().items():
            click.echo(f"\n# file {path}\n{text}", nl=False)
    elif destdir is not None:
        stage(made)
    else:
        packaged = next((path for path in _PACKAGED if path.exists()), None)
        if made.whole and packaged is not None:
            raise ConfigError(f"a package has installed the service: {packaged}. Remove that package first")
        for word, path in install(made, replace=replace):
            why = ": it was changed by hand. --replace overwrites it" if word == "kept" else ""
            click.echo(f"{word:9}  {path}{why}")
        _tell_next(made)


def _tell_next(made: Service) -> None:
    if made.home is not None:
        steps = "systemctl --user daemon-reload && systemctl --user enable --now goferd && loginctl enable-linger"
    elif made.whole:
        steps = "systemctl daemon-reload && systemctl enable --now goferd"
    else:
        steps = f"systemctl daemon-reload && systemctl enable --now {made.unit}"
    click.echo(f"Next: {steps}", err=True)
    if not made.whole:
        click.echo(f"In shells that use this agent: export GOFER_ROOT={made.root.path}", err=True)


@_command("uninstall")
@click.option("--print", "printing", is_flag=True, help="Print what would be removed, and remove nothing.")
@click.option("--purge", is_flag=True, help="Remove configuration, ledger and logs, too.")
def _uninstall(made: Service, *, printing: bool, purge: bool) -> None:
    """Remove what install has written. Stop and disable the service first.

    Configuration, ledger and logs are kept, and so are files that were changed by hand.
    """
    if not Record.read(made.root).files and not purge:
        raise ConfigError(f"nothing was installed under {made.root.path}")
    if not printing:
        _refuse_running(made)
    kept = False
    for word, path in uninstall(made.root, purge=purge, pretend=printing):
        click.echo(f"{word:9}  {path}")
        kept = kept or word == "kept"
    if kept and not purge:
        click.echo("--purge removes configuration, ledger and logs, too.", err=True)
    if not printing:
        click.echo(f"Next: systemctl {'--user ' if made.home is not None else ''}daemon-reload", err=True)


@_command("show")
@click.option("--json", "as_json", is_flag=True, help="Print JSON: an object with the state of each file.")
def _show(made: Service, *, as_json: bool) -> int:
    """Show each file of the service, and whether it is as this gofer would install it.

    \b
    States:
      installed  as this gofer would install it
      outdated   as an earlier gofer has installed it: gofer service install updates it
      changed    changed by hand; gofer keeps it
      missing    not there
    """
    record = Record.read(made.root)
    rows = {str(path): str(record.state(path, text)) for path, text in made.files().items()}
    if as_json:
        print_json({"command": str(made.command), "root": str(made.root.path), "files": rows})
    else:
        print_table(("file", "state"), list(rows.items()))
    return 0 if set(rows.values()) <= {"installed", "changed"} else _NOT_INSTALLED


def _refuse_running(made: Service) -> None:
    """Refuse to remove a service that runs, or that starts with the machine.

    Raises:
        ConfigError: it does; the text says what to type.
    """
    how = f"Type first: systemctl {'--user ' if made.home is not None else ''}disable --now goferd"
    for place in {made.unit.parent, made.home or _SYSTEM}:
        for link in (place / made.unit.name, *place.glob(f"*.wants/{made.unit.name}")):
            if link.is_symlink() and os.path.realpath(link) == str(made.unit):
                raise ConfigError(f"the service is enabled by {link}. {how}")
    if (made.root.run / "goferd.lock").exists():
        try:
            with AgentLock(made.root):
                pass
        except AlreadyRunning as running:
            raise ConfigError(f"{running}. {how}") from None
