"""Importing each plugin, and making its authenticator, in a process of its own, to tell what is wrong with them.

Run as a program, this module is that process.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from gofer.agent.config import Descriptor, Problem
from gofer.root import Root

__all__ = ["import_problems", "main"]

_LONGEST = 30.0  # seconds that an import may take
_AT_A_TIME = 4
_OUTPUT = 4096  # bytes of what a process said last that are looked at when it has died


def import_problems(root: Root, descriptors: Sequence[Descriptor]) -> list[Problem]:
    """Import the code of each plugin as the agent would, all in processes of their own, and tell what fails.

    No ``@load`` function is run, and no hook of a plugin is called.
    """
    if not descriptors:
        return []
    from concurrent.futures import ThreadPoolExecutor  # here: who has no plugins to import needs none of this

    with ThreadPoolExecutor(_AT_A_TIME) as threads:
        return [problem for found in threads.map(lambda one: _import(root, one), descriptors) for problem in found]


def _import(root: Root, descriptor: Descriptor) -> list[Problem]:
    import subprocess
    import tempfile

    told, theirs = os.pipe()
    with open(told, "rb") as answer, tempfile.TemporaryFile() as output:
        try:
            child = subprocess.Popen(  # noqa: S603 - this very module
                [sys.executable, "-P", "-m", __name__, str(root.path), descriptor.name, str(theirs)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=(theirs,),
                start_new_session=True,
            )
        finally:
            os.close(theirs)
        pidfd = os.pidfd_open(child.pid)
        try:
            poller = select.poll()
            poller.register(pidfd, select.POLLIN)
            late = not poller.poll(_LONGEST * 1000)
        finally:
            os.close(pidfd)
            # The whole group: what an import has started must not outlive this.
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
        os.set_blocking(told, False)
        said = answer.read() or b""
        if said.endswith(b"\n"):
            return [Problem("error", *one) for one in json.loads(said)]
        output.seek(max(0, output.seek(0, os.SEEK_END) - _OUTPUT))
        lines = output.read().decode("utf-8", "replace").split("\n")
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    if late:
        why = f"importing it takes longer than {_LONGEST:g} s"
    elif child.returncode < 0:
        why = f"importing it kills the process ({signal.Signals(-child.returncode).name})"
    else:
        why = f"importing it ends the process with status {child.returncode}"
    return [Problem("error", str(descriptor.file), "main", "plugin", f"{why}{f': {last[:300]!r}' if last else ''}")]


def main(argv: Sequence[str]) -> None:
    """Import one plugin, and write what is wrong, as one line of JSON, for the process that has started this one.

    Args:
        argv: the root, the plugin's name, and the descriptor to write to.
    """
    from gofer.agent.config import read_agent, read_descriptors
    from gofer.agent.failures import Refused
    from gofer.agent.import_only import ImportOnly
    from gofer.agent.plugin_code import find_plugin
    from gofer.rmi.model.helper import end_with_parent

    end_with_parent(signal.SIGKILL)
    where, name, told = argv
    root = Root(Path(where))
    os.environ["GOFER_ROOT"] = where
    enabled = [one for one in read_descriptors(root)[0] if one.enabled]
    container = ImportOnly(root, read_agent(root)[0], enabled, lambda plugin: find_plugin(root, plugin))
    plugin = container.make(name)
    found: list[Problem] = []
    try:
        find_plugin(root, plugin)
    except Refused as refused:  # perhaps by its authenticator: then its code is looked at, too
        found.append(refused.problem)
    try:
        container.fill(plugin)
    except Refused as refused:
        found.append(refused.problem)
    problems = [(one.file, one.section, one.key, one.text) for one in dict.fromkeys(found)]
    os.write(int(told), json.dumps(problems).encode() + b"\n")


if __name__ == "__main__":
    main(sys.argv[1:])
    sys.stdout.flush()
    os._exit(0)  # whatever threads or exit handlers the import has left
