"""The agent's settings: defaults, merging, what is said about each slip; durations; and that the table is whole."""

from __future__ import annotations

import json
import logging
import math
import os
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import pytest
from gofer.agent.config import (
    AgentConfig,
    LoggingConfig,
    MainConfig,
    ManagementConfig,
    MessagingConfig,
    PamConfig,
    Problem,
    read_agent,
)
from gofer.agent.config.agent import AGENT
from gofer.agent.config.descriptor import DESCRIPTOR
from gofer.agent.config.keys import Schema
from gofer.duration import parse_duration
from gofer.errors import ConfigError
from gofer.root import Root
from hypothesis import given
from hypothesis import strategies as st

SECONDS = "seconds, or a number followed by s, m, h or d, like 30s or 5m"


def configure(root: Path, **files: str | object) -> tuple[AgentConfig, list[str]]:
    """Write ``agent_conf`` and files of ``conf.d`` (named ``a_conf``, ``b_json``); return what is read and said."""
    for name, content in files.items():
        path = Root(root).etc / ("agent.conf" if name == "agent_conf" else f"conf.d/{name.replace('_', '.')}")
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    config, problems = read_agent(Root(root))
    return config, [str(problem).removeprefix(f"{Root(root).etc}/") for problem in problems]


# -- values --------------------------------------------------------------------------------------------------------


def test_without_any_file_the_defaults_stand(root: Path) -> None:
    defaults = AgentConfig(
        MainConfig(shutdown_timeout=30.0),
        ManagementConfig(enabled=False, host="localhost", port=5650),
        LoggingConfig(levels={}, file=None, format="text"),
        PamConfig(service=None),
        MessagingConfig(adapter=None, reconnect_max=30.0, max_message=16 * 1024 * 1024),
    )

    assert configure(root) == (defaults, [])
    assert AgentConfig() == defaults
    assert read_agent(Root(root / "nowhere")) == (defaults, [])


@pytest.mark.parametrize("kind", ["agent_conf", "a_conf", "a_json"])
def test_every_key_is_read_from_each_kind_of_file(root: Path, kind: str) -> None:
    sections = {
        "main": {"shutdown_timeout": "2m"},
        "management": {"enabled": "1", "host": "::1", "port": "5651"},
        "logging": {
            "root": "debug",
            "gofer.agent": "Warn",
            "urllib3": "FATAL",
            "log-file": "agent",
            "log-format": "JSON",
        },
        "pam": {"service": "gofer"},
        "messaging": {"adapter": "proton", "reconnect_max": "2", "max_message": "1MiB"},
    }
    ini = "".join(f"[{name}]\n" + "".join(f"{k}={v}\n" for k, v in keys.items()) for name, keys in sections.items())

    config, said = configure(root, **{kind: sections if kind == "a_json" else ini})
    assert said == []
    assert config == AgentConfig(
        MainConfig(120.0),
        ManagementConfig(True, "::1", 5651),
        LoggingConfig(
            Root(root).log / "agent",
            "json",
            {"root": logging.DEBUG, "gofer.agent": logging.WARNING, "urllib3": logging.CRITICAL},
        ),
        PamConfig("gofer"),
        MessagingConfig("proton", 2.0, 1 << 20),
    )


@pytest.mark.parametrize("word", ["CRITICAL", "DEBUG", "ERROR", "FATAL", "INFO", "WARN", "WARNING"])
@pytest.mark.parametrize("change", [str.upper, str.lower, str.title])
def test_levels_are_known_in_any_case(root: Path, word: str, change: object) -> None:
    assert callable(change)
    config, said = configure(root, agent_conf=f"[logging]\ngofer={change(word)}\n")

    assert (dict(config.logging.levels), said) == ({"gofer": getattr(logging, word)}, [])


@pytest.mark.parametrize(
    ("text", "size"),
    [("1048576", 1 << 20), ("16M", 16 << 20), ("16 MiB", 16 << 20), ("64k", 64 << 10), ("64KIB", 64 << 10)],
)
def test_sizes_may_be_written_with_a_unit(root: Path, text: str, size: int) -> None:
    config, said = configure(root, agent_conf=f"[messaging]\nmax_message={text}\n")

    assert (config.messaging.max_message, said) == (size, [])


def test_an_absolute_log_file_stays_where_it_is(root: Path) -> None:
    config, _ = configure(root, agent_conf="[logging]\nlog-file=/srv/log/x\n")

    assert config.logging.file == Path("/srv/log/x")


