"""The documented home of these errors; they are in :mod:`gofer.errors`."""

from gofer.errors import (
    DispatchError,
    MemberNotFound,
    NamespaceNotFound,
    NotAuthenticated,
    NotAuthorized,
    PasswordRequired,
    RemoteException,
    SecretNotMatched,
    SecretRequired,
    UserNotAuthorized,
    UserRequired,
)

__all__ = [
    "DispatchError",
    "MemberNotFound",
    "NamespaceNotFound",
    "NotAuthenticated",
    "NotAuthorized",
    "PasswordRequired",
    "RemoteException",
    "SecretNotMatched",
    "SecretRequired",
    "UserNotAuthorized",
    "UserRequired",
]
