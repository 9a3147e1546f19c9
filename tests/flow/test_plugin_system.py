"""The plugin system at work, as root: real commands, users, passwords and services.

The machine's power alone is not: what `shutdown` is called with is noted by a command of that name that comes first in
the agent's PATH, and so is what `systemctl` is, where the real one has no systemd to talk to.
"""

from __future__ import annotations

import base64
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import gofer_plugin_system.power
import psutil
import pytest
from gofer.errors import (
    Interrupted,
    MemberNotFound,
    NotAuthenticated,
    NotFound,
    PasswordRequired,
    Rejected,
    RequestTimeout,
    UserNotAuthorized,
    UserRequired,
)
from gofer.proxy import Agent
from gofer_authenticator_hmac import HmacAuthenticator
from support.commands import check_goferd
from support.goferd import AgentProcess
from support.localbroker import LocalBroker
from support.people import Person
from support.presence import until_it_answers
from support.waiting import eventually

pytestmark = pytest.mark.xdist_group("plugin-system")  # one process makes what the module shares

DESCRIPTOR = """
[main]
enabled = 1
plugin = system
threads = 4

[messaging]
url = {url}
{trust}

[model]
queue = {queue}

[system]
services = {services}
"""

FAKE = """\
#!/bin/sh
echo "$(basename "$0") $*" >> {noted}
echo "out of $(basename "$0")"
echo "err of $(basename "$0")" >&2
exit "$(cat {status})"
"""

SERVICE = """\
#!/bin/sh
echo "$1" >> {noted}
case "$1" in
    start) touch {runs} ;;
    stop) rm -f {runs} ;;
    restart) touch {runs} ;;
    status) if [ -e {runs} ]; then echo runs; else echo does not run; exit 3; fi ;;
esac
"""


@pytest.fixture(scope="module")
def fakes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a `shutdown` and a `systemctl`, which note what they are called with in `noted`."""
    folder = tmp_path_factory.mktemp("fakes")
    (folder / "status").write_text("0")
    for name in ("shutdown", "systemctl"):
        (folder / name).write_text(FAKE.format(noted=folder / "noted", status=folder / "status"))
        (folder / name).chmod(0o755)
    return folder


@pytest.fixture
def noted(fakes: Path) -> Path:
    (fakes / "noted").unlink(missing_ok=True)
    (fakes / "status").write_text("0")
    return fakes / "noted"


@pytest.fixture(scope="module")
def temporary() -> Iterator[Path]:
    """The agent's directory for temporary files: like that of the machine, users can pass through it."""
    folder = Path(tempfile.mkdtemp(prefix="gofer-test-"))
    folder.chmod(0o711)
    yield folder
    folder.rmdir()  # nothing was left there


@pytest.fixture(scope="module")
def process(fakes: Path, temporary: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AgentProcess]:
    environ = {"TMPDIR": str(temporary), "GOFER_TEST": "not for scripts"}
    path = os.pathsep.join([str(fakes), os.environ["PATH"]])
    root = tmp_path_factory.mktemp("agent")
    with (
        LocalBroker(str(root / "broker.sock")) as broker,
        AgentProcess(root, environ={"PATH": path, **environ}) as process,
    ):
        keys = root / "keys"
        keys.touch(0o600)
        keys.write_text(f"ops {base64.b64encode(os.urandom(32)).decode()}\n")
        signed = f"authenticator = hmac\n[hmac]\nkeys = {keys}"
        process.descriptor("system", DESCRIPTOR.format(url=broker.url, queue="system", services="auto", trust=signed))
        process.descriptor(
            "other", DESCRIPTOR.format(url=broker.url, queue="other", services="systemctl", trust=signed)
        )
        process.descriptor("open", DESCRIPTOR.format(url=broker.url, queue="open", services="auto", trust=""))
        yield process.start()


def signed_agent(process: AgentProcess, address: str) -> Agent:
    authenticator = HmacAuthenticator(process.root / "keys")
    return Agent(f"local://{process.root}/broker.sock", address, wait=30, authenticator=authenticator)


@pytest.fixture
def agent(process: AgentProcess) -> Iterator[Agent]:
    with signed_agent(process, "system") as agent:
        yield until_it_answers(agent, process.tail())


@pytest.fixture
def unsigned(process: AgentProcess) -> Iterator[Agent]:
    """A caller of a plugin without an authenticator, as the descriptor of gofer 2.12 has it."""
    with Agent(f"local://{process.root}/broker.sock", "open", wait=30) as agent:
        yield until_it_answers(agent, process.tail())