def test_settings_are_frozen_and_show_no_password(root: Path) -> None:
    config, _ = configure(root, agent_conf="[logging]\ngofer=DEBUG\n[messaging]\nproxy=http://u:hunter2@h\n")

    assert config.messaging.proxy == "http://u:hunter2@h"
    assert "hunter2" not in repr(config)
    with pytest.raises(AttributeError):
        config.main.shutdown_timeout = 1.0  # type: ignore[misc]  # that is the point
    with pytest.raises(TypeError):
        config.logging.levels["x"] = 1  # type: ignore[index]  # that is the point
    assert config == read_agent(Root(root))[0]


# -- merging -------------------------------------------------------------------------------------------------------


def test_later_files_win_key_by_key_in_the_order_of_their_names(root: Path) -> None:
    config, said = configure(
        root,
        agent_conf="[management]\nenabled=1\nport=1\nhost=a\n[logging]\ngofer=INFO\nroot=INFO\n",
        c_conf="[management]\nport=4\n",
        b_json={"management": {"port": 3, "host": "b"}, "logging": {"gofer": "DEBUG"}},
        a_conf="[management]\nport=2\n",
    )

    assert said == []
    assert config.management == ManagementConfig(True, "b", 4)
    assert config.logging.levels == {"gofer": logging.DEBUG, "root": logging.INFO}


def test_only_conf_and_json_files_that_are_not_hidden_are_merged(root: Path) -> None:
    for name in (".a.conf", "a.conf~", "a.ini", "b.conf.dpkg-old"):
        (Root(root).conf_d / name).write_text("junk")

    config, said = configure(root)
    assert config == AgentConfig()
    (line,) = said
    assert line.startswith("conf.d/a.ini: is not read; allowed: names that end in .conf or .json; if it has lines of ")
    assert line.endswith("rename it to a.conf")

    Root(root).agent_conf.with_suffix(".json").write_text("{}")
    assert configure(root)[1][0].startswith("agent.json: is not read; allowed: ")


def test_a_wrong_value_leaves_the_one_before_it(root: Path) -> None:
    config, said = configure(
        root,
        agent_conf="[management]\nport=1000\n",
        a_conf="[management]\nport=many\nenabled=1\n",
    )

    assert config.management == ManagementConfig(True, "localhost", 1000)
    assert said == [
        "conf.d/a.conf: [management] port: 'many' is not a whole number; allowed: a whole number from 1 to 65535"
    ]


def test_a_broken_file_is_one_line_and_the_others_count(root: Path) -> None:
    config, said = configure(
        root, agent_conf="[pam]\nservice=x\n", a_conf="\0", b_json="[", c_conf="[management]\nenabled=on\n"
    )

    assert config == AgentConfig(management=ManagementConfig(enabled=True), pam=PamConfig("x"))
    assert len(said) == 2
    assert said[0] == "conf.d/a.conf: has a NUL byte at offset 0; allowed: UTF-8 text"
    assert said[1].startswith("conf.d/b.json: is not JSON: ")


def test_empty_files_say_nothing(root: Path) -> None:
    assert configure(root, agent_conf="", a_conf="# nothing\n", b_json={}) == (AgentConfig(), [])


