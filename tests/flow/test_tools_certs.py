"""``gofer certs``: what it writes, with which rights, and what it refuses."""

from __future__ import annotations

import json
import os
import shlex
import stat
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from gofer.messaging.auth import ValidationFailed
from gofer.tools.pki import Store
from gofer_authenticator_x509 import X509Authenticator
from support.commands import gofer, run_gofer

pytestmark = pytest.mark.filterwarnings("error")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "pki"


def certs(command: str, *arguments: object, status: int = 0) -> subprocess.CompletedProcess[str]:
    done = run_gofer("certs", command, *map(str, arguments))
    assert done.returncode == status, (done.stdout, done.stderr)
    return done


def refusal(command: str, *arguments: object, status: int = 1) -> str:
    """The one line of a refusal."""
    done = certs(command, *arguments, status=status)
    assert done.stdout == ""
    assert done.stderr.startswith("gofer certs")
    assert done.stderr.count("\n") == 1
    return done.stderr


def load(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def openssl(*arguments: object) -> str:
    done = subprocess.run(["openssl", *map(str, arguments)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def everything(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class TestMaking:
    def test_one_command_makes_all_and_openssl_believes_it(self, folder: Path) -> None:
        certs(
            "init",
            "--dir",
            folder,
            "--broker",
            "broker.example.com,10.0.0.5,::1",
            "--client",
            "web-42",
            "--signing",
            "ops",
        )
        assert set(everything(folder)) == {
            *("ca.pem", "ca.key", "brokers/broker.example.com.pem", "brokers/broker.example.com.key"),
            *("clients/web-42.pem", "clients/web-42.key"),
            *("signing/ca/ca.pem", "signing/ca.key", "signing/ops.pem", "signing/ops.key"),
        }
        ca, broker = folder / "ca.pem", folder / "brokers/broker.example.com.pem"
        for purpose, file in (("sslserver", broker), ("sslclient", folder / "clients/web-42.pem")):
            openssl("verify", "-x509_strict", "-purpose", purpose, "-CAfile", ca, file)
        openssl("verify", "-x509_strict", "-CAfile", ca, "-verify_hostname", "broker.example.com", broker)
        for address in ("10.0.0.5", "::1"):
            openssl("verify", "-x509_strict", "-CAfile", ca, "-verify_ip", address, broker)
        openssl("verify", "-x509_strict", "-CAfile", folder / "signing/ca/ca.pem", folder / "signing/ops.pem")
        names = load(broker).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert names.get_values_for_type(x509.DNSName) == ["broker.example.com"]

    def test_keys_are_their_owners_alone_whatever_the_umask(self, folder: Path) -> None:
        command = (
            f"umask 000; exec {sys.executable} -m gofer.tools.main certs init --dir {folder} --client a --signing b"
        )
        subprocess.run(["sh", "-c", command], check=True, capture_output=True)
        for path in folder.rglob("*"):
            mode = stat.S_IMODE(path.stat().st_mode)
            wanted = 0o755 if path.is_dir() else 0o600 if path.suffix == ".key" else 0o644
            assert (path, mode) == (path, wanted)

    @pytest.mark.parametrize("key", ["ec", "rsa2048", "rsa3072"])
    def test_kinds_of_keys(self, folder: Path, key: str) -> None:
        certs(
            "init",
            "--dir",
            folder,
            "--key",
            key,
            "--broker",
            "localhost",
            "--client",
            "a",
        )
        text = openssl("pkey", "-in", folder / "clients/a.key", "-noout", "-text")
        assert ("prime256v1" if key == "ec" else f"{key[3:]} bit") in text

    def test_a_bundle_holds_both(self, folder: Path) -> None:
        certs("init", "--dir", folder)
        certs("client", "--dir", folder, "--bundle", "web-42")
        bundle = folder / "clients/web-42.bundle"
        assert stat.S_IMODE(bundle.stat().st_mode) == 0o600
        both = (folder / "clients/web-42.pem").read_bytes() + (folder / "clients/web-42.key").read_bytes()
        assert bundle.read_bytes() == both
        certs("renew", "--dir", folder, "--new-key", "web-42")
        assert (
            bundle.read_bytes()
            == (folder / "clients/web-42.pem").read_bytes() + (folder / "clients/web-42.key").read_bytes()
        )
        assert bundle.read_bytes() != both

    def test_what_signs_is_what_the_authenticator_takes_and_what_connects_is_not(self, folder: Path) -> None:
        certs("init", "--dir", folder, "--client", "ops", "--signing", "ops", "--signing", "web-42")
        ca = folder / "signing/ca"

        def signer(kind: str, name: str) -> X509Authenticator:
            return X509Authenticator(
                certificate=folder / kind / f"{name}.pem", key=folder / kind / f"{name}.key", ca=ca
            )

        web = signer("signing", "web-42")
        assert web.validate({}, "00", signer("signing", "ops").sign("00")) == "ops"
        with pytest.raises(ValidationFailed, match="no authority that is trusted"):
            web.validate({}, "00", signer("clients", "ops").sign("00"))

    def test_the_printed_lines_of_x509_are_settings_of_the_authenticator(self, folder: Path) -> None:
        certs("init", "--dir", folder, "--signing", "ops")
        printed = certs("lines", "x509", "--dir", folder).stdout
        settings = dict(line.split(" = ") for line in printed.partition("[x509]\n")[2].splitlines())
        made = X509Authenticator.from_settings(settings, Path("/nowhere"))
        assert made.validate({}, "00", made.sign("00")) == "ops"

    @pytest.mark.parametrize("name", ["a b", "../a", "-a", "a/b", "ä", "", "a" * 65, "a\nb", ".a"])
    def test_a_name_that_is_none(self, folder: Path, name: str) -> None:
        certs("init", "--dir", folder)
        before = everything(folder)
        assert "cannot be the name of a certificate; allowed: " in refusal("client", "--dir", folder, "--", name)
        assert everything(folder) == before

    @pytest.mark.parametrize(
        "name",
        ["a b", "a..b", "-a.example", "300.1.1.1", "a_b/c", "*", "a.*.b", "x" * 64, "http://a", "a.example:5671"],
    )
    def test_a_host_that_is_none(self, folder: Path, name: str) -> None:
        certs("init", "--dir", folder)
        for command in (("broker", "--file", "x", "--"), ("broker", "--"), ("broker", "--", "good.example")):
            text = refusal(command[0], "--dir", folder, *command[1:], name)
            assert f"{name!r} is neither a DNS name nor an IP address; allowed: like broker.example.com" in text

    @pytest.mark.parametrize(
        ("names", "file"),
        [
            (["::1"], "ip6---1"),
            (["[fe80::1]"], "ip6-fe80--1"),
            (["*.Example.com."], "wildcard.example.com"),
            (["bücher.example"], "xn--bcher-kva.example"),
            (["one.example,two.example", "10.0.0.5"], "one.example"),
        ],
    )
    def test_the_first_host_names_the_files(self, folder: Path, names: list[str], file: str) -> None:
        certs("init", "--dir", folder)
        certs("broker", "--dir", folder, *names)
        assert (folder / f"brokers/{file}.pem").exists()

    def test_a_host_that_cannot_name_files_asks_for_another_name(self, folder: Path) -> None:
        certs("init", "--dir", folder)
        assert "gofer certs broker --file TEXT" in refusal("broker", "--dir", folder, "_a.example")
        certs("broker", "--dir", folder, "_a.example", "--file", "a")

    def test_a_broker_without_a_host(self, folder: Path) -> None:
        assert "a broker needs a name" in refusal("init", "--dir", folder, "--broker", " , ")

    def test_signing_as_the_authority_itself_is_refused(self, folder: Path) -> None:
        assert "a signer cannot be called 'ca'" in refusal_of_last("signing", "--dir", folder, "ca")

    def test_without_an_authority_it_says_what_to_type(self, folder: Path) -> None:
        assert f"gofer certs init --dir {folder}" in refusal("client", "--dir", folder, "web-42")

    def test_without_the_authoritys_key_it_says_why(self, folder: Path) -> None:
        certs("init", "--dir", folder)
        (folder / "ca.key").unlink()
        assert "Issue certificates where it is kept" in refusal("client", "--dir", folder, "web-42")

    def test_a_client_valid_for_longer_than_its_authority_is_warned_of(self, folder: Path) -> None:
        certs("init", "--dir", folder)
        done = certs("client", "--dir", folder, "--days", "5000", "web-42")
        assert "is valid for longer than its authority" in done.stderr

    def test_the_default_directory_is_below_gofer_root(self, root: Path) -> None:
        certs("init")
        assert (root / "etc/gofer/pki/ca.pem").exists()


def refusal_of_last(command: str, *arguments: object) -> str:
    done = certs(command, *arguments, status=1)
    return done.stderr


class TestNothingIsOverwritten:
    @pytest.mark.parametrize(
        "command",
        [
            ("broker", "localhost"),
            ("client", "web-42"),
            ("signing", "ops"),
        ],
    )
    def test_unless_it_is_asked_for(self, folder: Path, command: tuple[str, ...]) -> None:
        certs("init", "--dir", folder, "--broker", "localhost", "--client", "web-42", "--signing", "ops")
        before = everything(folder)
        text = refusal(command[0], "--dir", folder, *command[1:], status=4)
        assert "exists and is not overwritten. Allowed: --replace, or gofer certs renew" in text
        assert everything(folder) == before
        certs(command[0], "--dir", folder, "--replace", *command[1:])
        changed = {name for name, content in everything(folder).items() if content != before[name]}
        assert len(changed) == 2

    def test_an_authority_that_exists_issues_what_init_was_asked_for(self, folder: Path) -> None:
        certs("init", "--dir", folder)
        before = everything(folder)
        init = ("init", "--dir", folder, "--broker", "b.example,10.0.0.5", "--client", "one", "--client", "two")
        text = refusal(*init, status=4)
        assert f"{folder} has an authority already" in text
        advice = text.partition("Type: ")[2].partition(". With --replace, ")[0].split(" && ")
        assert everything(folder) == before
        for command in advice:
            words = shlex.split(command)
            assert words[:2] == ["gofer", "certs"]
            certs(*words[2:])
        assert set(everything(folder)) - set(before) == {
            *("brokers/b.example.pem", "brokers/b.example.key"),
            *("clients/one.pem", "clients/one.key", "clients/two.pem", "clients/two.key"),
        }
        openssl("verify", "-x509_strict", "-CAfile", folder / "ca.pem", folder / "clients/two.pem")

    def test_an_authority_is_replaced_if_that_is_asked_for(self, folder: Path) -> None:
        certs("init", "--dir", folder)
        before = everything(folder)
        assert f"Type: gofer certs renew ca --dir {folder}." in refusal("init", "--dir", folder, status=4)
        assert everything(folder) == before
        certs("init", "--dir", folder, "--replace")
        assert {name for name, content in everything(folder).items() if content != before[name]} == set(before)

    @pytest.mark.parametrize("suffix", [".pem", ".key"])
    def test_half_of_a_pair_is_enough_to_refuse(self, folder: Path, suffix: str) -> None:
        certs("init", "--dir", folder, "--client", "web-42")
        (folder / f"clients/web-42{suffix}").unlink()
        before = everything(folder)
        refusal("client", "--dir", folder, "web-42", status=4)
        assert everything(folder) == before

    def test_a_dangling_link_is_not_followed(self, folder: Path, tmp_path: Path) -> None:
        certs("init", "--dir", folder)
        (folder / "clients").mkdir(mode=0o755)
        (folder / "clients/web-42.key").symlink_to(tmp_path / "elsewhere")
        refusal("client", "--dir", folder, "web-42", status=4)
        certs("client", "--dir", folder, "--replace", "web-42")
        assert not (tmp_path / "elsewhere").exists()
        assert not (folder / "clients/web-42.key").is_symlink()

    def test_of_two_at_once_one_wins_and_its_pair_fits(self, folder: Path) -> None:
        certs("init", "--dir", folder)
        command = [sys.executable, "-m", "gofer.tools.main", "certs", "client", "--dir", str(folder), "web-42"]
        started = [subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) for _ in range(6)]
        statuses = []
        for process in started:
            process.communicate(timeout=60)
            statuses.append(process.returncode)
        assert sorted(statuses) == [0, 4, 4, 4, 4, 4]
        public = openssl("x509", "-in", folder / "clients/web-42.pem", "-noout", "-pubkey")
        assert openssl("pkey", "-in", folder / "clients/web-42.key", "-pubout") == public
        assert not [path for path in (folder / "clients").iterdir() if path.name.startswith(".")]


class TestAllOrNothing:
    """A command that fails has written nothing."""

    @pytest.mark.parametrize(
        ("command", "status"),
        [
            (("client", "new1", "web"), 4),
            (("client", "new1", "a b"), 1),
            (("signing", "new1", "ca"), 1),
            (("renew", "web", "nobody"), 1),
            (("renew", "--new-key", "web", "broken"), 1),
        ],
    )
    def test_of_several_names(self, folder: Path, command: tuple[str, ...], status: int) -> None:
        certs("init", "--dir", folder, "--client", "web", "--client", "broken")
        (folder / "clients/broken.key").write_text("nothing")
        before = everything(folder)
        refusal(command[0], "--dir", folder, *command[1:], status=status)
        assert everything(folder) == before

    def test_init_with_a_name_that_is_none_makes_no_authority(self, folder: Path) -> None:
        refusal("init", "--dir", folder, "--broker", "broker.example", "--broker", "a b")
        assert not folder.exists()

    def test_a_certificate_that_cannot_be_written_leaves_the_old_key(self, folder: Path) -> None:
        certs("init", "--dir", folder)
        key = (folder / "ca.key").read_bytes()
        size = (folder / "ca.key").stat().st_size
        # The new ca.pem holds two certificates, and is larger than a file may be; the new key is not.
        code = (
            "import resource, signal, sys; from gofer.tools.main import main\n"
            f"resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size})); "
            "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
            f"sys.exit(main(['certs', 'renew', '--new-key', 'ca', '--dir', {str(folder)!r}]))"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert done.returncode == 1, done.stderr
        assert "cannot be written: File too large" in done.stderr
        assert (folder / "ca.key").read_bytes() == key
        assert sorted(everything(folder)) == ["ca.key", "ca.pem"]


class TestPlaces:
    @pytest.mark.parametrize("mode", [0o777, 0o775, 0o757, 0o1777])
    @pytest.mark.parametrize("below", [".", "clients"])
    def test_a_directory_that_others_can_write_to_is_refused(self, folder: Path, mode: int, below: str) -> None:
        certs("init", "--dir", folder, "--client", "first")
        (folder / below).chmod(mode)
        before = everything(folder)
        assert f"Fix: chmod go-w {folder / below}" in refusal("client", "--dir", folder, "web-42")
        assert everything(folder) == before

    def test_so_is_one_below_a_directory_that_all_can_write_to(self, tmp_path: Path) -> None:
        above = tmp_path / "above"
        above.mkdir()
        above.chmod(0o777)
        assert f"Fix: chmod o-w {above}" in refusal("init", "--dir", above / "pki")
        above.chmod(0o1777)  # as /tmp is
        certs("init", "--dir", above / "pki")

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
    def test_so_is_somebody_elses(self, folder: Path) -> None:
        folder.mkdir()
        os.chown(folder, 12345, -1)
        assert "belongs to uid 12345; allowed: root (uid 0)" in refusal("init", "--dir", folder)

    def test_a_file_is_no_directory(self, folder: Path) -> None:
        folder.touch()
        assert f"{folder} is not a directory" in refusal("init", "--dir", folder)


class TestRenewing:
    def test_the_same_names_and_key_and_a_later_end(self, folder: Path) -> None:
        certs("init", "--dir", folder, "--broker", "localhost,127.0.0.1", "--days", "10")
        before, key = load(folder / "brokers/localhost.pem"), (folder / "brokers/localhost.key").read_bytes()
        certs("renew", "--dir", folder, "brokers/localhost", "--days", "50")
        after = load(folder / "brokers/localhost.pem")
        assert (folder / "brokers/localhost.key").read_bytes() == key
        assert after.serial_number != before.serial_number
        assert after.subject == before.subject
        assert after.not_valid_after_utc - before.not_valid_after_utc >= timedelta(days=39)
        for kind in (x509.SubjectAlternativeName, x509.ExtendedKeyUsage, x509.KeyUsage, x509.BasicConstraints):
            one, other = (each.extensions.get_extension_for_class(kind) for each in (before, after))
            assert one == other
        certs("renew", "--dir", folder, "brokers/localhost", "--new-key")
        assert (folder / "brokers/localhost.key").read_bytes() != key
        openssl("verify", "-x509_strict", "-CAfile", folder / "ca.pem", folder / "brokers/localhost.pem")

    def test_an_authority_with_its_key_still_vouches_for_what_it_issued(self, folder: Path) -> None:
        certs("init", "--dir", folder, "--client", "web-42")
        certs("renew", "--dir", folder, "ca")
        openssl("verify", "-x509_strict", "-CAfile", folder / "ca.pem", folder / "clients/web-42.pem")
        assert (folder / "ca.pem").read_text().count("BEGIN CERTIFICATE") == 1

    def test_an_authority_with_a_new_key_keeps_its_old_certificate_beside(self, folder: Path) -> None:
        certs("init", "--dir", folder, "--client", "old", "--signing", "old")
        for name in ("ca", "signing/ca"):
            certs("renew", "--dir", folder, "--new-key", name)
        certs("client", "--dir", folder, "new")
        certs("signing", "--dir", folder, "new")
        for name in ("old", "new"):
            openssl("verify", "-x509_strict", "-CAfile", folder / "ca.pem", folder / f"clients/{name}.pem")
        one, other = (
            X509Authenticator(
                certificate=folder / f"signing/{name}.pem", key=folder / f"signing/{name}.key", ca=folder / "signing/ca"
            )
            for name in ("old", "new")
        )
        assert one.validate({}, "00", other.sign("00")) == "new"
        assert other.validate({}, "00", one.sign("00")) == "old"

    def test_within_renews_what_ends_and_nothing_else(self, folder: Path) -> None:
        certs("init", "--dir", folder, "--client", "long")
        certs("client", "--dir", folder, "--days", "20", "short")
        before = everything(folder)
        assert "clients/short" in certs("renew", "--dir", folder, "--within", "30d", "--days", "100").stdout
        changed = {name for name, content in everything(folder).items() if content != before[name]}
        assert changed == {"clients/short.pem"}
        assert "nothing ends" in certs("renew", "--dir", folder, "--within", "30d").stderr

    def test_names_or_a_time_but_not_both(self, folder: Path) -> None:
        certs("init", "--dir", folder)
        for wrong in ((), ("ca", "--within", "1d")):
            assert "name certificates, or choose them with --within" in refusal(
                "renew", "--dir", folder, *wrong, status=2
            )

    def test_an_unknown_or_ambiguous_name(self, folder: Path) -> None:
        certs("init", "--dir", folder, "--client", "ops", "--signing", "ops")
        assert "did you mean 'clients/ops'" in refusal("renew", "--dir", folder, "client/ops")
        assert "write clients/ops or signing/ops" in refusal("renew", "--dir", folder, "ops")


class TestListing:
    def test_the_days_left_and_the_status(self, folder: Path) -> None:
        certs("init", "--dir", folder, "--broker", "localhost,127.0.0.1", "--signing", "ops")
        certs("client", "--dir", folder, "--days", "20", "short")
        store = Store(folder)
        store.issue("clients", "gone", days=5, starts=datetime.now(UTC) - timedelta(days=9))
        store.save(replace=False)
        lines = certs("list", "--dir", folder).stdout.splitlines()
        assert lines[0].split("  ")[0] == "NAME"
        found = {line.split()[0]: line for line in lines[1:]}
        assert list(found) == ["ca", "signing/ca", "brokers/localhost", "clients/gone", "clients/short", "signing/ops"]
        assert "localhost, 127.0.0.1" in found["brokers/localhost"]
        assert " 19 " in found["clients/short"]
        assert " ended " in found["clients/gone"]
        assert str(folder / "clients/short.pem") in found["clients/short"]
        soon = json.loads(certs("list", "--dir", folder, "--within", "30d", "--json", status=3).stdout)
        assert [(one["name"], one["days_left"]) for one in soon] == [("clients/gone", -5), ("clients/short", 19)]
        assert "clients/gone" in certs("list", "--dir", folder, "--within", "0", status=3).stdout
        certs("renew", "--dir", folder, "--within", "30d", "--days", "90")
        assert certs("list", "--dir", folder, "--within", "30d").stdout == ""

    def test_a_directory_that_is_not_there_is_an_error(self, folder: Path) -> None:
        for command in (("list",), ("list", "--json"), ("renew", "--within", "30d"), ("lines", "rabbitmq")):
            text = refusal(command[0], "--dir", folder, *command[1:])
            assert f"there is no directory {folder}. Make it: gofer certs init --dir {folder}" in text

    def test_an_empty_one_is_reported(self, folder: Path) -> None:
        folder.mkdir()
        assert f"there are no certificates in {folder}" in certs("list", "--dir", folder).stderr
        assert certs("list", "--dir", folder).stdout == ""
        assert json.loads(certs("list", "--dir", folder, "--json").stdout) == []

    def test_a_file_that_is_no_certificate_is_named(self, folder: Path) -> None:
        certs("init", "--dir", folder, "--client", "web-42")
        (folder / "clients/web-42.pem").write_text("nothing")
        assert f"{folder}/clients/web-42.pem: holds no certificate (PEM)" in refusal("list", "--dir", folder)

    def test_what_is_no_file_is_not_waited_for(self, folder: Path) -> None:
        certs("init", "--dir", folder, "--client", "web-42")
        (folder / "clients/web-42.pem").unlink()
        os.mkfifo(folder / "clients/web-42.pem")
        assert f"{folder}/clients/web-42.pem: is no regular file" in refusal("list", "--dir", folder)


class TestLines:
    @pytest.mark.parametrize("listen", ["x y", "", "10.0.0.5:5671", "broker.example", "::1;verify=none", "a\nb"])
    @pytest.mark.parametrize("target", ["rabbitmq", "broker-j", "artemis"])
    def test_an_address_to_listen_on_that_is_none(self, folder: Path, target: str, listen: str) -> None:
        text = refusal("lines", target, "--dir", folder, "--listen", listen, status=2)
        assert f"{listen!r} is not an IP address; allowed: like 10.0.0.5 or ::1" in text

    def test_which_one_is_meant_must_be_clear(self, folder: Path) -> None:
        certs("init", "--dir", folder)
        assert "there is no certificate" in refusal("lines", "rabbitmq", "--dir", folder)
        certs("broker", "--dir", folder, "one.example")
        certs("broker", "--dir", folder, "two.example")
        text = refusal("lines", "rabbitmq", "--dir", folder)
        assert "name one with --broker: one.example, two.example" in text
        assert "two.example.pem" in certs("lines", "rabbitmq", "--dir", folder, "--broker", "two.example").stdout

    def test_at_says_where_the_files_will_be(self, folder: Path) -> None:
        certs("init", "--dir", folder, "--broker", "b.example", "--client", "web-42", "--signing", "ops")
        for target in ("rabbitmq", "descriptor", "x509"):
            printed = certs("lines", target, "--dir", folder, "--at", "/etc/there").stdout
            assert str(folder) not in printed
            assert "/etc/there/" in printed

    def test_an_ipv6_broker_has_brackets_in_the_url(self, folder: Path) -> None:
        certs("init", "--dir", folder, "--broker", "::1", "--client", "a")
        assert "url = amqps://[::1]:5671" in certs("lines", "descriptor", "--dir", folder).stdout


class TestProcess:
    def test_without_the_library_it_says_what_to_install(self, tmp_path: Path) -> None:
        hidden = tmp_path / "cryptography"
        hidden.mkdir()
        (hidden / "__init__.py").write_text("raise ModuleNotFoundError('no', name='cryptography')\n")
        done = gofer("certs", "list", environ={"PYTHONPATH": str(tmp_path)})
        assert done.returncode == 1
        assert done.stderr == (
            "gofer certs: the cryptography library is not installed. Type: pip install 'gofer-core[certs]'\n"
        )
        assert "Make, renew and list" in gofer("certs", "--help", environ={"PYTHONPATH": str(tmp_path)}).stdout

    def test_help_is_there_for_every_command(self) -> None:
        for command in ("init", "broker", "client", "signing", "renew", "list", "lines"):
            text = run_gofer("certs", command, "--help").stdout
            assert "--dir DIR" in text

    def test_the_agent_does_not_import_it(self) -> None:
        code = (
            "import sys, gofer.agent.main, gofer.messaging.tls\n"
            "assert not [name for name in sys.modules if name.partition('.')[0] in ('cryptography', 'click', 'rich')]\n"
        )
        subprocess.run([sys.executable, "-c", code], check=True)

    def test_a_certificate_for_signing_and_one_for_a_client_are_for_clients(self, folder: Path) -> None:
        certs("init", "--dir", folder, "--client", "a", "--signing", "a", "--broker", "localhost")
        uses = {
            kind: list(load(folder / kind / name).extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
            for kind, name in (("clients", "a.pem"), ("signing", "a.pem"), ("brokers", "localhost.pem"))
        }
        assert uses == {
            "clients": [ExtendedKeyUsageOID.CLIENT_AUTH],
            "signing": [ExtendedKeyUsageOID.CLIENT_AUTH],
            "brokers": [ExtendedKeyUsageOID.SERVER_AUTH],
        }


class TestTheDirectoryThatIsMeant:
    @pytest.mark.parametrize("command", [["init"], ["client", "x"], ["list"]])
    def test_an_empty_name_is_not_the_default(self, command: list[str]) -> None:
        assert "--dir is empty" in refusal(*command, "--dir", "", status=2)
