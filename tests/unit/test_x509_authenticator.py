"""gofer-authenticator-x509: private keys sign, and authorities say whose they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from gofer.errors import ConfigError
from gofer.messaging.auth import ValidationFailed
from gofer.testing import AuthenticatorContract
from gofer.testing.authenticators import Make
from gofer_authenticator_x509 import X509Authenticator
from support.pki import CLIENT, CODE, OWN, SERVER, Authority, Holder
from support.waiting import eventually

DIGEST = "ab" * 32


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "pki")


def of(holder: Holder, authority: Authority, **more: Any) -> X509Authenticator:
    return X509Authenticator(certificate=holder.certificate, key=holder.key, ca=authority.ca, **more)


@pytest.fixture
def agent(authority: Authority) -> Holder:
    return authority.issue("web-42")


@pytest.fixture
def judge(authority: Authority, agent: Holder) -> X509Authenticator:
    return of(agent, authority)


class _Contract(AuthenticatorContract):
    identity = "somebody"
    kind: str

    @pytest.fixture(scope="class")  # a new key for RSA takes longer than a test
    @classmethod
    def make(cls, tmp_path_factory: pytest.TempPathFactory) -> Make:
        authority = Authority(tmp_path_factory.mktemp("pki"))
        holder = authority.issue("somebody", kind=cls.kind)
        return lambda **limits: of(holder, authority, **limits)

    @pytest.fixture(scope="class")
    @classmethod
    def stranger(cls, tmp_path_factory: pytest.TempPathFactory) -> X509Authenticator:
        other = Authority(tmp_path_factory.mktemp("other"))
        return of(other.issue("somebody", kind=cls.kind), other)


class TestWithEllipticCurves(_Contract):
    kind = "ec"


class TestWithRSA(_Contract):
    kind = "rsa2048"


def signed(holder: Holder, authority: Authority) -> bytes:
    return of(holder, authority).sign(DIGEST).encode()


@pytest.mark.parametrize(
    ("given", "wrong"),
    [
        ({"days": (-3, -1)}, "the certificate is not valid now"),
        ({"days": (1, 3)}, "the certificate is not valid now"),
        ({"sign": False}, "not for signatures"),
    ],
)
def test_a_certificate_must_be_good_for_it(
    authority: Authority, judge: X509Authenticator, given: dict[str, Any], wrong: str
) -> None:
    holder = authority.issue("ops", **given)
    with pytest.raises(ValidationFailed, match=wrong):
        judge.validate({}, DIGEST, signed(holder, authority))


UNKNOWN = x509.UnrecognizedExtension(OWN, b"\x05\x00")
NAMES = x509.NameConstraints([x509.DNSName("example.com")], None)


@pytest.mark.parametrize("purposes", [(SERVER,), (CODE,), (SERVER, CODE), (OWN,), ()])
def test_a_certificate_for_something_else_signs_nothing(
    authority: Authority, judge: X509Authenticator, purposes: tuple[Any, ...]
) -> None:
    """With an authority that a whole company shares, any of its web servers could be the administrator otherwise."""
    ops = authority.issue("ops", purposes=purposes)
    with pytest.raises(ValidationFailed, match="not for clientAuth"):
        judge.validate({}, DIGEST, signed(ops, authority))
    assert judge.validate({}, DIGEST, signed(authority.issue("ops", purposes=(SERVER, CLIENT)), authority)) == "ops"


def test_the_purpose_can_be_one_of_our_own_or_any(authority: Authority, agent: Holder) -> None:
    client, own = authority.issue("client"), authority.issue("own", purposes=(OWN,))
    judge = of(agent, authority, purpose=OWN.dotted_string)
    assert judge.validate({}, DIGEST, signed(own, authority)) == "own"
    with pytest.raises(ValidationFailed, match=f"not for {OWN.dotted_string}"):
        judge.validate({}, DIGEST, signed(client, authority))
    for purposes in ((SERVER,), ()):
        other = authority.issue("other", purposes=purposes)
        assert of(agent, authority, purpose="any").validate({}, DIGEST, signed(other, authority)) == "other"


def test_an_authority_for_something_else_issues_nothing_here(tmp_path: Path) -> None:
    servers, clients = (
        Authority(tmp_path / "servers", purposes=(SERVER,)),
        Authority(tmp_path / "clients", purposes=(CLIENT,)),
    )
    assert of(clients.issue("ops"), clients).validate({}, DIGEST, signed(clients.issue("ops"), clients)) == "ops"
    with pytest.raises(ValidationFailed, match="no authority that is trusted, for this purpose"):
        of(servers.issue("ops"), servers).validate({}, DIGEST, signed(servers.issue("ops"), servers))


def test_a_critical_extension_that_is_not_understood_is_refused(
    authority: Authority, judge: X509Authenticator, tmp_path: Path
) -> None:
    with pytest.raises(ValidationFailed, match="critical extension"):
        judge.validate({}, DIGEST, signed(authority.issue("ops", more=((UNKNOWN, True),)), authority))
    assert judge.validate({}, DIGEST, signed(authority.issue("ops", more=((UNKNOWN, False),)), authority)) == "ops"
    limited = Authority(tmp_path / "limited", more=((NAMES, True),))
    with pytest.raises(ConfigError, match="critical extension"):
        of(limited.issue("ops"), limited)


@pytest.mark.parametrize("name", ["ops\n", "o\nps", "ops\x00", "ops\x1b[2J", "o\u200bps", "\u202espo", " ops", "ops "])
def test_a_name_that_cannot_be_shown_as_it_is_is_nobodys(
    authority: Authority, judge: X509Authenticator, name: str
) -> None:
    with pytest.raises((ValidationFailed, ConfigError), match="control characters"):
        judge.validate({}, DIGEST, signed(authority.issue(name, file="odd"), authority))


@pytest.mark.parametrize(("given", "wrong"), [({"kind": "rsa1024"}, "2048"), ({"names": 2}, "not one CN")])
def test_keys_that_are_too_short_and_names_that_are_not_one_are_refused_at_once(
    authority: Authority, given: dict[str, Any], wrong: str
) -> None:
    with pytest.raises(ConfigError, match=wrong):
        of(authority.issue("ops", **given), authority)


def test_an_authority_of_the_same_name_with_another_key_issues_nothing(
    authority: Authority, judge: X509Authenticator, tmp_path: Path
) -> None:
    false = Authority(tmp_path / "false")  # says of itself that it is "gofer CA", too
    with pytest.raises(ValidationFailed, match="no authority that is trusted"):
        judge.validate({}, DIGEST, signed(false.issue("ops"), false))


def test_who_was_issued_a_certificate_issues_none(
    authority: Authority, judge: X509Authenticator, tmp_path: Path
) -> None:
    """A certificate that is in the directory and is none of an authority is refused with the whole directory."""
    leaf = Authority(tmp_path / "leaf", "leaf", ca=False)
    (authority.ca / "leaf.pem").write_bytes((leaf.ca / "leaf.pem").read_bytes())
    (authority.ca / "leaf.pem").chmod(0o644)
    with pytest.raises(ConfigError, match="may issue no certificates"):
        of(authority.issue("ops"), authority)


def test_somebody_elses_certificate_does_not_lend_its_name(authority: Authority, judge: X509Authenticator) -> None:
    """What travels as the certificate must be the one of the key that has signed."""
    ops, mallory = of(authority.issue("ops"), authority), of(authority.issue("mallory"), authority)
    honest, forged = ops.sign(DIGEST).split("."), mallory.sign(DIGEST).split(".")
    forged[1] = honest[1]
    with pytest.raises(ValidationFailed, match="does not match"):
        judge.validate({}, DIGEST, ".".join(forged).encode())


def test_what_is_revoked_is_not_believed_as_soon_as_the_list_says_so(authority: Authority, agent: Holder) -> None:
    ops, fired = authority.issue("ops"), authority.issue("fired")
    judge = of(agent, authority, crl=authority.revoke())
    texts = {holder: signed(holder, authority) for holder in (ops, fired)}
    assert judge.validate({}, DIGEST, texts[fired]) == "fired"
    authority.revoke(fired)

    def refused() -> bool:
        try:
            judge.validate({}, DIGEST, texts[fired])
        except ValidationFailed:
            return True
        return False

    eventually(refused)
    with pytest.raises(ValidationFailed, match="revoked"):
        judge.validate({}, DIGEST, texts[fired])
    assert judge.validate({}, DIGEST, texts[ops]) == "ops"


def test_a_list_that_has_run_out_lets_nobody_in(authority: Authority, agent: Holder) -> None:
    judge = of(agent, authority, crl=authority.revoke(days=(-3, -1)))
    with pytest.raises(ValidationFailed, match="no revocation list that is valid now"):
        judge.validate({}, DIGEST, signed(agent, authority))


def test_a_list_must_be_signed_by_an_authority(authority: Authority, agent: Holder, tmp_path: Path) -> None:
    other = Authority(tmp_path / "other")
    with pytest.raises(ConfigError, match="not signed by an authority"):
        of(agent, authority, crl=other.revoke())


def test_an_authority_that_is_taken_away_is_trusted_no_more(
    authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gofer.messaging.keyfiles._LOOK", 0.0)
    second = Authority(tmp_path / "second", "second")
    extra = authority.ca / "second.pem"
    extra.write_bytes((second.ca / "second.pem").read_bytes())
    extra.chmod(0o644)
    judge = of(authority.issue("web-42"), authority)
    text = signed(second.issue("ops"), second)
    assert judge.validate({}, DIGEST, text) == "ops"
    extra.unlink()

    def refused() -> bool:
        try:
            judge.validate({}, DIGEST, text)
        except ValidationFailed:
            return True
        return False

    eventually(refused)


def test_a_new_certificate_is_used_when_it_is_there(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gofer.messaging.keyfiles._LOOK", 0.0)
    ours = of(authority.issue("web-42"), authority)
    first = ours.signer()
    authority.issue("web-42")
    assert ours.signer() != first
    assert ours.validate({}, DIGEST, ours.sign(DIGEST).encode()) == "web-42"


@pytest.mark.parametrize("mode", [0o644, 0o660, 0o604])
def test_a_key_that_others_can_read_is_refused(authority: Authority, agent: Holder, mode: int) -> None:
    agent.key.chmod(mode)
    with pytest.raises(ConfigError, match=f"{mode:04o}"):
        of(agent, authority)


def test_authorities_that_others_can_add_to_are_refused(authority: Authority, agent: Holder) -> None:
    authority.ca.chmod(0o777)
    with pytest.raises(ConfigError, match="0777"):
        of(agent, authority)


def test_its_settings_are_files(authority: Authority, agent: Holder) -> None:
    settings = {"certificate": "web-42.pem", "key": "web-42.key", "ca": "ca", "max_age": "1h"}
    made = X509Authenticator.from_settings(settings, authority.folder)
    assert made.validate({}, DIGEST, made.sign(DIGEST).encode()) == "web-42"
    other = authority.issue("other")
    for change, wrong in (
        ({"key": str(other.key)}, "is not the key of"),
        ({"key": "web-42.pem"}, "mode 0644 lets others read or change it"),
        ({"key": ""}, "key 'key' is missing; required: certificate, key, ca"),
        ({"certificate": "web-42.key"}, "holds no certificate"),
        ({"ca": "nothing"}, "No such file"),
        ({"crl": "web-42.pem"}, "holds no revocation list"),
        ({"cafile": "x"}, "unknown key 'cafile'; allowed: certificate, key, ca, crl, purpose, max_age, peers"),
        (
            {"purpose": "client auth"},
            "purpose 'client auth' is none; allowed: clientAuth, any, or an object identifier",
        ),
    ):
        with pytest.raises(ConfigError, match=wrong):
            X509Authenticator.from_settings({**settings, **change}, authority.folder)
