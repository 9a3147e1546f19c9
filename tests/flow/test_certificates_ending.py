"""The agent warns of certificates that end soon: in its log once a day, in ``gofer mgt`` and ``goferd --check``."""

from __future__ import annotations

import json
import logging
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from gofer.agent.certificates import CertificateWatch
from gofer.agent.config import read_descriptor
from gofer.agent.plugin import State
from gofer.rmi.clock import Clock
from gofer.root import Root
from support import forkserver
from support.certificates import Certificates
from support.commands import gofer
from support.goferd import AgentProcess
from support.plugins import describe, install
from support.waiting import eventually

PLUGIN = "from gofer.decorators import remote\n\n@remote\ndef hello():\n    return 'hello'\n"


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    (tmp_path / "certificates").mkdir()
    return Certificates(tmp_path / "certificates")  # all end within 20 days


@pytest.fixture
def fresh(tmp_path: Path) -> Certificates:
    """Some that end in 200 days."""
    (tmp_path / "fresh").mkdir()
    found = Certificates(tmp_path / "fresh")
    for store in (found.store, found.other):
        for entry in store.entries():
            store.renew(entry, days=200)
            store.save(replace=True)
    return found


def tls(certificates: Certificates, *, client: bool = True, url: str = "amqps://127.0.0.1:1", more: str = "") -> str:
    files = f"cacert = {certificates.authority}\n"
    if client:
        files += f"clientcert = {certificates.client}\nclientkey = {certificates.client_key}\n"
    return f"[main]\nenabled = 1\nplugin = plain\n[messaging]\nurl = {url}\n{files}{more}"


@pytest.fixture
def goferd(root: Path, tmp_path: Path) -> Iterator[AgentProcess]:
    install(tmp_path, "plain", PLUGIN)
    with AgentProcess(root, path=(tmp_path,)) as goferd:
        yield goferd


def warnings(goferd: AgentProcess) -> list[str]:
    return [line for line in goferd.log.read_text().splitlines() if "certificate '" in line]


def test_the_log_and_gofer_mgt_name_the_file_the_plugins_and_the_day(
    goferd: AgentProcess, certificates: Certificates, fresh: Certificates
) -> None:
    goferd.descriptor("dogs", tls(certificates))
    goferd.descriptor("cats", tls(certificates, client=False))
    goferd.descriptor("birds", tls(fresh))
    goferd.start()
    lines = eventually(lambda: found if len(found := warnings(goferd)) >= 2 else None)
    assert len(lines) == 2
    (authority,) = [line for line in lines if "ca.pem" in line]
    (client,) = [line for line in lines if "clients/" in line]
    assert re.search(r"\(cacert of plugin cats, cacert of plugin dogs\) ends in 19 days, on 20\d\d-", authority)
    assert re.search(r"'gofer-client' in .*gofer-client.pem \(clientcert of plugin dogs\) ends in 9 days", client)
    assert "gofer certs renew" in client
    shown = gofer("mgt", "--show").stdout
    assert "(cacert of plugin cats, cacert of plugin dogs) ends in 19 days" in shown
    assert "fresh" not in "".join(line for line in shown.splitlines() if "ends in" in line)
    told = json.loads(gofer("mgt", "--show", "--json").stdout)["agent"]["certificates"]
    assert {(one["name"], one["days_left"], one["warning"] is None) for one in told} == {
        ("test authority", 19, False),
        ("gofer-client", 9, False),
        ("test authority", 199, True),
        ("gofer-client", 199, True),
    }
    # Renewed: nothing is left to be warned of, and nobody has restarted anything.
    for entry in certificates.store.entries():
        certificates.store.renew(entry, days=100)
        certificates.store.save(replace=True)
    assert "ends in" not in gofer("mgt", "--show").stdout


def test_certificates_of_the_authenticator_x509_count_too(goferd: AgentProcess, certificates: Certificates) -> None:
    settings = (
        f"[x509]\ncertificate = {certificates.client}\nkey = {certificates.client_key}\nca = {certificates.authority}\n"
    )
    goferd.descriptor(
        "plain",
        f"[main]\nenabled = 1\n[messaging]\nurl = local://\nauthenticator = x509\n{settings}[model]\nqueue = q\n",
    )
    goferd.start()
    lines = eventually(lambda: found if len(found := warnings(goferd)) >= 2 else None)
    assert all("(authenticator of plugin plain)" in line for line in lines)


