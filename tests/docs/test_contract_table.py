"""docs/brokers.md has the contract's table as the tests of the contract stand: every test, every limit."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest
from gofer.testing import AdapterContract
from support.contract_table import BEGIN, COLUMNS, END, PAGE
from support.repository import TOP

#: The classes of the contract that are columns of the table.
_FILES = ("contract/test_local.py", "brokers/test_adapter_contract.py", "brokers/test_proton_contract.py")
#: What must be kept on every broker: round trip, acknowledge, redelivery, heartbeats, TLS.
_MUST = [
    "a body arrives byte for byte",
    "what is accepted is gone and what is not comes back",
    "a message comes back when its holder dies",
    "an idle connection outlives its heartbeat",
    "a silent peer is dead after two heartbeats of ours",
    "it works over tls",
]


@pytest.fixture(scope="module")
def table() -> str:
    return PAGE.read_text("utf-8").partition(BEGIN)[2].partition(END)[0]


@pytest.fixture(scope="module")
def rows(table: str) -> dict[str, list[str]]:
    lines = [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("| ")]
    assert lines[0][1:] == list(COLUMNS.values())
    return {test: cells for test, *cells in lines[1:]}


@pytest.fixture(scope="module")
def sentences(table: str) -> dict[str, str]:
    return dict(re.findall(r"^(\d+)\. (.+)$", table, re.MULTILINE))


def columns() -> dict[str, type[AdapterContract]]:
    found: dict[str, type[AdapterContract]] = {}
    for name in _FILES:
        path = Path(TOP, "tests", name)
        spec = importlib.util.spec_from_file_location(f"contract_{path.stem}", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        found |= {each: getattr(module, each) for each in COLUMNS if hasattr(module, each)}
    return found


def test_every_test_of_the_contract_is_a_row(rows: dict[str, list[str]]) -> None:
    tests = {name.removeprefix("test_").replace("_", " ") for name in dir(AdapterContract) if name.startswith("test_")}
    assert set(rows) == tests, "`make brokers` writes the table anew"


def test_every_limit_that_fails_a_test_is_reported(rows: dict[str, list[str]], sentences: dict[str, str]) -> None:
    classes = columns()
    assert set(classes) == set(COLUMNS)
    for place, each in enumerate(COLUMNS):
        for name, why in classes[each].limits.items():
            if name.startswith("test_"):
                cell = rows[name.removeprefix("test_").partition("[")[0].replace("_", " ")][place]
                assert sentences.get(cell) == why, f"{each}.{name}: `make brokers` writes the table anew"


def test_at_most_one_cell_in_ten_does_not_pass_and_each_has_a_sentence(
    rows: dict[str, list[str]], sentences: dict[str, str]
) -> None:
    cells = [cell for row in rows.values() for cell in row]
    assert {cell for cell in cells if cell != "✓"} == set(sentences)
    assert sum(cell != "✓" for cell in cells) <= len(cells) / 10


def test_what_gofer_lives_on_passes_everywhere(rows: dict[str, list[str]], sentences: dict[str, str]) -> None:
    for test in _MUST:
        for column, cell in zip(COLUMNS, rows[test], strict=True):
            unix = column == "TestLocalAdapter" and test == "it works over tls"
            assert cell == "✓" or unix, f"{column}: {test}: {sentences[cell]}"
