# ruff: noqa: S101 - these are tests, shipped
"""The contract of authenticators with a time and a nonce, as tests. Subclass it, and pytest checks every promise.

::

    from gofer.testing import AuthenticatorContract

    class TestOurs(AuthenticatorContract):
        identity = "me"

        @pytest.fixture
        def make(self, tmp_path):
            return lambda **limits: OurAuthenticator(tmp_path / "keys", **limits)

        @pytest.fixture
        def stranger(self, tmp_path):
            return OurAuthenticator(tmp_path / "other-keys")
"""

from __future__ import annotations

import hashlib
import string
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from gofer.messaging.auth import ValidationFailed
from gofer.messaging.stamped import MAX_AGE, SKEW, Expired, StampedAuthenticator

__all__ = ["AuthenticatorContract"]

Make = Callable[..., StampedAuthenticator]

DIGEST = hashlib.sha256(b"a document").hexdigest()
OTHER = hashlib.sha256(b"another document").hexdigest()


class AuthenticatorContract:
    """All that :class:`gofer.messaging.stamped.StampedAuthenticator` promises.

    A subclass says in ``identity`` who signs, and gives the fixtures ``make``: makes one that takes what its likes have
    signed, with the arguments ``max_age`` and ``peers``; and ``stranger``: one whose keys the others do not know.
    """

    identity: str

    @pytest.fixture
    def make(self) -> Make:
        """Give what makes an authenticator."""
        raise NotImplementedError("a subclass of AuthenticatorContract has a fixture `make`")

    @pytest.fixture
    def stranger(self) -> StampedAuthenticator:
        """Return one whose keys are unknown."""
        raise NotImplementedError("a subclass of AuthenticatorContract has a fixture `stranger`")

    def test_what_was_signed_is_valid_and_names_its_signer(self, make: Make) -> None:
        """At another one, made of the same keys."""
        assert validate(make(), make().sign(DIGEST)) == self.identity

    def test_no_two_signatures_are_the_same(self, make: Make) -> None:
        """The nonce differs: that tells a copy."""
        one = make()
        stamps = [one.stamp(one.sign(DIGEST)) for _ in range(50)]
        assert len({stamp.nonce for stamp in stamps}) == 50
        assert all(len(stamp.nonce) == 16 for stamp in stamps)
        assert all(abs(stamp.time - time.time()) < 60 for stamp in stamps)

    def test_it_is_for_one_document(self, make: Make) -> None:
        """A signature does not fit another digest."""
        one = make()
        with pytest.raises(ValidationFailed):
            one.validate({}, OTHER, one.sign(DIGEST))

    def test_no_character_may_be_changed(self, make: Make) -> None:
        """But for bits that base64 does not use."""
        one = make()
        text = one.sign(DIGEST)
        stamp = one.stamp(text)
        step = max(1, len(text) // 150)
        for at in range(0, len(text), step):
            for new in ("A", "z", "7", ".", "="):
                changed = text[:at] + new + text[at + 1 :]
                try:
                    validate(one, changed)
                except ValidationFailed:
                    continue
                again = one.stamp(changed)
                assert (again.key, again.time, again.nonce, again.seal) == (
                    stamp.key,
                    stamp.time,
                    stamp.nonce,
                    stamp.seal,
                )

    def test_a_stranger_is_not_believed(self, make: Make, stranger: StampedAuthenticator) -> None:
        """Nor does a stranger believe us."""
        with pytest.raises(ValidationFailed):
            validate(make(), stranger.sign(DIGEST))
        with pytest.raises(ValidationFailed):
            validate(stranger, make().sign(DIGEST))

    @pytest.mark.parametrize(
        "garbage",
        [b"", b".", b"....", b"\xff" * 100, b"A" * 1_000_000, string.printable.encode(), b"x." + b"A." * 4],
        ids=["nothing", "dot", "dots", "ones", "long", "printable", "five parts"],
    )
    def test_garbage_is_not_valid_and_nothing_worse(self, make: Make, garbage: bytes) -> None:
        """Whatever it is, ValidationFailed is raised."""
        one = make()
        scheme = one.scheme.encode()
        for text in (garbage, scheme + b"." + garbage, scheme + b".QUFB.1." + b"0" * 32 + b"." + garbage[:100]):
            with pytest.raises(ValidationFailed):
                one.validate({}, DIGEST, text)

    def test_what_is_old_or_of_the_future_has_expired(self, make: Make) -> None:
        """With the difference between two clocks let pass."""
        one, now = make(max_age=1000.0), time.time()
        for age in (0.0, 900.0, 1000.0 + SKEW - 30, -SKEW + 30):
            assert validate(one, one.sign_at(DIGEST, now - age)) == self.identity
        for age in (1000.0 + SKEW + 30, -SKEW - 30, now):
            with pytest.raises(Expired) as caught:
                validate(one, one.sign_at(DIGEST, now - age))
            assert caught.value.code == "security.expired"
        assert validate(make(), make().sign_at(DIGEST, now - MAX_AGE + 60)) == self.identity
        with pytest.raises(Expired):
            validate(make(), make().sign_at(DIGEST, now - MAX_AGE - SKEW - 60))

    def test_a_ttl_shortens_the_age_and_never_lengthens_it(self, make: Make) -> None:
        """Only a number of seconds counts."""
        one, now = make(max_age=1000.0), time.time()
        old, older = one.sign_at(DIGEST, now - SKEW - 100), one.sign_at(DIGEST, now - SKEW - 2000)
        with pytest.raises(Expired):
            validate(one, old, {"ttl": 30})
        for ttl in (500, 500.5, None, "30", True, -1, [30]):
            assert validate(one, old, {"ttl": ttl}) == self.identity
        with pytest.raises(Expired):
            validate(one, older, {"ttl": 10_000})

    def test_peers_alone_are_believed(self, make: Make) -> None:
        """If any are named."""
        text = make().sign(DIGEST)
        assert validate(make(peers=["nobody", self.identity]), text) == self.identity
        with pytest.raises(ValidationFailed, match="not in peers"):
            validate(make(peers=["nobody"]), text)

    def test_many_threads_share_one(self, make: Make) -> None:
        """It may be used from many threads at once."""
        one = make()
        with ThreadPoolExecutor(8) as threads:
            found = list(threads.map(lambda _: validate(one, one.sign(DIGEST)), range(200)))
        assert found == [self.identity] * 200


def validate(authenticator: StampedAuthenticator, text: str, document: Any = None) -> str:
    """Validate a signature of our document."""
    return authenticator.validate({} if document is None else document, DIGEST, text)
