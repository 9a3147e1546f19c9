"""Tiny distributions with plugins, as pip would leave them in a directory of the Python path."""

from __future__ import annotations

import textwrap
from pathlib import Path

__all__ = ["describe", "install"]


def install(
    site: Path,
    name: str,
    code: str | None = None,
    *,
    distribution: str | None = None,
    module: str | None = None,
    entry: str | None = None,
    group: str = "gofer.plugins",
    version: str = "1.0",
) -> str:
    """Put a distribution into a directory of the Python path.

    Args:
        name: of its entry point.
        code: of its module; None: there is no module.
        distribution: its name, ``gofer-plugin-<name>`` unless given.
        module: its module's name, ``<name>_module`` unless given.
        entry: what the entry point says; its module unless given.

    Returns:
        The module's name.
    """
    distribution = distribution or f"gofer-plugin-{name}"
    module = module or f"{name.replace('-', '_')}_module"
    if code is not None:
        (site / f"{module}.py").write_text(textwrap.dedent(code))
    info = site / f"{distribution.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
    (info / "entry_points.txt").write_text(f"[{group}]\n{name} = {entry or module}\n")
    return module


def describe(root: Path, name: str, text: str = "[main]\nenabled = 1\n") -> Path:
    """Write a plugin's descriptor, and return its path. A name without a suffix gets ``.conf``."""
    path = root / "etc/gofer/plugins" / (name if "." in name else f"{name}.conf")
    path.write_text(textwrap.dedent(text))
    path.chmod(0o644)
    return path
