"""Which adapter serves a URL, and what one hears when none does, with real distributions on a path of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import stevedore
from gofer import entry_points
from gofer.errors import AdapterError, PluginError
from gofer.messaging.adapters import find, installed
from gofer.messaging.local import adapter as local
from gofer.messaging.url import URL
from support.waiting import eventually

Install = Callable[..., Path]

_ADAPTER = """
from gofer.messaging.local.adapter import LocalAdapter

class {name}(LocalAdapter):
    pass
"""


@pytest.fixture
def only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Give a function that installs a distribution where no others are."""
    place = tmp_path / "site"
    place.mkdir()
    # Without the distributions of this environment, but with its modules.
    kept = [entry for entry in sys.path if not list(Path(entry or ".").glob("*.dist-info"))]
    monkeypatch.setattr(sys, "path", [str(place), *kept])
    before = set(sys.modules)
    assert {local.__name__, stevedore.__name__} <= before  # they cannot be imported from here on

    def install(
        distribution: str, code: str, group: str = "gofer.adapters", version: str = "1.0", **points: str
    ) -> Path:
        module = distribution.replace("-", "_")
        monkeypatch.delitem(sys.modules, module, raising=False)  # the real one, if a test of it ran in this process
        (place / f"{module}.py").write_text(code)
        info = place / f"{module}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
        lines = "".join(f"{name.replace('__', '.').replace('_', '-')} = {module}{to}\n" for name, to in points.items())
        (info / "entry_points.txt").write_text(f"[{group}]\n{lines}")
        return place

    yield install
    for name in set(sys.modules) - before:
        if (getattr(sys.modules[name], "__file__", None) or "").startswith(str(place)):
            del sys.modules[name]


def test_what_no_file_descriptor_was_left_to_read_is_read_later() -> None:
    script = """
import os, resource
from gofer import entry_points
resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))
taken = []
try:
    while True:
        taken.append(os.dup(0))
except OSError:
    pass
before = entry_points.scan("gofer.adapters")
for descriptor in taken:
    os.close(descriptor)
print(len(before), "local" in {one.name for one in entry_points.scan("gofer.adapters")})
"""
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert ended.stdout == "0 True\n"


def test_the_name_in_the_url_decides(only: Install) -> None:
    only("gofer-adapter-amqp", _ADAPTER.format(name="A"), amqp=":A", rabbit=":A")
    only("gofer-adapter-other", _ADAPTER.format(name="B"), other=":B")
    assert find(URL.parse("other+amqp://h")).__name__ == "B"
    assert find(URL.parse("rabbit+amqp://h"), "other").__name__ == "A"


def test_local_is_found_by_its_protocol() -> None:
    for url in (URL.parse("local://"), URL.parse("local:///x.sock"), URL("", "local")):
        assert find(url, "amqp").__name__ == "LocalAdapter"


@pytest.mark.parametrize("protocol", ["amqp", "tcp", "ssl", "amqps"])
def test_without_a_name_the_preferred_one_or_the_first_installed_of_ours(only: Install, protocol: str) -> None:
    url = URL.parse(f"{protocol}://h")
    only("gofer-adapter-aaa", _ADAPTER.format(name="Third"), aaa=":Third")
    only("gofer-adapter-qpid", _ADAPTER.format(name="Qpid"), qpid=":Qpid")
    assert find(url).__name__ == "Qpid"
    only("gofer-adapter-proton", _ADAPTER.format(name="Proton"), proton=":Proton")
    assert find(url).__name__ == "Proton"
    only("gofer-adapter-amqp", _ADAPTER.format(name="Amqp"), amqp=":Amqp")
    assert find(url).__name__ == "Amqp"
    assert find(url, "aaa").__name__ == "Third"


