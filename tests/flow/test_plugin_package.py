"""The plugin package at work, as root: real apt and dpkg, real dnf and rpm, on package databases of the test's own."""

from __future__ import annotations

import base64
import fcntl
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from gofer.errors import Interrupted, Rejected, UserRequired
from gofer.proxy import Agent
from gofer_authenticator_hmac import HmacAuthenticator
from support.goferd import AgentProcess
from support.localbroker import LocalBroker
from support.packages import AptRoot, DnfRoot
from support.presence import until_it_answers
from support.waiting import eventually

# One process makes what the module shares. They build packages, and install them.
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("plugin-package")]

DESCRIPTOR = """
[main]
enabled = 1
plugin = package
threads = 4

[messaging]
url = {url}
{trust}

[model]
queue = {queue}

[package]
{settings}
"""

ONE = {"name": "gofer-one", "from": None, "to": "1.0"}
TWO = {"name": "gofer-two", "from": None, "to": "1.0"}
SLOW = {"name": "gofer-slow", "from": None, "to": "1.0"}


@pytest.fixture(scope="module")
def apt_root(tmp_path_factory: pytest.TempPathFactory) -> AptRoot:
    return AptRoot(tmp_path_factory.mktemp("apt"))


@pytest.fixture(scope="module")
def dnf_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("dnf")


@pytest.fixture(scope="module")
def dnf_root(dnf_folder: Path) -> DnfRoot:
    return DnfRoot(dnf_folder)


@pytest.fixture(scope="module")
def process(apt_root: AptRoot, dnf_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AgentProcess]:
    root = tmp_path_factory.mktemp("agent")
    environ = {**apt_root.environ, "PATH": os.pathsep.join([str(dnf_folder / "bin"), os.environ["PATH"]])}
    with LocalBroker(str(root / "broker.sock")) as broker, AgentProcess(root, environ=environ) as process:
        keys = root / "keys"
        keys.touch(0o600)
        keys.write_text(f"ops {base64.b64encode(os.urandom(32)).decode()}\n")
        signed = f"authenticator = hmac\n[hmac]\nkeys = {keys}"
        for name, trust, settings in (
            ("package", signed, ""),
            ("replacing", signed, "manager = apt\nconffiles = replace"),
            ("impatient", signed, "manager = apt\nlock_wait = 0.5\nstop_wait = 0.5"),
            ("dnf", signed, "manager = dnf"),
            ("open", "", ""),
        ):
            described = DESCRIPTOR.format(url=broker.url, queue=name, trust=trust, settings=settings)
            process.descriptor(name, described)
        yield process.start()


def agent_of(process: AgentProcess, address: str) -> Agent:
    authenticator = HmacAuthenticator(process.root / "keys")
    agent = Agent(f"local://{process.root}/broker.sock", address, wait=60, authenticator=authenticator)
    return until_it_answers(agent, process.tail())


@pytest.fixture
def apt(process: AgentProcess, apt_root: AptRoot) -> Iterator[Agent]:
    apt_root.reset()
    with agent_of(process, "package") as agent:
        yield agent


@pytest.fixture
def impatient(process: AgentProcess, apt_root: AptRoot) -> Iterator[Agent]:
    """A caller of a plugin that waits for half a second, for a lock or for a cancelled change."""
    apt_root.reset()
    with agent_of(process, "impatient") as agent:
        yield agent


@pytest.fixture
def dnf(process: AgentProcess, dnf_root: DnfRoot) -> Iterator[Agent]:
    dnf_root.reset()
    with agent_of(process, "dnf") as agent:
        yield agent


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as threads:
        yield threads


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """Lock a file as apt does."""
    with file.open("a+") as opened:
        fcntl.lockf(opened, fcntl.LOCK_EX)
        yield