# -- what is said --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (
            "[main]\nshutdown_timeout=soon\n",
            f"[main] shutdown_timeout: 'soon' is not a duration; allowed: {SECONDS}",
        ),
        (
            "[management]\nenabled=perhaps\n",
            "[management] enabled: 'perhaps' is neither yes nor no; allowed: 0, 1, yes, no, true, false, on, off",
        ),
        (
            "[management]\nhost=0.0.0.0\n",
            (
                "[management] host: '0.0.0.0' can be reached by other machines; "
                "allowed: localhost, 127.0.0.1, ::1, or a name for one of these"
            ),
        ),
        (
            "[management]\nhost=::\n",
            (
                "[management] host: '::' can be reached by other machines; "
                "allowed: localhost, 127.0.0.1, ::1, or a name for one of these"
            ),
        ),
        ("[management]\nport=0\n", "[management] port: '0' is out of range; allowed: a whole number from 1 to 65535"),
        (
            "[logging]\ngofer=LOUD\n",
            (
                "[logging] gofer: 'LOUD' is not a level; "
                "allowed: CRITICAL, DEBUG, ERROR, FATAL, INFO, WARN, WARNING (in any case)"
            ),
        ),
        ("[logging]\nlog-format=xml\n", "[logging] log-format: invalid value 'xml'; allowed: text, json"),
        (
            "[messaging]\nmax_message=16MB\n",
            (
                "[messaging] max_message: '16MB' is not a size; "
                "allowed: bytes, or a number followed by K, M or G (KiB, MiB, GiB), from 1 KiB to 128 MiB"
            ),
        ),
        (
            "[messaging]\nmax_message=1G\n",
            (
                "[messaging] max_message: '1G' is out of range; "
                "allowed: bytes, or a number followed by K, M or G (KiB, MiB, GiB), from 1 KiB to 128 MiB"
            ),
        ),
        (
            "[messaging]\nreconnect_max=0\n",
            f"[messaging] reconnect_max: '0' is out of range; allowed: {SECONDS}, more than 0, at most 86400",
        ),
        (
            "[pam]\nservice=../su\n",
            (
                "[pam] service: '../su' is not a name; "
                "allowed: letters, digits, '_', '-' and '.', not starting with '-' or '.', at most 100 of them"
            ),
        ),
    ],
)
def test_a_wrong_value_is_an_error_that_says_what_is_allowed(root: Path, content: str, line: str) -> None:
    config, said = configure(root, agent_conf=content)

    assert said == [f"agent.conf: {line}"]
    assert [problem.severity for problem in read_agent(Root(root))[1]] == ["error"]
    assert config == AgentConfig()


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (
            "[managment]\nenabled=1\n",
            (
                "[managment]: unknown section, ignored; did you mean [management]? "
                "allowed: [main], [management], [logging], [pam], [messaging], [fleet], [groups]"
            ),
        ),
        (
            "[zzz]\n",
            (
                "[zzz]: unknown section, ignored; "
                "allowed: [main], [management], [logging], [pam], [messaging], [fleet], [groups]"
            ),
        ),
        (
            "[management]\nprot=1\n",
            "[management] prot: unknown key, ignored; did you mean port? allowed: enabled, host, port",
        ),
        (
            "[main]\nport=1\n",
            "[main] port: unknown key, ignored; it belongs in [management]; allowed: shutdown_timeout",
        ),
        (
            "[logging]\nlog-fiel=x\n",
            (
                "[logging] log-fiel: unknown key, ignored; did you mean log-file? "
                "allowed: log-file, log-format, <package>"
            ),
        ),
        (
            "[main]\nmonitor=1\n",
            (
                "[main] monitor: no longer used: descriptors are not watched for changes; "
                "send SIGHUP or use `gofer agent reload`"
            ),
        ),
        (
            "[messaging]\nurl=amqp://u:hunter2@h\n",
            "[messaging] url: no longer used: brokers are named in the plugins' descriptors",
        ),
        ("[loader]\neager=0\n", "[loader]: no longer used: plugins are always loaded at start"),
    ],
)
def test_what_is_not_known_is_a_warning_that_names_what_is(root: Path, content: str, line: str) -> None:
    config, said = configure(root, agent_conf=content)

    assert said == [f"agent.conf: {line}"]
    assert [problem.severity for problem in read_agent(Root(root))[1]] == ["warning"]
    assert config == AgentConfig()


def test_a_name_that_no_package_can_have_is_no_level(root: Path) -> None:
    _, said = configure(root, agent_conf="[logging]\n1x=DEBUG\ngofer..x=DEBUG\n")

    assert [line.partition(":")[2].split(":")[0] for line in said] == [" [logging] 1x", " [logging] gofer..x"]


def test_a_dangling_agent_conf_is_an_error(root: Path) -> None:
    Root(root).agent_conf.symlink_to("/no/such/file")

    assert configure(root)[1] == ["agent.conf: is a symbolic link to '/no/such/file', which does not exist"]


@pytest.mark.timeout(60)
def test_a_fifo_is_an_error_and_never_waited_for(root: Path) -> None:
    os.mkfifo(Root(root).agent_conf)

    assert configure(root)[1] == ["agent.conf: is a FIFO; allowed: a regular file, or a link to one"]


def test_a_conf_d_that_is_no_directory_is_an_error(root: Path) -> None:
    Root(root).conf_d.rmdir()
    Root(root).conf_d.touch()

    assert configure(root)[1] == ["conf.d: directory cannot be read: Not a directory"]


def test_a_problem_is_one_line_whatever_is_in_it() -> None:
    problem = Problem("error", "a\nb", "c\nd", "e\tf", "g\nh")

    assert str(problem) == r"'a\nb': ['c\nd'] 'e\tf': g h"
    assert str(Problem("warning", "/x", None, None, "y")) == "/x: y"
    assert str(Problem("warning", "/x", "s", None, "y")) == "/x: [s]: y"


# -- durations -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (0, 0.0),
        (30, 30.0),
        (1.5, 1.5),
        ("30", 30.0),
        ("30s", 30.0),
        ("5m", 300.0),
        ("2h", 7200.0),
        ("1d", 86400.0),
        ("0.5h", 1800.0),
        (".5", 0.5),
        (" 2 m ", 120.0),
    ],
)
def test_durations_are_numbers_or_text_with_a_unit(value: float | str, seconds: float) -> None:
    assert parse_duration(value) == seconds
    assert isinstance(parse_duration(value), float)


