"""Signs gofer's messages with a private key; its certificate says who that is."""

from gofer_authenticator_x509.authenticator import X509Authenticator

__all__ = ["X509Authenticator"]