@pytest.fixture(scope="module")
def jane() -> Iterator[Person]:
    with Person("jane") as person:
        yield person


def test_every_method_says_what_it_does(agent: Agent) -> None:
    (plugin,) = [one for one in agent.Admin().describe()["plugins"] if one["plugin"] == "system"]
    methods = {f"{each['name']}.{one['name']}": one for each in plugin["classes"] for one in each["methods"]}
    assert sorted(methods) == [
        "Script.run",
        "Service.restart",
        "Service.start",
        "Service.status",
        "Service.stop",
        "Shell.run",
        "System.cancel",
        "System.halt",
        "System.reboot",
    ]
    assert [name for name, one in methods.items() if not one["doc"]] == []


class TestShell:
    def test_a_text_is_a_command_line(self, agent: Agent) -> None:
        assert agent.Shell().run("echo $((6 * 7)); echo wrong >&2; exit 3") == [
            3,
            {"stdout": "42\n", "stderr": "wrong\n"},
        ]

    def test_a_list_is_a_program_and_its_arguments(self, agent: Agent) -> None:
        assert agent.Shell().run(["echo", "$HOME; ls", "*"]) == [0, {"stdout": "$HOME; ls *\n", "stderr": ""}]

    def test_its_output_is_reported_while_it_runs(self, agent: Agent) -> None:
        told: list[Any] = []
        agent(progress=lambda report: told.append(report["details"])).Shell().run("echo one; sleep 0.3; echo two")
        assert "".join(text for text in told if text) == "one\ntwo\n"

    @pytest.mark.parametrize(
        ("cmd", "raised"),
        [(5, Rejected), (None, Rejected), (["ls", 5], Rejected), ([], ValueError), (["no-such"], FileNotFoundError)],
    )
    def test_what_cannot_be_run_is_an_error(self, agent: Agent, cmd: Any, raised: type[Exception]) -> None:
        with pytest.raises(raised):
            agent.Shell().run(cmd)

    def test_a_command_ends_when_its_call_is_cancelled(self, agent: Agent, tmp_path: Path) -> None:
        with ThreadPoolExecutor(1) as threads:
            call = threads.submit(agent(data="mine").Shell().run, f"sleep 300 & echo $! > {tmp_path}/pid; wait")
            eventually(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text().strip())
            agent.Admin().cancel(criteria={"eq": "mine"})
            assert call.result(30)[0] == -signal.SIGTERM
        pid = int((tmp_path / "pid").read_text())
        eventually(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)

    def test_a_command_is_not_run_again_when_the_agent_has_died(
        self, agent: Agent, process: AgentProcess, tmp_path: Path
    ) -> None:
        with ThreadPoolExecutor(1) as threads:
            call = threads.submit(agent.Shell().run, f"echo begun >> {tmp_path}/trace; exec sleep 2")
            eventually((tmp_path / "trace").exists)
            process.kill()
            process.start()
            with pytest.raises(Interrupted):
                call.result(60)
        assert (tmp_path / "trace").read_text() == "begun\n"