@pytest.mark.parametrize(
    "value",
    [
        "",
        "s",
        "5w",
        "5M",
        "-1",
        "+1",
        "1e3",
        "nan",
        "inf",
        "1 2",
        "5m30s",
        "\u0665",
        "9" * 400,
        "1d" * 500,
        -1,
        -0.1,
        math.nan,
        math.inf,
        10**400,
    ],
)
def test_what_is_no_duration_is_an_error_that_says_what_is(value: float | str) -> None:
    with pytest.raises(ConfigError, match=r"allowed: seconds as a number, .*'30s', '5m', '2h', '1d'$") as caught:
        parse_duration(value)
    assert len(str(caught.value)) < 400


def test_an_int_that_cannot_even_be_printed_is_no_duration() -> None:
    with pytest.raises(ConfigError, match="too long"):
        parse_duration(10**5000)


@pytest.mark.parametrize("value", [True, None, b"5", [5], {}])
def test_a_duration_of_a_wrong_type_is_a_type_error(value: object) -> None:
    with pytest.raises(TypeError, match=r"^a duration is seconds as a number"):
        parse_duration(value)  # type: ignore[arg-type]  # that is the point


@given(st.decimals(0, 10**9, places=3), st.sampled_from("smhd"), st.text(" ", max_size=2))
def test_a_number_and_a_unit_are_that_many_seconds(number: Decimal, unit: str, space: str) -> None:
    seconds = number * {"s": 1, "m": 60, "h": 3600, "d": 86400}[unit]
    assert parse_duration(f"{space}{number:f}{space}{unit}{space}") == pytest.approx(float(seconds))
    assert parse_duration(f"{number:f}") == parse_duration(float(number)) == float(number)


@given(st.text() | st.text("0123456789. smhd-+e", max_size=8) | st.floats() | st.integers())
def test_any_text_or_number_is_a_duration_or_a_config_error(value: float | str) -> None:
    try:
        seconds = parse_duration(value)
    except ConfigError:
        return
    assert math.isfinite(seconds)
    assert seconds >= 0


# -- the tables ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("schema", [AGENT, DESCRIPTOR], ids=["agent", "descriptor"])
def test_the_table_of_keys_is_whole(schema: Schema) -> None:
    for key in schema.keys:
        assert key.section in schema.sections
        assert key.kind.allowed
        assert key.sentence.endswith(".")
        if isinstance(key.default, str | int | float):  # a default is one of the values that are allowed
            assert key.kind.read(key.default) == key.default, (key.section, key.name)
    names = [(key.section, key.name) for key in schema.keys]
    assert len(names) == len(set(names))
    assert not set(names) & set(schema.retired)


def test_keys_of_our_own_among_loggers_cannot_be_packages() -> None:
    ours = [key.name for key in AGENT.of("logging") if key.pattern is None]

    assert ours == ["log-file", "log-format"]
    assert not any(name.replace(".", "").isidentifier() for name in ours)


def test_a_command_for_the_agent_imports_nothing_that_runs_plugins() -> None:
    code = "import sys, gofer.tools.agent, gofer.tools.agent_client; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=30)
    agent = [name for name in done.stdout.split() if name.startswith(("gofer.agent.", "gofer.rmi."))]

    assert {name.split(".")[2] for name in agent if name.startswith("gofer.agent.")} == {"config", "management"}
    assert {name for name in agent if name.startswith("gofer.rmi.")} == {"gofer.rmi.server", "gofer.rmi.server.access"}


def test_reading_configuration_imports_nothing_heavy() -> None:
    code = "import sys, gofer.agent.config; print(*sorted(name for name in sys.modules if name.startswith('gofer')))"
    code += "; print(*sorted({'click', 'rich', 'stevedore', 'pluggy', 'asyncio', 'socket', 'ssl'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=30)
    ours, heavy = done.stdout.splitlines()
    beyond = [name for name in ours.split() if not name.startswith("gofer.agent.config")]

    assert heavy == ""
    assert set(beyond) <= {
        "gofer",
        "gofer.agent",
        "gofer.duration",
        "gofer.errors",
        "gofer.messaging",
        "gofer.messaging.address",
        "gofer.messaging.connector",
        "gofer.messaging.proxies",
        "gofer.messaging.url",
        "gofer.ownership",
        "gofer.rmi",
        "gofer.rmi.server",
        "gofer.rmi.server.access",
        "gofer.root",
        "gofer.sections",
        "gofer.suggest",
    }
