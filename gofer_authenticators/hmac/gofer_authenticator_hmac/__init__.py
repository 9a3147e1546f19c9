"""Signs gofer's messages with keys that callers and agents share."""

from gofer_authenticator_hmac.authenticator import HmacAuthenticator

__all__ = ["HmacAuthenticator"]
