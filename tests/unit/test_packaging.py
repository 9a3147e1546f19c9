"""What `pip install` gets: the wheel of every distribution, built and opened."""

from __future__ import annotations

import configparser
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest
from support import metadata as shared
from support.repository import TOP, Distribution, distributions, settings
from support.wheels import build_wheels

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("packaging")]  # one process makes what the module shares

DISTRIBUTIONS = distributions()


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, zipfile.Path]:
    """Every distribution's wheel, by its name, built without the network by the build backend installed here."""
    target = tmp_path_factory.mktemp("wheels")
    files = build_wheels(target, (distribution.folder for distribution in DISTRIBUTIONS))
    built = {file.name.split("-")[0].replace("_", "-"): zipfile.Path(file) for file in files}
    assert sorted(built) == sorted(distribution.name for distribution in DISTRIBUTIONS)
    return built


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, wheels: dict[str, zipfile.Path]) -> Path:
    """A directory into which pip installed all those wheels, with their commands in its bin/."""
    target = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-compile"]
    done = subprocess.run(
        [*command, "--target", str(target), *(str(wheel.root.filename) for wheel in wheels.values())],
        check=False,
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert done.returncode == 0, done.stderr
    return target


def run(site: Path, *arguments: str) -> str:
    """Run the interpreter where no source of gofer comes before what is installed in ``site``; return its output."""
    environ = {**os.environ, "PYTHONPATH": str(site), "HOME": str(site / "nowhere")}
    done = subprocess.run(
        [sys.executable, *arguments], check=False, env=environ, cwd=site, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(params=DISTRIBUTIONS, ids=lambda distribution: distribution.name)
def distribution(request: pytest.FixtureRequest) -> Distribution:
    """Each distribution in turn."""
    chosen: Distribution = request.param
    return chosen


@pytest.fixture
def files(distribution: Distribution, wheels: dict[str, zipfile.Path]) -> dict[str, zipfile.Path]:
    """The files of its wheel, by their paths inside."""
    archive = wheels[distribution.name].root
    return {name: zipfile.Path(archive, name) for name in archive.namelist()}


def info(files: dict[str, zipfile.Path], name: str) -> str:
    """Read a file of the wheel's .dist-info."""
    (found,) = (path for path in files if path.partition("/")[2] == name and ".dist-info/" in path)
    return files[found].read_text("utf-8")


def metadata(files: dict[str, zipfile.Path]) -> Message:
    return Parser().parsestr(info(files, "METADATA"))


def template(path: str) -> bool:
    """Tell whether a file, or the files of a folder, are what ``gofer new`` writes."""
    return "/templates/" in path


def test_a_wheel_holds_every_module_of_its_package(distribution: Distribution, files: dict[str, zipfile.Path]) -> None:
    ours = {str(path.relative_to(distribution.folder)) for _, path in distribution.modules()}

    assert ours, "a distribution without a module"
    assert {path for path in files if path.endswith(".py")} == ours


def test_a_wheel_holds_one_package_that_is_typed_and_no_tests(
    distribution: Distribution, files: dict[str, zipfile.Path]
) -> None:
    tops = {path.partition("/")[0] for path in files}

    assert {top for top in tops if not top.endswith(".dist-info")} == {distribution.package}
    assert f"{distribution.package}/py.typed" in files
    assert not [
        path for path in files if path.rpartition("/")[2].startswith(("test_", "conftest")) and not template(path)
    ]
    assert not [path for path in files if "/tests/" in path and not template(path)]


def test_metadata_is_complete(distribution: Distribution, files: dict[str, zipfile.Path]) -> None:
    found = metadata(files)

    assert found["Name"] == distribution.name
    assert found["Version"] == metadata_version(distribution)
    assert found["Summary"]
    assert found["License-Expression"] == "LGPL-2.1-or-later"
    assert found["Requires-Python"] == ">=3.11"
    assert found["Description-Content-Type"] == "text/markdown"
    assert str(found.get_payload()).strip() == (distribution.folder / "README.md").read_text("utf-8").strip()


def test_a_wheel_holds_the_licence_and_no_link_or_text_that_stands_for_another(
    distribution: Distribution, files: dict[str, zipfile.Path]
) -> None:
    found = metadata(files)

    assert found.get_all("License-File") == ["LICENSE"]
    assert info(files, "licenses/LICENSE") == (TOP / "LICENSE").read_text("utf-8")
    assert found.get_all("Classifier") == settings()["tool"]["gofer"]["classifiers"]
    for link in found.get_all("Project-URL", []):
        assert "://" in link
        assert "example" not in link
    # A package index shows the README without the files beside it.
    readme = str(found.get_payload())
    assert not [target for target in re.findall(r"\]\(([^)]+)\)", readme) if "://" not in target]
    assert not re.search(r"\b(TODO|TBD|FIXME|placeholder)\b", f"{readme} {found['Summary']}", re.IGNORECASE)


def test_what_all_distributions_share_was_copied_into_each() -> None:
    assert [str(file.relative_to(TOP)) for file, _ in shared.stale()] == [], "type: make metadata"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('version = "1"', 'version = "{version}"'),
        (
            'dependencies = ["gofer-core>=1", "amqp>=5"] # why',
            'dependencies = ["gofer-core>={version}", "amqp>=5"] # why',
        ),
        ('dependencies = ["gofer-core[pam]"]', 'dependencies = ["gofer-core[pam]>={version}"]'),
        ('dependencies = ["gofers>=1"]', 'dependencies = ["gofers>=1"]'),
        ('classifiers = ["Typing :: Typed"]', None),
    ],
)
def test_metadata_is_written_from_one_place_and_the_rest_is_left(before: str, after: str | None) -> None:
    declared = settings()["tool"]["gofer"]
    text = f'[project]\nname = "gofer-x"\n{before}\n\n[tool.x] # left\ny = 1\n'

    new = shared.written(text)

    assert {key: tomllib.loads(new)["project"][key] for key in declared} == declared
    assert new.endswith("\n[tool.x] # left\ny = 1\n")
    assert after is None or after.format(**declared) in new.splitlines()
    assert shared.written(new) == new


