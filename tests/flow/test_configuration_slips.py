"""Slips in configuration that were once passed over without a word: goferd tells each, and so does --check."""

from __future__ import annotations

from pathlib import Path

import pytest
from gofer.proxy import Agent
from support.commands import check_goferd
from support.goferd import AgentProcess
from support.localbroker import LocalBroker
from support.plugins import describe, install
from support.presence import until_it_answers

DOG = """
from gofer.decorators import remote


class Dog:
    @remote
    def bark(self):
        return "woof"
"""

OLD = """
@import:/etc/gofer/common
enabled=0
[main]
enabled=0
threads=4

[main]
enabled=0
enabled=1
accept=,
forward=,
bark loudly

[messaging]
url={url}

[model]
queue=old dogs
expiration=0
"""


def check(process: AgentProcess) -> tuple[int, list[str]]:
    done = check_goferd(process.root)
    assert done.stderr == ""
    return done.returncode, done.stdout.splitlines()


@pytest.fixture
def process(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AgentProcess:
    install(tmp_path, "dog", DOG)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return AgentProcess(root)


def test_a_descriptor_of_gofer_2_is_read_as_it_was_and_what_is_odd_is_reported(
    process: AgentProcess, tmp_path: Path
) -> None:
    with LocalBroker(str(tmp_path / "broker.sock")) as broker, process:
        file = describe(process.root, "dog", OLD.format(url=broker.url))
        says = [
            "line 2 is @import, which gofer 2 ignored, too: ",
            "line 3 stands before any section; it is ignored",
            "[main]: the section is there twice, in lines 4 and 8; the last one is used as a whole",
            "[main] enabled: the key is there twice, in lines 9 and 10; the last one is used",
            "[main]: line 13 has no key, or no '=' after it; it is ignored",
            "[main]: not used, because the section is there twice: threads",
            "[model] queue: 'old dogs' has a space in it, ",
        ]
        status, checked = check(process)
        process.start()
        log = process.log.read_text()
        for line in says:
            assert any(one.startswith(f"warning: {file}: {line}") for one in checked), line
            assert f" WARNING gofer.agent.main: {file}: {line}" in log, line
        assert status == 0
        with Agent(broker.url, "old dogs", wait=20) as agent:
            assert until_it_answers(agent, process.tail()).Dog().bark() == "woof"


def test_a_file_that_is_not_read_is_reported(process: AgentProcess) -> None:
    with process:
        others = {
            "plugins/foo.yaml": "; if it has lines of [section] and key = value, rename it to foo.conf",
            "conf.d/x.cfg": "; if it has lines of [section] and key = value, rename it to x.conf",
            "plugins/dog.py": "",
        }
        for name in others:
            (process.root / "etc/gofer" / name).write_text("[main]\nenabled=1\n")
        status, checked = check(process)
        process.start()
        log = process.log.read_text()
        for name, hint in others.items():
            line = f"{process.root}/etc/gofer/{name}: is not read; allowed: names that end in .conf or .json{hint}"
            assert f"warning: {line}" in checked
            assert f"{line}\n" in log
        assert status == 0


@pytest.mark.parametrize(
    ("name", "text"),
    [("dog.conf", "[main]\nenabled = 1\n[model]\nqueue = dogs\n"), ("dog.json", '{"main": {"enabled": 1}}')],
)
def test_a_descriptor_beside_its_directory_is_reported(process: AgentProcess, name: str, text: str) -> None:
    with process:
        process.configure("[main]\nshutdown_timeout = 5\n")
        place = process.root / "etc/gofer"
        (place / name).write_text(text)
        (place / "caller.conf").write_text("[profile default]\nurl = local://\n")
        status, checked = check(process)
        line = f"{place / name}: is not read, and looks like a plugin's descriptor; to have it read, move it to "
        assert [one for one in checked if one.startswith("warning: ")] == [f"warning: {line}{place / 'plugins'}"]
        assert status == 0
        process.start()
        assert f" WARNING gofer.agent.main: {line}" in process.log.read_text()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[model]\nqueue=k # comment\n", "[model] queue: has a comment after its value; write comments on their own "),
        (
            "[messaging]\nauthenticator hmac\n",
            "[messaging]: line 4 has no key, or no '=' after it, and it may be auth",
        ),
        (
            "[model]\ntype=quorom\n",
            "[model] type: invalid value 'quorom' (did you mean quorum?); allowed: classic, quo",
        ),
    ],
)
def test_what_might_open_a_door_or_another_queue_is_an_error(process: AgentProcess, text: str, says: str) -> None:
    with process:
        file = describe(process.root, "dog", f"[main]\nenabled=1\n{text}")
        status, checked = check(process)
        assert any(line.startswith(f"error: {file}: {says}") for line in checked), checked
        assert status == 1
        process.start()
        assert f" ERROR gofer.agent.main: {file}: {says}" in process.log.read_text()
