"""The ``gofer`` command, and ``goferd --check``: as a child process, or in this one, which is quicker."""

from __future__ import annotations

import io
import os
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import psutil
import pytest
from gofer.agent import main as goferd
from gofer.tools.main import main

from support import forkserver
from support.forkserver import GOFER

__all__ = ["GOFER", "check_goferd", "gofer", "left_behind", "run_gofer"]


def gofer(
    *arguments: str, stdin: str = "", environ: Mapping[str, str] | None = None, timeout: float = 60
) -> subprocess.CompletedProcess[str]:
    """Run ``gofer`` to its end, GOFER_ROOT and all as in this process but for ``environ``."""
    return forkserver.run(
        [GOFER, *arguments], input=stdin, text=True, env={**os.environ, **(environ or {})}, timeout=timeout
    )


def run_gofer(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run ``gofer`` in this process: for commands that neither wait, nor read standard input, nor start threads."""
    return _run(["gofer", *arguments], main)


def check_goferd(root: Path, *path: Path) -> subprocess.CompletedProcess[str]:
    """Run ``goferd --check`` in this process: those that it has import the plugins are processes of their own.

    ``path``: where plugins are installed, besides ``sys.path``.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GOFER_ROOT", str(root))
        for one in path:
            patch.syspath_prepend(str(one))
        return _run(["goferd", "--root", str(root), "--check"], goferd.main)


def _run(command: Sequence[str], program: Callable[[Sequence[str]], int]) -> subprocess.CompletedProcess[str]:
    """Run a program in this process. Those that it starts, start quickly."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(subprocess, "Popen", forkserver.Popen)
        status = program(command[1:])
    return subprocess.CompletedProcess(command, status, out.getvalue(), err.getvalue())


def left_behind(directory: Path) -> list[psutil.Process]:
    """List the processes that have a path below a directory in their environment or on their command line."""
    found = []
    for process in psutil.process_iter():
        try:
            told = [*process.environ().values(), *process.cmdline()]
        except psutil.Error:
            continue  # gone meanwhile, or somebody else's
        if process.pid != os.getpid() and any(f"{directory}/" in value for value in told):
            found.append(process)
    return found