@pytest.mark.parametrize("name", ["qpid", "amqp-0-10", "qpid.messaging"])
def test_qpid_falls_back_to_proton_until_it_is_installed(only: Install, name: str) -> None:
    only("gofer-adapter-proton", _ADAPTER.format(name="Proton"), proton=":Proton")
    assert find(URL.parse(f"{name}+amqp://h")).__name__ == "Proton"
    only("gofer-adapter-qpid", _ADAPTER.format(name="Qpid"), qpid=":Qpid", amqp_0_10=":Qpid", qpid__messaging=":Qpid")
    assert find(URL.parse(f"{name}+amqp://h")).__name__ == "Qpid"


def test_nothing_installed_says_what_to_install(only: Install) -> None:
    with pytest.raises(AdapterError, match=r"installed: none\. To install it: pip install gofer-adapter-amqp$"):
        find(URL.parse("amqp://h"))


@pytest.mark.parametrize(
    ("scheme", "says"),
    [
        ("rabbitmq+amqp", "installed: more, some. To install it: pip install gofer-adapter-amqp"),
        ("qpid+amqp", "installed: more, some. To install it: pip install gofer-adapter-qpid"),
        ("qpid.messaging+amqp", "installed: more, some. To install it: pip install gofer-adapter-qpid"),
        ("proton+amqps", "installed: more, some. To install it: pip install gofer-adapter-proton"),
        ("amqp-1-0+tcp", "installed: more, some. To install it: pip install gofer-adapter-proton"),
        ("mroe+amqp", "is not installed (did you mean 'more'?); installed: more, some"),
        ("strange+amqp", "is not installed; installed: more, some"),
    ],
)
def test_an_unknown_name_says_what_is_installed_and_what_serves(only: Install, scheme: str, says: str) -> None:
    """pip is named for this project's own: anybody may publish a distribution under a name that somebody mistyped."""
    only("gofer-adapter-some", _ADAPTER.format(name="Some"), some=":Some", more=":Some")
    with pytest.raises(AdapterError) as caught:
        find(URL.parse(f"{scheme}://user:hidden@h"))
    assert repr(scheme.partition("+")[0]) in str(caught.value)
    assert str(caught.value).endswith(says)
    assert "hidden" not in str(caught.value)


def test_a_preferred_adapter_that_is_missing_is_reported(only: Install) -> None:
    only("gofer-adapter-amqp", _ADAPTER.format(name="Amqp"), amqp=":Amqp")
    with pytest.raises(AdapterError, match=r"the preferred adapter 'proton' is not installed; installed: amqp\."):
        find(URL.parse("amqp://h"), "proton")


def test_two_distributions_with_one_name_are_both_reported(only: Install) -> None:
    only("gofer-adapter-amqp", _ADAPTER.format(name="A"), amqp=":A")
    only("impostor", _ADAPTER.format(name="B"), amqp=":B", version="2.5")
    with pytest.raises(AdapterError, match=r"claimed by gofer-adapter-amqp 1\.0 and impostor 2\.5"):
        find(URL.parse("amqp://h"))


@pytest.mark.parametrize(
    "code", ["import no_such_module_at_all", "raise RuntimeError('broken')", "raise SystemExit(3)"]
)
def test_an_adapter_that_cannot_be_imported_is_reported_with_its_distribution(only: Install, code: str) -> None:
    only("gofer-adapter-amqp", code, amqp=":A")
    with pytest.raises(AdapterError, match=r"gofer-adapter-amqp 1\.0") as caught:
        find(URL.parse("amqp://h"))
    assert any(word in str(caught.value) for word in ("no_such_module_at_all", "broken", "SystemExit: 3"))


def test_an_adapter_without_its_class_is_reported_with_its_distribution(only: Install) -> None:
    only("gofer-adapter-amqp", "", amqp=":Missing")
    with pytest.raises(AdapterError, match=r"gofer-adapter-amqp 1\.0.*Missing"):
        find(URL.parse("amqp://h"))