class TestScript:
    def test_it_runs_as_the_user_in_a_file_that_is_the_users_alone(
        self, agent: Agent, jane: Person, temporary: Path
    ) -> None:
        content = """
            id -un; id -gn; pwd; echo "$HOME $USER"; umask
            stat -c '%a %U %G' "$0"; stat -c '%a %U %G' "$(dirname "$0")"
            echo "$# $1 $2 ${GOFER_TEST-unset}${GOFER_ROOT-unset}"
        """
        status, said = agent.Script(content).run(jane.name, jane.password, "a b", "$c")
        assert (status, said["stderr"]) == (0, "")
        name = jane.name
        assert said["stdout"].splitlines() == [
            *(name, name, "/", f"/home/{name} {name}", "0022"),
            *(f"500 {name} {name}", f"710 root {name}"),
            "2 a b $c unsetunset",
        ]
        assert os.listdir(temporary) == []

    def test_its_first_line_names_the_interpreter(self, agent: Agent, jane: Person, temporary: Path) -> None:
        content = "#!/usr/bin/env python3\nimport os, sys\nprint(os.getuid() != 0, sys.argv[1:])\nsys.exit(4)\n"
        assert agent.Script(content).run(jane.name, jane.password, "x") == [
            4,
            {"stdout": "True ['x']\n", "stderr": ""},
        ]
        with pytest.raises(FileNotFoundError, match="no/such"):
            agent.Script("#!/no/such/interpreter\n").run(jane.name, jane.password)
        assert os.listdir(temporary) == []

    def test_a_wrong_password_runs_nothing(
        self, agent: Agent, jane: Person, tmp_path: Path, process: AgentProcess
    ) -> None:
        script = agent.Script(f"touch {tmp_path}/ran")
        wrong = {
            (jane.name, "wrong"): NotAuthenticated,
            ("root", jane.password): NotAuthenticated,
            (f"{jane.name}-not", jane.password): NotAuthenticated,
            (jane.name, ""): PasswordRequired,
            (jane.name, None): PasswordRequired,
            ("", jane.password): UserRequired,
            (5, jane.password): Rejected,
        }
        with ThreadPoolExecutor(len(wrong)) as threads:  # PAM takes its seconds over each
            calls = {threads.submit(script.run, *arguments): raised for arguments, raised in wrong.items()}
            for call, raised in calls.items():
                error = call.exception(30)
                assert type(error) is raised
                assert jane.password not in str(error)
        assert not (tmp_path / "ran").exists()
        assert jane.password not in process.log.read_text()

    def test_what_is_no_script_or_no_option_is_refused(self, agent: Agent, jane: Person) -> None:
        with pytest.raises(Rejected, match="content: expected str, got int"):
            agent.Script(5).run(jane.name, jane.password)
        with pytest.raises(Rejected, match="expected str, got int"):
            agent.Script("true").run(jane.name, jane.password, 5)

    def test_it_ends_when_its_call_is_cancelled_and_leaves_no_file(
        self, agent: Agent, jane: Person, process: AgentProcess, temporary: Path
    ) -> None:
        def running() -> list[psutil.Process]:
            found = psutil.process_iter(["username", "name", "status"])
            return [one for one in found if one.info["username"] == jane.name and one.info["status"] != "zombie"]

        with ThreadPoolExecutor(1) as threads:
            call = threads.submit(agent(data="hers").Script("sleep 300; true").run, jane.name, jane.password)
            eventually(lambda: any(one.info["name"] == "sleep" for one in running()), what=process.tail())
            agent.Admin().cancel(criteria={"eq": "hers"})
            assert call.result(30)[0] == -signal.SIGTERM
        assert running() == []
        assert os.listdir(temporary) == []


class TestService:
    @pytest.fixture
    def service(self, tmp_path: Path) -> Iterator[str]:
        """A service of this machine, which notes what it is told."""
        name = f"gofer-test-{os.getpid()}"
        script = Path("/etc/init.d", name)
        script.write_text(SERVICE.format(noted=tmp_path / "told", runs=tmp_path / "runs"))
        script.chmod(0o755)
        yield name
        script.unlink()

    def test_it_is_reported_by_service_where_no_systemd_runs(self, agent: Agent, service: str, tmp_path: Path) -> None:
        if Path("/run/systemd/system").exists():
            pytest.skip("systemd runs here")
        stub = agent.Service(service)
        assert stub.status() == [3, {"stdout": "does not run\n", "stderr": ""}]
        for what, runs in (("start", True), ("stop", False), ("restart", True)):
            assert stub[what]()[0] == 0
            assert (tmp_path / "runs").exists() is runs
        assert stub.status()[0] == 0
        assert (tmp_path / "told").read_text().split() == ["status", "start", "stop", "restart", "status"]

    def test_it_is_reported_by_systemctl_where_that_is_to_be(self, process: AgentProcess, noted: Path) -> None:
        with signed_agent(process, "other") as other:
            until_it_answers(other)
            for what in ("start", "stop", "restart", "status"):
                assert other.Service("nginx@1.service")[what]() == [
                    0,
                    {"stdout": "out of systemctl\n", "stderr": "err of systemctl\n"},
                ]
        assert noted.read_text().splitlines() == [
            f"systemctl --no-pager --no-ask-password {what} -- nginx@1.service"
            for what in ("start", "stop", "restart", "status")
        ]

    @pytest.mark.parametrize("name", ["", "../../tmp/x", "/etc/passwd", "-h", "a b", "a\n", 5, None, "x" * 256])
    def test_what_is_no_name_is_refused(self, agent: Agent, name: Any) -> None:
        with pytest.raises((ValueError, Rejected), match=r"is not the name of a service|name: expected str"):
            agent.Service(name).status()


