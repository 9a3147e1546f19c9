# ruff: noqa: N999 - the name is that of gofer 2, and the point
"""What is :mod:`gofer.rmi.reply` now: ``async`` is a word of the language, so nothing can be imported from here."""

from __future__ import annotations

from typing import NoReturn

__all__: list[str] = []


def __getattr__(name: str) -> NoReturn:
    if name.startswith("__"):
        raise AttributeError(name)
    text = "gofer.rmi.async is gofer.rmi.reply now, because `async` is a keyword of Python"
    raise ImportError(f"{text}: from gofer.rmi.reply import {name}", name=__name__)
