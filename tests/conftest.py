"""What all tests share: a root of their own, nothing left behind, and how hypothesis tries values."""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
import time
from collections.abc import Generator, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from hypothesis import HealthCheck, settings

# What stands there asserts for the tests, and its failures are to be as clear as theirs.
pytest.register_assert_rewrite("support", "gofer.testing._contract")

from support import forkserver  # noqa: E402 - the line above must come first
from support.contract_table import pytest_runtest_logreport, pytest_terminal_summary  # noqa: E402 - the line above must come first

__all__ = ["pytest_runtest_logreport", "pytest_terminal_summary"]  # hooks

# Where the environment forbids .pyc files, each process that runs tests, or that a test starts, would compile again all
# that it imports: as much work as a good part of the tests themselves.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# What a shell has put into the background ignores SIGINT, and so would all that the tests start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

_PUBLIC = ("etc/gofer/plugins", "etc/gofer/conf.d", "usr/share/gofer/plugins", "var/log/gofer")
_PRIVATE = ("var/lib/gofer", "run/gofer")
_GRACE = 20.0  # seconds in which a thread or a child that was told to end must be gone
_STARTS = 5.0  # seconds in which a thread starts
_DESCRIPTORS = pytest.StashKey[int]()


def pytest_configure(config: pytest.Config) -> None:
    """Have hypothesis try 100 values for a property, and 25 where slow tests are left out; in CI always the same ones.

    Nothing about time: machines that run tests are shared, and slow for reasons of their own.
    """
    in_ci = os.environ.get("CI") == "true"
    settings.register_profile(
        "gofer",
        max_examples=25 if "not slow" in config.option.markexpr else 100,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
        derandomize=in_ci,
        print_blob=in_ci,
    )
    settings.load_profile("gofer")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Keep thousands of collected tests out of the garbage collector, which would go through them again and again.

    A reload collects garbage, for one, and took ten times as long after 3,000 tests were found as after 30.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        gc.enable()


def pytest_make_parametrize_id(val: object) -> str | None:
    """Name long texts and bytes by their beginning: each report, and each process, carries the names of tests."""
    if isinstance(val, str | bytes) and len(val) > 100:
        return f"{val[:60]!a}...{len(val)}"
    return None


@pytest.hookimpl(tryfirst=True)  # before xdist looks for groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Have tests that share what a module or a class makes once run by one process, or each would make it, too."""
    for item in items:
        definitions = getattr(item, "_fixtureinfo", None)
        if definitions is None or item.get_closest_marker("xdist_group") is not None:
            continue
        scopes = {one[-1].scope for one in definitions.name2fixturedefs.values() if one}
        if "module" in scopes:
            item.add_marker(pytest.mark.xdist_group(str(item.path)))
        elif "class" in scopes:
            item.add_marker(pytest.mark.xdist_group(item.nodeid.rpartition("::")[0]))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Count the open descriptors, for the hook below."""
    item.stash[_DESCRIPTORS] = len(os.listdir("/proc/self/fd"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Generator[None, object, object]:
    """Fail the test that leaves a socket or a file open in garbage: else the test fails that is collected in.

    A collection takes longer than many tests, so there is one only where descriptors are open that were not before,
    and at the end of a module. What that has left is kept out of later collections, as what was collected is, above.
    """
    result = yield
    if len(os.listdir("/proc/self/fd")) > item.stash[_DESCRIPTORS]:
        left: list[str] = []
        pytests, sys.unraisablehook = sys.unraisablehook, lambda one: left.append(f"{one.exc_value} ({one.object!r})")
        try:
            gc.collect()
        finally:
            sys.unraisablehook = pytests
        assert not left, f"not closed: {left}"
    if nextitem is None or nextitem.path != item.path:
        gc.collect()
        gc.freeze()
    return result


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A private GOFER_ROOT with its directories, set in the environment of this process and of those it starts."""
    top = tmp_path / "root"
    for path in (*_PUBLIC, *_PRIVATE):
        (top / path).mkdir(parents=True)
    for directory in [top, *top.rglob("*")]:
        directory.chmod(0o755)  # whatever the umask: goferd refuses what others may write to
    for path in _PRIVATE:
        (top / path).chmod(0o700)
    monkeypatch.setenv("GOFER_ROOT", str(top))
    return top


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    """Fail the test that leaves a thread running or a child process unended.

    Children are counted, not named: a broker of the whole session that a test restarts is a new process.
    """
    threads = set(threading.enumerate())
    children = children_of_this_process()
    yield
    deadline = time.monotonic() + _GRACE

    begun = time.monotonic() + _STARTS
    for thread in set(threading.enumerate()) - threads:
        while not thread.is_alive() and thread in threading.enumerate() and time.monotonic() < begun:
            time.sleep(0.01)  # it is being started; or never will be: an interrupt struck Thread.start, which lists it
        if thread.is_alive():
            thread.join(max(0.0, deadline - time.monotonic()))
    left = sorted(thread.name for thread in set(threading.enumerate()) - threads if thread.is_alive())
    assert not left, f"threads still running: {left}"

    while len(now := children_of_this_process()) > len(children) and time.monotonic() < deadline:
        _reap_adopted(now - children)
        time.sleep(0.01)
    assert len(now) <= len(children), f"child processes not ended: {[psutil.Process(pid) for pid in now - children]}"


def _reap_adopted(pids: set[int]) -> None:
    """Reap what a killed RabbitMQ has left: a process that forks servers adopts the orphans of all that it started."""
    for pid in pids:
        with suppress(OSError):
            name, state = Path(f"/proc/{pid}/stat").read_text().partition("(")[2].rpartition(") ")[::2]
            if name in ("inet_gethost", "erl_child_setup", "epmd") and state.startswith("Z"):
                os.waitpid(pid, os.WNOHANG)


def children_of_this_process() -> set[int]:
    """Return their process ids. As the kernel tells them: psutil reads all processes, 2 ms, twice a test."""
    found: set[int] = set()
    for task in Path("/proc/self/task").iterdir():
        try:
            found.update(map(int, (task / "children").read_text().split()))
        except (FileNotFoundError, ProcessLookupError):
            if task.exists():
                raise
            return children_of_this_process()  # that thread has just ended: its children are another's now
    return found - forkserver.pids()