_NO_TIME = r"is no time; allowed: minutes from now, hh:mm, or now|when: expected int \| str"


class TestSystem:
    @pytest.mark.parametrize(
        ("when", "given"),
        [
            ((), "+1"),
            ((5,), "+5"),
            (("5",), "+5"),
            (("+05",), "+5"),
            (("23:30",), "23:30"),
            (("now",), "now"),
            ((0,), "+0"),
        ],
    )
    def test_it_is_halted_and_rebooted_by_shutdown(
        self, agent: Agent, noted: Path, when: tuple[Any, ...], given: str
    ) -> None:
        ended = [0, {"stdout": "out of shutdown\n", "stderr": "err of shutdown\n"}]
        assert agent.System().halt(*when) == ended
        assert agent.System().reboot(*when) == ended
        assert noted.read_text().splitlines() == [f"shutdown -h {given}", f"shutdown -r {given}"]

    def test_that_is_taken_back(self, agent: Agent, noted: Path) -> None:
        assert agent.System().cancel()[0] == 0
        assert noted.read_text() == "shutdown -c\n"

    def test_a_shutdown_that_fails_says_so(self, agent: Agent, noted: Path, fakes: Path) -> None:
        (fakes / "status").write_text("1")
        assert agent.System().halt(60)[0] == 1
        assert noted.exists()

    @pytest.mark.parametrize("when", ["", "soon", "-1", -1, 1.5, True, None, "24:00", "12:60", "1; ls", "now ", [5]])
    def test_what_is_no_time_is_refused(self, agent: Agent, noted: Path, when: Any) -> None:
        for method in ("halt", "reboot"):
            with pytest.raises((ValueError, Rejected), match=_NO_TIME):
                agent.System()[method](when)
        assert not noted.exists()

    def test_a_shutdown_that_waits_for_its_time_is_not_waited_for(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As that of System V does: it is what `shutdown -c` ends."""
        (tmp_path / "shutdown").write_text("#!/bin/sh\necho it will be\nexec sleep 2.5\n")
        (tmp_path / "shutdown").chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
        monkeypatch.setattr(gofer_plugin_system.power, "_SOON", 1.5)
        assert gofer_plugin_system.power.System().halt() == (0, {"stdout": "it will be\n", "stderr": ""})


class TestWithoutAuthenticator:
    """What everybody at the broker could send."""

    def test_a_command_runs_as_the_user_whose_password_comes_with_it(self, unsigned: Agent, jane: Person) -> None:
        assert unsigned.Shell(jane.name, jane.password).run("id -un; pwd") == [
            0,
            {"stdout": f"{jane.name}\n/\n", "stderr": ""},
        ]
        assert unsigned.Shell(jane.name, jane.password).run(["id", "-un"])[1]["stdout"].strip() == jane.name
        assert unsigned.Script("id -un").run(jane.name, jane.password)[1]["stdout"].strip() == jane.name

    def test_nothing_runs_without_a_password(
        self, unsigned: Agent, jane: Person, tmp_path: Path, process: AgentProcess
    ) -> None:
        command = f"touch {tmp_path}/ran"
        refused = {
            (): UserRequired,
            (None, None): UserRequired,
            ("root", None): PasswordRequired,
            ("root", ""): PasswordRequired,
            (None, "x"): UserRequired,
            ("root", "x"): NotAuthenticated,
            (jane.name, "x"): NotAuthenticated,
        }
        with ThreadPoolExecutor(2 * len(refused)) as threads:
            calls = {}
            for who, raised in refused.items():
                calls[threads.submit(lambda who=who: unsigned.Shell(*who).run(command))] = raised  # type: ignore[misc]  # mypy cannot infer a lambda's default
                if who:
                    calls[threads.submit(unsigned.Script(command).run, *who)] = raised
            for call, raised in calls.items():
                assert type(call.exception(60)) is raised
        assert not (tmp_path / "ran").exists()

    def test_a_name_that_nobody_has_can_neither_break_a_line_of_the_log_nor_fill_it(
        self, unsigned: Agent, process: AgentProcess
    ) -> None:
        with pytest.raises(NotAuthenticated):
            unsigned.Shell("joe\nforged line", "x").run("id")
        line = next(
            one for one in process.log.read_text().splitlines() if "was not authenticated" in one and "joe" in one
        )
        assert r"user 'joe\nforged line' was not authenticated" in line
        before = process.log.stat().st_size
        with pytest.raises(UserNotAuthorized):
            unsigned.Shell("x" * 1_000_000, "x").run("id")
        with pytest.raises(NotAuthenticated):
            unsigned.Shell("root\0joe", "x").run("id")
        assert process.log.stat().st_size - before < 5000

    @pytest.mark.parametrize(
        "method", ["Service.start", "Service.stop", "Service.restart", "Service.status"], ids=lambda name: name
    )
    def test_services_are_for_root(self, unsigned: Agent, jane: Person, method: str, noted: Path) -> None:
        for options, raised in (
            ({}, UserRequired),
            ({"user": "root"}, PasswordRequired),
            ({"user": jane.name, "password": jane.password}, UserNotAuthorized),
        ):
            with pytest.raises(raised):
                unsigned(**options).Service("cron")[method.partition(".")[2]]()
        assert not noted.exists()

    @pytest.mark.parametrize("method", ["halt", "reboot", "cancel"])
    def test_so_is_the_power(self, unsigned: Agent, jane: Person, method: str, noted: Path) -> None:
        for options, raised in (
            ({}, UserRequired),
            ({"user": "root"}, PasswordRequired),
            ({"user": jane.name, "password": jane.password}, UserNotAuthorized),
        ):
            with pytest.raises(raised):
                unsigned(**options).System()[method]()
        assert not noted.exists()


def test_a_signed_caller_may_name_a_user_and_then_needs_the_password(agent: Agent, jane: Person) -> None:
    assert agent.Shell(jane.name, jane.password).run(["id", "-un"])[1]["stdout"].strip() == jane.name
    assert agent.Script("id -un").run(None, None)[1]["stdout"].strip() == "root"
    with pytest.raises(PasswordRequired):
        agent.Shell("root").run("id")


def run_check(root: Path) -> tuple[int, str]:
    done = check_goferd(root)
    return done.returncode, done.stdout


def test_it_does_not_load_where_nobody_can_be_identified(root: Path, tmp_path: Path) -> None:
    with LocalBroker(str(tmp_path / "broker.sock")) as broker, AgentProcess(root) as process:
        process.configure("[pam]\nservice = no-such-service\n")
        process.descriptor("system", DESCRIPTOR.format(url=broker.url, queue="system", services="auto", trust=""))
        status, checked = run_check(root)
        assert (status, checked.count("error: ")) == (1, 1)
        assert "system.conf: [main] plugin: callers cannot be identified: there is no authenticator, and" in checked
        process.start()
        line = next(line for line in process.log.read_text().splitlines() if "callers cannot be identified" in line)
        assert "system.conf: [main] plugin: " in line
        assert "Set [messaging] authenticator in the descriptor" in line
        assert "or [pam] service in agent.conf" in line
        with Agent(broker.url, "system", wait=1) as agent, pytest.raises((NotFound, RequestTimeout)):
            agent.Shell().run("id")


def test_an_old_file_beside_the_distribution_is_named(root: Path) -> None:
    with AgentProcess(root) as process:
        process.plugin("system", "raise SystemExit('old')", "[main]\nenabled=1\n")
        process.start()
        said = process.log.read_text()
        status, checked = run_check(root)
    file = root / "usr/share/gofer/plugins/system.py"
    for text in (said, checked):
        line = next(line for line in text.splitlines() if str(file) in line)
        assert "plugin 'system' is gofer_plugin_system of gofer-plugin-system " in line
        assert f"{file} is not used: remove it, or, to use it, uninstall gofer-plugin-system" in line
    assert status == 0


def test_what_is_not_marked_cannot_be_called(agent: Agent) -> None:
    with pytest.raises(MemberNotFound):
        agent.Service("x")["_do"]("start")


def test_only_root_runs_commands_as_somebody_else() -> None:
    """Shell(user=) of a process that is not root."""
    code = """
import os
from gofer.rmi.shell import Shell
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
print(Shell(user="nobody").run("id", "-un"))
for name in ("root", "no-such-user"):
    try:
        Shell(user=name)
    except (PermissionError, LookupError) as error:
        print(type(error).__name__, error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False)
    assert (done.stdout.splitlines(), done.stderr) == (
        [
            "(0, {'stdout': 'nobody\\n', 'stderr': ''})",
            "PermissionError only an agent that runs as root can run commands as 'root'",
            "LookupError there is no user 'no-such-user' on this machine",
        ],
        "",
    )
