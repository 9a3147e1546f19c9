"""What a release is: `make dist` builds it, and it works where nothing of the repository is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from support.repository import TOP, distributions

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("dist"), pytest.mark.timeout(1000)]


def test_every_distribution_is_built_and_checked_and_the_wheels_alone_make_calls(tmp_path: Path) -> None:
    """The script checks: metadata, that sdists build again, and a demo in a fresh environment. pip needs its index."""
    folders = [str(distribution.folder.relative_to(TOP)) for distribution in distributions()]
    done = subprocess.run(
        ["scripts/dist", sys.executable, str(tmp_path / "dist"), *folders],
        cwd=TOP,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "gofer demo: all calls ended as expected" in done.stdout
    names = sorted(distribution.name.replace("-", "_") for distribution in distributions())
    assert sorted(file.name.split("-")[0] for file in tmp_path.glob("dist/*.whl")) == names
    assert sorted(file.name.split("-")[0] for file in tmp_path.glob("dist/*.tar.gz")) == names


def test_a_distribution_whose_metadata_is_wrong_is_not_built(tmp_path: Path) -> None:
    """What the test above relies on."""
    folder = tmp_path / "gofer_broken"
    folder.mkdir()
    (folder / "gofer_broken.py").write_text("")
    build = '[build-system]\nrequires = ["hatchling"]\nbuild-backend = "hatchling.build"\n'
    (folder / "pyproject.toml").write_text(f'{build}[project]\nname = "gofer-broken"\nversion = "1"\n')
    done = subprocess.run(
        ["scripts/dist", sys.executable, str(tmp_path / "dist"), str(folder)],
        cwd=TOP,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 1, done.stdout
    assert "long_description" in done.stdout