class Told:
    """What is reported as progress, and whether a text was among it."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.reports: list[str] = []
        self._found = threading.Event()

    def __call__(self, report: dict[str, Any]) -> None:
        self.reports.append(report["details"])
        if self.text in "".join(self.reports):
            self._found.set()

    def wait(self) -> None:
        assert self._found.wait(30), self.reports


def begin_slow(agent: Agent, threads: ThreadPoolExecutor, root: Path, **options: Any) -> Future[Any]:
    """Call for the package that waits, and wait until it does."""
    call = threads.submit(agent(data="slow", **options).Package().install, "gofer-slow")
    eventually(lambda: (root / "begun").exists() or call.done())
    assert not call.done(), call.result()
    return call


def test_every_method_says_what_it_does(apt: Agent) -> None:
    (plugin,) = [one for one in apt.Admin().describe()["plugins"] if one["plugin"] == "package"]
    methods = {f"{each['name']}.{one['name']}": one for each in plugin["classes"] for one in each["methods"]}
    assert sorted(methods) == [f"Package.{name}" for name in ("install", "refresh", "remove", "update", "upgradable")]
    assert [name for name, one in methods.items() if not one["doc"]] == []


class TestNames:
    @pytest.mark.parametrize("method", ["install", "update", "remove"])
    def test_what_is_no_name_is_refused(self, apt: Agent, method: str) -> None:
        for names, raised in (("--reinstall", ValueError), (["gofer-one", "a;b"], ValueError), (5, Rejected)):
            with pytest.raises(raised):
                apt.Package()[method](names)

    # `.` and `+` make a name a pattern for apt-get, and a last `-` or `+` means remove or install, if there is no
    # package of that very name.
    def test_a_name_is_that_very_name_for_apt(self, apt: Agent, apt_root: AptRoot) -> None:
        apt.Package().install("gofer-two")
        before = apt_root.states()
        for method in ("install", "update", "remove"):
            for name in ("gofer-t.o", "gofer-one+", "gofer-one-", "gofer-no", "gofer-one-:amd64"):
                with pytest.raises(LookupError, match="there is no package gofer-"):
                    apt.Package()[method](name)
            assert apt.Package()[method]("gofer-one:no-such")[0] == 100
        assert apt_root.states() == before

    def test_whether_it_is_a_dry_run_is_no_guess(self, apt: Agent) -> None:
        with pytest.raises(Rejected, match="dry_run: expected bool"):
            apt.Package().install("gofer-one", "no")


class TestApt:
    def test_install_reports_what_has_come(self, apt: Agent, apt_root: AptRoot) -> None:
        status, plan = apt.Package().install("gofer-two", dry_run=True)
        assert (status, plan["changes"]) == (0, [{**ONE, "to": "2.0"}, TWO])
        assert apt_root.states() == {}

        told: list[str] = []
        agent = apt(progress=lambda report: told.append(report["details"] or ""))
        status, done = agent.Package().install(["gofer-two", "gofer-one=1.0"])
        assert (status, done["changes"], done["manager"]) == (0, [ONE, TWO], "apt")
        assert done["rollback"] == {"remove": ["gofer-one", "gofer-two"], "install": []}
        assert (done["unfinished"], done["cancelled"], done["stderr"]) == ([], False, "")
        assert "Setting up gofer-two (1.0)" in done["stdout"]
        assert "".join(told) == done["stdout"]
        assert apt_root.states() == {"gofer-one": "1.0 ii", "gofer-two": "1.0 ii"}

        status, done = apt.Package().install("gofer-two")
        assert (status, done["changes"], done["rollback"]) == (0, [], {"remove": [], "install": []})

    def test_update_and_the_way_back(self, apt: Agent, apt_root: AptRoot) -> None:
        newer = {"name": "gofer-one", "from": "1.0", "to": "2.0"}
        apt.Package().install(["gofer-one=1.0", "gofer-two"])
        assert apt.Package().upgradable() == [newer]
        for names in ([], ["gofer-one"]):
            status, plan = apt.Package().update(*([names] if names else []), dry_run=True)
            assert (status, plan["changes"]) == (0, [newer])
            status, done = apt.Package().update(*([names] if names else []))
            assert (status, done["changes"]) == (0, [newer])
            assert done["rollback"] == {"remove": [], "install": ["gofer-one=1.0"]}
            assert apt.Package().upgradable() == []

            status, plan = apt.Package().install(done["rollback"]["install"], dry_run=True)
            assert (status, plan["changes"]) == (0, [{"name": "gofer-one", "from": "2.0", "to": "1.0"}])
            status, done = apt.Package().install(done["rollback"]["install"])
            assert (status, done["changes"]) == (0, plan["changes"]), done
        assert apt_root.states()["gofer-one"] == "1.0 ii"

    def test_update_installs_nothing(self, apt: Agent, apt_root: AptRoot) -> None:
        status, done = apt.Package().update("gofer-one")
        assert (status, done["changes"], apt_root.states()) == (0, [], {})

    def test_remove_reports_what_goes_with_it(self, apt: Agent, apt_root: AptRoot) -> None:
        gone = [{"name": "gofer-one", "from": "2.0", "to": None}, {"name": "gofer-two", "from": "1.0", "to": None}]
        apt.Package().install("gofer-two")
        status, plan = apt.Package().remove("gofer-one", dry_run=True)
        assert (status, sorted(plan["changes"], key=lambda one: str(one["name"]))) == (0, gone)
        status, done = apt.Package().remove("gofer-one")
        assert (status, done["changes"]) == (0, gone)
        assert done["rollback"] == {"remove": [], "install": ["gofer-one=2.0", "gofer-two=1.0"]}
        assert apt_root.states() == {"gofer-one": "2.0 rc"}  # its configuration file has stayed
        assert apt.Package().install(done["rollback"]["install"])[0] == 0
        with pytest.raises(ValueError, match="whatever its version"):
            apt.Package().remove("gofer-one=9")

    def test_a_version_that_there_is_not(self, apt: Agent, apt_root: AptRoot) -> None:
        status, done = apt.Package().install("gofer-one=9")
        assert (status, done["changes"], apt_root.states()) == (100, [], {})
        assert "Version '9' for 'gofer-one' was not found" in done["stderr"]

    def test_refresh_finds_what_is_new_and_fails_with_any_repository(self, apt: Agent, apt_root: AptRoot) -> None:
        with pytest.raises(LookupError, match=r"no package gofer-new; .* call refresh\(\)"):
            apt.Package().install("gofer-new")
        apt_root.add("gofer-new", "1.0")
        assert apt.Package().refresh()[0] == 0
        assert apt.Package().install("gofer-new")[0] == 0
        more = apt_root.root / "etc/apt/sources.list.d/more.list"
        more.write_text("deb [trusted=yes] file:/no/such/repository ./\n")
        try:
            status, said = apt.Package().refresh()
        finally:
            more.unlink()
        assert status != 0
        assert "/no/such/repository" in said["stderr"]

    @pytest.mark.parametrize(("address", "text"), [("package", "mine\n"), ("replacing", "new\n")])
    def test_a_configuration_file_that_was_changed(
        self, process: AgentProcess, apt: Agent, apt_root: AptRoot, address: str, text: str
    ) -> None:
        apt.Package().install("gofer-one=1.0")
        file = apt_root.root / "etc/gofer-one.conf"
        file.write_text("mine\n")
        with agent_of(process, address) as agent:
            assert agent.Package().update("gofer-one")[0] == 0
        assert file.read_text() == text

    def test_a_package_that_cannot_be_set_up_is_named_and_can_be_removed(self, apt: Agent, apt_root: AptRoot) -> None:
        status, done = apt.Package().install(["gofer-broken", "gofer-one"])
        assert status == 100
        assert "cannot" in done["stderr"]
        assert [one["name"] for one in done["changes"]] == ["gofer-broken", "gofer-one"]
        assert done["unfinished"] == ["gofer-broken"]
        status, done = apt.Package().remove("gofer-broken")
        assert (status, [one["name"] for one in done["changes"]], done["unfinished"]) == (0, ["gofer-broken"], [])
        assert apt_root.is_consistent()

    def test_two_at_once_are_both_done(self, apt: Agent, apt_root: AptRoot, threads: ThreadPoolExecutor) -> None:
        calls = [threads.submit(apt.Package().install, name) for name in ("gofer-two", "gofer-one", "gofer-one=1.0")]
        assert [call.result()[0] for call in calls] == [0, 0, 0]
        assert list(apt_root.states()) == ["gofer-one", "gofer-two"]
        assert apt_root.is_consistent()


class TestLocks:
    @pytest.mark.parametrize("file", ["dpkg/lock-frontend", "dpkg/lock", "apt/lists/lock"])
    def test_a_locked_database_is_waited_for_and_said(self, apt: Agent, apt_root: AptRoot, file: str) -> None:
        told = Told(f"locked by process {os.getpid()}")
        stub = apt(progress=told).Package()
        refresh = "lists" in file
        with ThreadPoolExecutor(1) as threads:
            with locked(apt_root.root / "var/lib" / file):
                call = threads.submit(stub.refresh) if refresh else threads.submit(stub.install, "gofer-one")
                told.wait()
                assert not call.done()
            assert call.result()[0] == 0

    def test_it_is_not_waited_for_for_ever(self, impatient: Agent, apt_root: AptRoot) -> None:
        with locked(apt_root.database / "lock-frontend"):
            for method in ("install", "remove", "update"):
                with pytest.raises(TimeoutError, match=rf"locked by process {os.getpid()}.* waited 0\.5 s"):
                    impatient.Package()[method]("gofer-one")
            assert impatient.Package().upgradable() == []
            assert impatient.Package().install("gofer-one", dry_run=True)[0] == 0
        assert apt_root.states() == {}

    def test_a_call_that_waits_for_it_can_be_cancelled(
        self, apt: Agent, apt_root: AptRoot, threads: ThreadPoolExecutor
    ) -> None:
        told = Told("locked by process")
        with locked(apt_root.database / "lock-frontend"):
            call = threads.submit(apt(data="mine", progress=told).Package().install, "gofer-one")
            told.wait()
            apt.Admin().cancel(criteria={"eq": "mine"})
            status, done = call.result(30)
        assert (status, done["changes"], done["cancelled"]) == (-signal.SIGINT, [], True)
        assert apt_root.states() == {}


class TestInterruptions:
    def test_a_cancelled_change_ends_at_a_safe_point(
        self, apt: Agent, apt_root: AptRoot, threads: ThreadPoolExecutor
    ) -> None:
        call = begin_slow(apt, threads, apt_root.root)
        apt.Admin().cancel(criteria={"eq": "slow"})
        with pytest.raises(TimeoutError):
            call.result(1)  # the script may go on
        (apt_root.root / "go").touch()
        status, done = call.result(30)
        assert (status, done["changes"], done["unfinished"], done["cancelled"]) == (0, [SLOW], [], True)
        assert "interrupted" in done["stderr"]
        assert apt_root.is_consistent()

    def test_a_script_that_hangs_is_killed_after_a_while_and_repaired_by_the_next_call(
        self, impatient: Agent, apt_root: AptRoot, threads: ThreadPoolExecutor
    ) -> None:
        call = begin_slow(impatient, threads, apt_root.root)
        impatient.Admin().cancel(criteria={"eq": "slow"})
        status, done = call.result(30)
        assert (status, done["unfinished"], done["cancelled"]) == (-signal.SIGTERM, ["gofer-slow"], True)
        assert apt_root.states()["gofer-slow"] == "1.0 iF"
        assert children_of("apt-get", apt_root) == []

        (apt_root.root / "go").touch()
        told: list[str] = []
        status, done = impatient(progress=lambda one: told.append(one["details"])).Package().install("gofer-one")
        assert (status, done["unfinished"]) == (0, [])
        assert told[0].startswith("packages are not set up completely: dpkg ")
        assert apt_root.states() == {"gofer-one": "2.0 ii", "gofer-slow": "1.0 ii"}
        assert apt_root.is_consistent()

    def test_a_change_goes_on_when_the_agent_is_killed(
        self, apt: Agent, apt_root: AptRoot, process: AgentProcess, threads: ThreadPoolExecutor
    ) -> None:
        call = begin_slow(apt, threads, apt_root.root)
        process.kill()
        process.start()
        with pytest.raises(Interrupted):
            call.result(60)
        told = Told("locked by process")
        next_one = threads.submit(apt(progress=told).Package().install, "gofer-one")
        told.wait()  # the first one is not set up yet
        assert not next_one.done()
        (apt_root.root / "go").touch()
        status, done = next_one.result(60)
        assert (status, done["unfinished"]) == (0, [])
        assert apt_root.states() == {"gofer-one": "2.0 ii", "gofer-slow": "1.0 ii"}
        assert apt_root.is_consistent()

    def test_what_a_power_failure_has_left_is_repaired_by_the_next_call(
        self, apt: Agent, apt_root: AptRoot, process: AgentProcess, threads: ThreadPoolExecutor
    ) -> None:
        call = begin_slow(apt, threads, apt_root.root)
        process.kill()
        eventually(lambda: kill_all(children_of("apt-get", apt_root)))
        process.start()
        with pytest.raises(Interrupted):
            call.result(60)
        assert not apt_root.is_consistent()
        (apt_root.root / "go").touch()
        assert apt.Package().install("gofer-one")[0] == 0
        assert apt_root.states() == {"gofer-one": "2.0 ii", "gofer-slow": "1.0 ii"}
        assert apt_root.is_consistent()

    def test_a_package_that_was_not_unpacked_to_its_end_is_installed_again(self, apt: Agent, apt_root: AptRoot) -> None:
        """Its state is what dpkg notes when it begins to unpack; a power failure leaves it so, and apt-get is stuck."""
        assert apt.Package().install("gofer-two")[0] == 0
        status = apt_root.database / "status"
        half = "Package: gofer-one\nStatus: install reinstreq half-installed"
        status.write_text(status.read_text().replace("Package: gofer-one\nStatus: install ok installed", half))
        assert apt_root.states()["gofer-one"] == "2.0 iHR"
        told: list[str] = []
        done = apt(progress=lambda one: told.append(one["details"])).Package().install("gofer-slow", dry_run=True)[1]
        assert (done["unfinished"], "".join(told)) == (["gofer-one"], done["stdout"])  # it repairs nothing
        (apt_root.root / "go").touch()
        result, done = apt.Package().install("gofer-slow")
        assert (result, done["changes"], done["unfinished"]) == (0, [SLOW], [])
        assert set(apt_root.states().values()) == {"2.0 ii", "1.0 ii"}
        assert apt_root.is_consistent()


def kill_all(processes: list[psutil.Process]) -> bool:
    """Kill them, and tell whether there was none left to kill."""
    for one in processes:
        try:
            one.kill()
        except psutil.NoSuchProcess:
            continue  # it has just ended
    return not processes


def children_of(program: str, root: AptRoot) -> list[psutil.Process]:
    """Return the running processes of that name, and all below them, that work on a database."""
    found = []
    for one in psutil.process_iter(["name", "status"]):
        try:
            ours = one.info["status"] != "zombie" and one.environ().get("DPKG_ROOT") == str(root.root)
        except psutil.Error:
            continue
        if ours and one.info["name"] in (program, "dpkg", "gofer-slow.posti", "sh", "sleep"):
            found.append(one)
    return found


class TestDnf:
    def test_install_update_and_the_way_back(self, dnf: Agent, dnf_root: DnfRoot) -> None:
        package = dnf.Package()
        assert package.refresh()[0] == 0
        one = {"name": "gofer-one", "from": None, "to": "1.0-1"}
        two = {"name": "gofer-two", "from": None, "to": "1.0-1"}
        status, plan = package.install(["gofer-two", "gofer-one=1.0"], dry_run=True)
        assert (status, plan["changes"], dnf_root.installed()) == (0, [one, two], [])
        status, done = package.install(["gofer-two", "gofer-one=1.0-1"])
        assert (status, done["changes"], done["manager"]) == (0, [one, two], "dnf")
        assert done["rollback"] == {"remove": ["gofer-one", "gofer-two"], "install": []}
        assert "Complete!" in done["stdout"]

        newer = {"name": "gofer-one", "from": "1.0-1", "to": "2.0-1"}
        assert package.upgradable() == [newer]
        status, plan = package.update(dry_run=True)
        assert (status, plan["changes"]) == (0, [newer])
        status, done = package.update("gofer-one")
        assert (status, done["changes"]) == (0, [newer])
        assert done["rollback"] == {"remove": [], "install": ["gofer-one=1.0-1"]}
        assert package.upgradable() == []

        status, plan = package.install(done["rollback"]["install"], dry_run=True)
        assert (status, plan["changes"]) == (0, [{"name": "gofer-one", "from": "2.0-1", "to": "1.0-1"}])
        status, done = package.install(done["rollback"]["install"])
        assert (status, done["changes"]) == (0, plan["changes"])
        assert dnf_root.installed() == ["gofer-one-1.0", "gofer-two-1.0"]

    def test_remove_reports_what_goes_with_it(self, dnf: Agent, dnf_root: DnfRoot) -> None:
        gone = [{"name": "gofer-one", "from": "2.0-1", "to": None}, {"name": "gofer-two", "from": "1.0-1", "to": None}]
        dnf.Package().install("gofer-two")
        status, plan = dnf.Package().remove("gofer-one", dry_run=True)
        assert (status, plan["changes"]) == (0, gone)
        status, done = dnf.Package().remove("gofer-two")
        assert (status, done["changes"], dnf_root.installed()) == (0, gone[1:], ["gofer-one-2.0"])
        assert done["rollback"] == {"remove": [], "install": ["gofer-two=1.0-1"]}

    def test_what_there_is_not(self, dnf: Agent, dnf_root: DnfRoot) -> None:
        for method, names in (("install", "gofer-no"), ("install", "gofer-one=9"), ("update", "gofer-no")):
            for dry_run in (False, True):
                status, done = dnf.Package()[method](names, dry_run)
                assert (status, done["changes"]) == (1, [])
                assert done["stderr"]
        assert dnf.Package().remove("gofer-no")[0] == 0
        assert dnf_root.installed() == []

    def test_a_locked_database_and_a_killed_agent(
        self, dnf: Agent, dnf_root: DnfRoot, process: AgentProcess, threads: ThreadPoolExecutor
    ) -> None:
        call = begin_slow(dnf, threads, dnf_root.root)
        process.kill()
        process.start()
        with pytest.raises(Interrupted):
            call.result(60)
        told = Told("locked by process")
        next_one = threads.submit(dnf(progress=told).Package().install, "gofer-one")
        told.wait()
        (dnf_root.root / "go").touch()
        assert next_one.result(60)[0] == 0
        assert dnf_root.installed() == ["gofer-one-2.0", "gofer-slow-1.0"]

    def test_a_cancelled_change_ends_at_a_safe_point(
        self, dnf: Agent, dnf_root: DnfRoot, threads: ThreadPoolExecutor
    ) -> None:
        call = begin_slow(dnf, threads, dnf_root.root)
        dnf.Admin().cancel(criteria={"eq": "slow"})
        with pytest.raises(TimeoutError):
            call.result(1)
        (dnf_root.root / "go").touch()
        _, done = call.result(30)
        assert (done["changes"], done["cancelled"]) == ([{**SLOW, "to": "1.0-1"}], True)
        assert dnf_root.installed() == ["gofer-slow-1.0"]


class TestAccess:
    def test_an_unsigned_call_is_rejected(self, process: AgentProcess, apt: Agent) -> None:
        with Agent(f"local://{process.root}/broker.sock", "package", wait=30) as stranger:
            for method in ("refresh", "upgradable", "update"):
                with pytest.raises(Rejected):
                    stranger.Package()[method]()

    def test_without_an_authenticator_every_method_needs_roots_password(self, process: AgentProcess) -> None:
        with Agent(f"local://{process.root}/broker.sock", "open", wait=30) as unsigned:
            until_it_answers(unsigned)
            for method in ("refresh", "upgradable", "update"):
                with pytest.raises(UserRequired):
                    unsigned.Package()[method]()

    @pytest.mark.parametrize(
        ("settings", "conf", "said"),
        [
            ("", "[pam]\nservice = gofer-no-such\n", "callers cannot be identified: there is no authenticator, and"),
            ("manager = pacman", "", "[package] manager is 'pacman'; allowed: auto, apt, dnf, yum"),
            ("conffiles = maybe", "", "[package] conffiles is 'maybe'; allowed: keep, replace"),
            ("lock_wait = soon", "", "[package] lock_wait: 'soon' is not a duration; allowed: seconds as a number"),
            ("stop_wait = -1", "", "[package] stop_wait: '-1' is not a duration"),
        ],
    )
    def test_what_is_unsafe_or_wrong_is_not_loaded(self, root: Path, settings: str, conf: str, said: str) -> None:
        with AgentProcess(root) as process:
            process.configure(conf)
            process.descriptor("package", DESCRIPTOR.format(url="local://", queue="p", trust="", settings=settings))
            process.start()
            assert said in process.log.read_text()

    def test_a_machine_without_a_package_manager_gets_an_error(self, root: Path) -> None:
        with AgentProcess(root, environ={"PATH": "/nonexistent"}) as process:
            process.descriptor("package", DESCRIPTOR.format(url="local://", queue="p", trust="", settings=""))
            process.start()
            assert "neither apt-get, dnf nor yum is in the agent's PATH" in process.log.read_text()


def test_the_machines_own_packages_were_not_touched() -> None:
    done = subprocess.run(["dpkg-query", "-W", "gofer-*"], check=False, capture_output=True, text=True)
    assert done.stdout == ""