def test_what_is_no_adapter_is_reported_with_its_distribution(only: Install) -> None:
    only("gofer-adapter-amqp", "class A: pass", amqp=":A")
    with pytest.raises(AdapterError, match=r"gofer-adapter-amqp 1\.0.*not a subclass of Adapter"):
        find(URL.parse("amqp://h"))


def test_only_what_is_asked_for_is_imported(only: Install) -> None:
    only("gofer-adapter-amqp", _ADAPTER.format(name="A"), amqp=":A")
    only("gofer-adapter-bomb", "raise SystemExit('imported')", bomb=":B")
    assert [one.name for one in installed()] == ["amqp", "bomb"]
    assert "gofer_adapter_amqp" not in sys.modules or "site" not in str(sys.modules["gofer_adapter_amqp"].__file__)
    assert find(URL.parse("amqp://h")).__name__ == "A"


def test_what_is_installed_is_listed_without_importing_it(only: Install) -> None:
    only("gofer-adapter-b", "raise SystemExit", version="0.9", zed=":Z", alpha=":A")
    only("gofer-adapter-a", "raise SystemExit", alpha=":A")
    assert [(one.name, one.distribution, one.version, one.value) for one in installed()] == [
        ("alpha", "gofer-adapter-a", "1.0", "gofer_adapter_a:A"),
        ("alpha", "gofer-adapter-b", "0.9", "gofer_adapter_b:A"),
        ("zed", "gofer-adapter-b", "0.9", "gofer_adapter_b:Z"),
    ]


def test_what_is_installed_while_we_run_is_found(only: Install) -> None:
    assert entry_points.listed("gofer.things") == []
    with pytest.raises(PluginError, match=r"nothing named 'thing' is installed in gofer\.things; installed: nothing"):
        entry_points.load("gofer.things", "thing")
    only("late", "value = 42", group="gofer.things", thing=":value", whole="")
    assert entry_points.load("gofer.things", "thing") == 42
    assert entry_points.load("gofer.things", "whole") is sys.modules["late"]


def test_what_is_installed_is_read_once_until_the_path_changes(only: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    place = only("first", "value = 1", group="gofer.things", one=":value")
    monkeypatch.setattr(sys, "path", [str(place)])
    assert entry_points.load("gofer.things", "one") == 1
    os.utime(place, (1e9, 1e9))  # the installation has ended long ago, and what was imported was compiled
    assert [one.name for one in entry_points.listed("gofer.things")] == ["one"]
    (place / "first-1.0.dist-info" / "entry_points.txt").unlink()
    for _ in range(3):
        assert entry_points.load("gofer.things", "one") == 1
    only("second", "value = 2", group="gofer.things", two=":value")
    assert entry_points.load("gofer.things", "two") == 2
    assert [one.name for one in entry_points.listed("gofer.things")] == ["two"]


def test_an_installation_that_is_still_being_written_is_found(only: Install) -> None:
    place = only("slow", "value = 3", group="gofer.things", three=":value")
    entries = place / "slow-1.0.dist-info" / "entry_points.txt"
    text = entries.read_text()
    entries.unlink()
    assert entry_points.listed("gofer.things") == []
    entries.write_text(text)  # its directory is as it was
    assert eventually(lambda: [one.name for one in entry_points.listed("gofer.things")]) == ["three"]


@pytest.mark.parametrize("home", ["a directory", "no directory"])
def test_loading_neither_needs_nor_writes_a_home(tmp_path: Path, home: str) -> None:
    place = tmp_path / "home"
    place.mkdir()
    environ = {name: value for name, value in os.environ.items() if name != "XDG_CACHE_HOME"}
    environ["HOME"] = str(place) if home == "a directory" else "/dev/null/home"
    code = (
        "import logging; logging.basicConfig(level=logging.INFO)\n"
        "from gofer.messaging.adapters import find; from gofer.messaging.url import URL\n"
        "print(find(URL.parse('local://')).__name__)"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], env=environ, capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == ("LocalAdapter\n", "")
    assert list(place.iterdir()) == []
