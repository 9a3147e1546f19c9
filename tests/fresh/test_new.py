"""From an empty virtual environment to a call of one's own plugin, as somebody would who has just heard of gofer."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.fresh import Fresh
from support.repository import TOP
from support.waiting import eventually

# One process makes the environment.
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("fresh"), pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Fresh:
    """An environment with gofer-core, installed from here as pip would install it from anywhere."""
    made = Fresh(tmp_path_factory.mktemp("fresh") / "venv", ("gofer-core", "hatchling", "pytest"))
    made.pip_install(TOP / "gofer_core")
    return made


@contextmanager
def running(fresh: Fresh, root: Path, *command: str) -> Iterator[None]:
    """Run a command of the environment in the background."""
    log = root / f"{command[0]}.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [str(fresh.folder / "bin" / command[0]), *command[1:]],
            env=fresh.environ | {"GOFER_ROOT": str(root)},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
        )
    try:
        yield
    finally:
        process.terminate()
        process.wait(30)
        print(log.read_text())  # shown when the test fails


def test_a_new_plugin_is_installed_into_a_running_agent_and_called(fresh: Fresh, root: Path, tmp_path: Path) -> None:
    """Each step is one that `gofer new` prints."""
    home = {"GOFER_ROOT": str(root)}
    with running(fresh, root, "gofer", "broker"), running(fresh, root, "goferd"):
        eventually((root / "run/gofer/management.sock").exists, what="a running agent")
        said = fresh.run("gofer", "new", "plugin", "x", cwd=tmp_path)
        steps = [line.strip() for line in said.splitlines() if line.startswith("  ")]
        install, copy, check, load, call, test = steps
        assert install == "pip install ./x"
        fresh.pip_install("./x", cwd=tmp_path)
        subprocess.run(["sh", "-ec", copy], cwd=tmp_path, env=fresh.environ | home, check=True, timeout=300)
        assert check == "goferd --check"
        fresh.run("goferd", "--check", cwd=tmp_path, environ=home)
        assert load == "gofer agent load x.conf"
        fresh.run(*load.split(), cwd=tmp_path, environ=home)
        assert call == "gofer rmi -a x -t X.greet world"
        assert fresh.run(*call.split(), cwd=tmp_path, environ=home) == "Hello, world!\n"
        code = 'from gofer.proxy import Agent; print(Agent("local://", "x")["x"].ping())'
        assert fresh.run("python", "-c", code, cwd=tmp_path, environ=home) == "x is here\n"
        listed = fresh.run("gofer", "plugins", cwd=tmp_path, environ=home).split()
        assert listed[listed.index("x") :][:4] == ["x", "0.1.0", "gofer-plugin-x", "gofer_plugin_x"]
        assert listed[-1] == "ok"
        assert test.split("#")[0].split() == ["python", "-m", "pytest", "./x"]
        assert "4 passed" in fresh.run("python", "-m", "pytest", "-q", "./x", cwd=tmp_path)


@pytest.mark.parametrize("kind", ["adapter", "authenticator"])
def test_a_new_adapter_or_authenticator_keeps_its_contract_as_it_is(fresh: Fresh, tmp_path: Path, kind: str) -> None:
    fresh.run("gofer", "new", kind, "ours", cwd=tmp_path)
    fresh.pip_install("./ours", cwd=tmp_path)
    listed = fresh.run("gofer", f"{kind}s", cwd=tmp_path).split()
    assert listed[listed.index("ours") :][:3] == ["ours", "0.1.0", f"gofer-{kind}-ours"]
    assert " passed" in fresh.run("python", "-m", "pytest", "-q", "./ours", cwd=tmp_path)


def test_a_new_adapter_is_what_a_url_of_its_name_is_served_by(fresh: Fresh, root: Path, tmp_path: Path) -> None:
    fresh.run("gofer", "new", "adapter", "mine", cwd=tmp_path)
    call = ("gofer", "rmi", "-u", "mine+local://", "-a", "nobody", "-t", "Dog.bark")
    home = {"GOFER_ROOT": str(root)}
    with running(fresh, root, "gofer", "broker"):
        eventually((root / "run/gofer/broker.sock").exists, what="a running broker")
        assert "the adapter 'mine' of mine+local:// is not installed" in fresh.run(
            *call, cwd=tmp_path, environ=home, status=6
        )
        fresh.pip_install("./mine", cwd=tmp_path)
        assert "at 'nobody': no agent at this address" in fresh.run(*call, cwd=tmp_path, environ=home, status=4)


def test_an_adapter_that_breaks_a_promise_fails_its_test(fresh: Fresh, tmp_path: Path) -> None:
    """The suite is wired to the adapter that was written, not to another one."""
    fresh.run("gofer", "new", "adapter", "broken", cwd=tmp_path)
    module = tmp_path / "broken/gofer_adapter_broken/adapter.py"
    text = module.read_text()
    settle = "requeue=how is api.Settlement.RELEASE"
    assert settle in text
    module.write_text(text.replace(settle, "requeue=True"))
    fresh.pip_install("./broken", cwd=tmp_path)
    said = fresh.run("python", "-m", "pytest", "-q", "-x", "-k", "accepted", "./broken", cwd=tmp_path, status=1)
    assert " failed" in said