def metadata_version(distribution: Distribution) -> str:
    return str(distribution.declared["project"]["version"])


def test_all_distributions_have_one_version() -> None:
    assert len({metadata_version(each) for each in DISTRIBUTIONS}) == 1


def test_the_core_requires_no_distribution_of_ours_and_all_others_require_the_core(
    distribution: Distribution, files: dict[str, zipfile.Path]
) -> None:
    ours = [text for text in metadata(files).get_all("Requires-Dist", []) if text.startswith("gofer")]

    if distribution.package == "gofer":
        assert ours == []
    else:
        assert ours == [f"gofer-core>={metadata_version(distribution)}"]


def test_entry_points_are_those_declared_and_lead_to_what_is_there(
    distribution: Distribution, files: dict[str, zipfile.Path], site: Path
) -> None:
    parser = configparser.ConfigParser(delimiters=("=",), interpolation=None)
    parser.optionxform = str  # type: ignore[assignment, method-assign]  # names keep their case, as pip reads them
    parser.read_string(info(files, "entry_points.txt"))
    found = {section: dict(parser[section]) for section in parser.sections()}
    project = distribution.declared["project"]
    declared = dict(project.get("entry-points", {}))
    if "scripts" in project:
        declared["console_scripts"] = project["scripts"]

    assert found == declared

    values = sorted({value for group in found.values() for value in group.values()})
    code = f"import sys, pkgutil, {distribution.package} as package; print(package.__file__)"
    home = run(site, "-c", f"{code}; [pkgutil.resolve_name(value) for value in sys.argv[1:]]", *values)
    assert home.startswith(str(site))


@pytest.mark.parametrize("command", ["gofer", "goferd"])
def test_the_core_gives_two_commands(command: str, site: Path) -> None:
    output = run(site, str(site / "bin" / command), "--help")

    assert "usage" in output.lower()
    assert str(TOP) not in output


def test_goferd_and_its_adapters_load_neither_click_nor_rich_nor_cryptography(site: Path) -> None:
    modules = ["gofer.agent.main", "gofer.messaging.local.adapter", "gofer_adapter_amqp", "gofer_adapter_qpid"]
    code = f"import sys, {', '.join(modules)}; print(*sys.modules)"

    loaded = set(run(site, "-c", code).split())

    assert loaded >= set(modules)
    assert not {name.partition(".")[0] for name in loaded} & {"click", "rich", "cryptography"}