def test_a_plain_connection_uses_none(goferd: AgentProcess, certificates: Certificates) -> None:
    goferd.descriptor("plain", tls(certificates, url="amqp://127.0.0.1:1"))
    goferd.start()
    assert json.loads(gofer("mgt", "--show", "--json").stdout)["agent"]["certificates"] == []


@pytest.mark.parametrize(
    ("days", "said"), [((-20, -3), "ended on 20"), ((-2, 1), "ends in 0 days"), ((-2, 2), "ends in 1 day, on 20")]
)
def test_check_warns_of_what_ends(
    root: Path, tmp_path: Path, fresh: Certificates, days: tuple[int, int], said: str
) -> None:
    install(tmp_path, "plain", PLUGIN)
    certificate, key = fresh.user("short", days=days)
    text = tls(fresh, client=False, more=f"clientcert = {certificate}\nclientkey = {key}\n")
    describe(root, "plain", text)
    status, lines = check(tmp_path)
    assert status == 0
    assert [line for line in lines if line.startswith("warning") and "[messaging] clientcert" in line and said in line]


def test_check_finds_files_that_no_connection_could_use(root: Path, tmp_path: Path, fresh: Certificates) -> None:
    install(tmp_path, "plain", PLUGIN)
    fresh.client_key.chmod(0o644)
    describe(root, "plain", tls(fresh))
    status, lines = check(tmp_path)
    assert status == 1
    assert any(line.startswith("error") and f"chmod 600 {fresh.client_key}" in line for line in lines)


def check(site: Path) -> tuple[int, list[str]]:
    code = "import sys; from gofer.agent.main import main; sys.exit(main(['--check']))"
    environ = {**os.environ, "PYTHONPATH": str(site)}
    done = forkserver.run([sys.executable, "-c", code], capture_output=True, text=True, env=environ, check=False)
    return done.returncode, done.stdout.splitlines()


class _Plugin:
    """As much of a plugin as the watch looks at."""

    state = State.RUNNING
    authenticator: Any = None

    def __init__(self, root: Path, text: str) -> None:
        described, problems = read_descriptor(Root(root), describe(root, "plain", text))
        assert described is not None, problems
        self.name, self.described, self.url = "plain", described, described.url


class TestOnceADay:
    def look(self, watch: CertificateWatch, caplog: pytest.LogCaptureFixture) -> int:
        caplog.clear()
        with caplog.at_level(logging.WARNING, "gofer.agent.certificates"):
            watch.look()
        return len(caplog.records)

    def test_each_is_warned_of_once_a_day_until_it_is_renewed(
        self, root: Path, certificates: Certificates, caplog: pytest.LogCaptureFixture
    ) -> None:
        now = [50_000.0]
        plugin: Any = _Plugin(root, tls(certificates))
        watch = CertificateWatch(Clock(), lambda: [plugin], lambda: now[0])
        counts = []
        for _ in range(50):  # hours
            counts.append(self.look(watch, caplog))
            now[0] += 3600
        assert [hour for hour, count in enumerate(counts) if count] == [0, 24, 48]
        assert {counts[0], counts[24], counts[48]} == {2}
        certificates.store.renew(certificates.store.find("clients/gofer-client"), days=300)
        certificates.store.save(replace=True)
        now[0] += 86400
        assert self.look(watch, caplog) == 1
        plugin.state = State.STOPPED
        now[0] += 86400
        assert self.look(watch, caplog) == 0

    def test_an_authority_with_a_new_key_is_not_warned_of_for_its_old_certificate(
        self, root: Path, certificates: Certificates, caplog: pytest.LogCaptureFixture
    ) -> None:
        plugin: Any = _Plugin(root, tls(certificates, client=False))
        certificates.store.renew(certificates.store.find("ca"), days=300, new_key=True)
        certificates.store.save(replace=True)
        assert certificates.authority.read_text().count("BEGIN CERTIFICATE") == 2
        assert self.look(CertificateWatch(Clock(), lambda: [plugin]), caplog) == 0

    def test_a_file_that_cannot_be_read_is_named(
        self, root: Path, certificates: Certificates, caplog: pytest.LogCaptureFixture
    ) -> None:
        plugin: Any = _Plugin(root, tls(certificates, client=False))
        certificates.authority.write_text("nothing")
        assert self.look(CertificateWatch(Clock(), lambda: [plugin]), caplog) == 1
        assert "holds no PEM certificate" in caplog.text
        certificates.authority.unlink()
        assert self.look(CertificateWatch(Clock(), lambda: [plugin]), caplog) == 1
        assert "cannot be read: No such file" in caplog.text
