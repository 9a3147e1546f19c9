"""docs/configuration.md holds every section and key, as the tables say that configuration is read by."""

from __future__ import annotations

import re

from gofer.agent.config.agent import AGENT
from gofer.agent.config.descriptor import DESCRIPTOR
from support.reference import PAGE, written
from support.repository import TOP


def test_the_reference_is_the_one_that_configuration_is_read_by() -> None:
    page = PAGE.read_text("utf-8")
    assert page.splitlines() == written(page).splitlines(), "`make reference` writes it as it should be"


def test_it_is_written_anew_whatever_it_said() -> None:
    page = PAGE.read_text("utf-8")
    spoiled = re.sub(r"^### `\[model\]`.*?\n\n", "### `[modell]`\n\n", page, flags=re.MULTILINE)
    spoiled = re.sub(r"^\| `url` \|.*\n", "", spoiled, flags=re.MULTILINE)
    assert spoiled != page
    assert written(spoiled) == written(page)


def test_every_section_and_key_is_in_it() -> None:
    page = PAGE.read_text("utf-8")
    for schema in (AGENT, DESCRIPTOR):
        for key in schema.keys:
            assert f"| `{key.name}` | " in page
            assert f"### `[{key.section}]`\n" in page


def test_every_code_of_a_rejection_is_in_the_table_of_errors() -> None:
    source = "\n".join(path.read_text("utf-8") for path in sorted((TOP / "gofer_core/gofer").rglob("*.py")))
    codes = set(re.findall(r'\bRefusal\(\s*"([a-z]+\.[a-z]+)"', source))
    assert {"agent.busy", "model.size", "plugin.unloaded"} <= codes
    told = set(re.findall(r"`([a-z]+\.[a-z]+)`", (TOP / "docs/errors.md").read_text("utf-8")))
    assert codes - told == set()
