"""The section ``[package]`` of the descriptor."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from typing import Any

from gofer.duration import parse_duration
from gofer.errors import ConfigError, PluginError

__all__ = ["Settings", "read_settings"]

_MANAGERS = ("apt", "dnf", "yum")
_CONFFILES = ("keep", "replace")


@dataclass(frozen=True, slots=True)
class Settings:
    """What the descriptor says. Times are in seconds.

    ``manager`` is apt, dnf or yum, ``conffiles`` keep or replace.
    """

    manager: str
    lock_wait: float
    stop_wait: float
    conffiles: str


def read_settings(cfg: Any) -> Settings:
    """Read a descriptor's ``[package]``; what it leaves out has a default.

    Raises:
        PluginError: a value is none that is allowed, or the machine has no package manager.
    """
    section = cfg.package if "package" in cfg else {}

    def given(key: str, default: str) -> str:
        return str(section[key]) if key in section else default

    manager = _chosen("manager", given("manager", "auto"), ("auto", *_MANAGERS))
    return Settings(
        manager=find_manager() if manager == "auto" else manager,
        lock_wait=_duration("lock_wait", given("lock_wait", "5m")),
        stop_wait=_duration("stop_wait", given("stop_wait", "1m")),
        conffiles=_chosen("conffiles", given("conffiles", "keep"), _CONFFILES),
    )


def find_manager() -> str:
    """Return the package manager that this machine has.

    Raises:
        PluginError: it has none.
    """
    found = [name for name, program in zip(_MANAGERS, ("apt-get", "dnf", "yum"), strict=True) if shutil.which(program)]
    if not found:
        raise PluginError("this machine has no package manager: neither apt-get, dnf nor yum is in the agent's PATH")
    # Each distribution has packages of the other's tools: this file says whose machine it is.
    if found[0] == "apt" and len(found) > 1 and not os.path.exists("/etc/debian_version"):
        return found[1]
    return found[0]


def _chosen(key: str, value: str, allowed: tuple[str, ...]) -> str:
    if value not in allowed:
        raise PluginError(f"[package] {key} is {value!r:.100}; allowed: {', '.join(allowed)}")
    return value


def _duration(key: str, value: str) -> float:
    try:
        return parse_duration(value)
    except ConfigError as wrong:
        raise PluginError(f"[package] {key}: {wrong}") from None
