"""The configuration file of callers: settings of authenticators, and profiles for the command line."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from gofer.errors import ConfigError
from gofer.messaging.keyfiles import read_public, read_secret
from gofer.messaging.url import URL
from gofer.root import Root
from gofer.sections import Unreadable, has_comment, parse_ini
from gofer.suggest import available, did_you_mean

__all__ = ["PROFILE_KEYS", "caller_conf", "profile", "profiles", "read_section"]

#: The keys of a profile.
PROFILE_KEYS = ("url", "address", "authenticator", "cacert", "clientcert", "clientkey", "host_validation", "user")
_FILES = ("cacert", "clientcert", "clientkey")
_PREFIX = "profile "


def caller_conf() -> Path:
    """Return the path of the file: what ``GOFER_CALLER_CONF`` names, else ``/etc/gofer/caller.conf``."""
    named = os.environ.get("GOFER_CALLER_CONF")
    return Path(named) if named else Root.from_environ(os.environ).etc / "caller.conf"


def read_section(name: str) -> dict[str, str]:
    """Return the settings of a section; none if there is no such section, or no file and none was asked for.

    Raises:
        ConfigError: the file cannot be read, or others may write to it.
    """
    return _read().get(name, {})


def profiles() -> list[str]:
    """Return the names of the profiles.

    Raises:
        ConfigError: as ``read_section``.
    """
    return sorted(name.removeprefix(_PREFIX).strip() for name in _read() if name.startswith(_PREFIX))


def profile(name: str | None) -> dict[str, str]:
    """Return the settings of ``[profile NAME]``; paths in it are relative to the file's directory.

    Args:
        name: None: ``default``, which need not exist.

    Raises:
        ConfigError: there is no such profile, a key in it is unknown, its value has a comment behind it, or others may
            read the password in its URL.
    """
    path, known = caller_conf(), profiles()
    if name is not None and name not in known:
        raise ConfigError(f"{path}: no [profile {name}]{did_you_mean(name, known)}; profiles: {available(known)}")
    section = f"{_PREFIX}{name or 'default'}"
    settings = _read().get(section, {})
    for key in settings:
        if key not in PROFILE_KEYS:
            hint = did_you_mean(key, PROFILE_KEYS)
            raise ConfigError(f"{path}: [{section}] {key}: unknown{hint}; allowed: {', '.join(PROFILE_KEYS)}")
        if has_comment(settings[key]):
            text = "has a comment after its value; write comments on their own lines"
            raise ConfigError(f"{path}: [{section}] {key}: {text}")
    if "url" in settings and URL.parse(settings["url"]).password is not None:
        read_secret(path)  # raises if others may read it
    for key in _FILES:
        if key in settings:
            settings[key] = str(path.absolute().parent / settings[key])
    return settings


def _read() -> Mapping[str, dict[str, str]]:
    path = caller_conf()
    if not (os.environ.get("GOFER_CALLER_CONF") or path.exists()):
        return {}
    try:
        content = parse_ini(read_public(path).decode())
    except (Unreadable, UnicodeDecodeError) as wrong:
        raise ConfigError(f"{path}: is not an ini file of UTF-8: {wrong}") from None
    for section, key, text in content.remarks:  # an odd line may be one that decides whom to trust
        place = "" if section is None else f"[{section}] {key or ''}: "
        raise ConfigError(f"{path}: is not an ini file as it should be: {place}{text.partition(';')[0]}")
    return {
        " ".join(name.split()): {key.lower(): str(value) for key, value in keys.items()}
        for name, keys in content.sections.items()
    }
