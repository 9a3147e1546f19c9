"""The table of adapters, brokers and tests in docs/brokers.md, written by the run of the contract on all of them.

``make brokers`` sets ``GOFER_CONTRACT_TABLE``. It writes the columns that ran as a whole and did not fail; others stay.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

__all__ = ["BEGIN", "COLUMNS", "END", "PAGE", "ContractTable"]

PAGE = Path(__file__).parents[2] / "docs/brokers.md"
BEGIN, END = "<!-- contract table: written by `make brokers` -->\n", "<!-- end of the contract table -->\n"

#: The classes of the contract, and what their columns are called.
COLUMNS = {
    "TestLocalAdapter": "`local`",
    "TestAmqpOnRabbitMQ3": "`amqp` RabbitMQ 3.10",
    "TestAmqpOnRabbitMQ4": "`amqp` RabbitMQ 4.0",
    "TestAmqpOnBrokerJ": "`amqp` Broker-J",
    "TestProtonOnRabbitMQ3": "`proton` RabbitMQ 3.10",
    "TestProtonOnRabbitMQ4": "`proton` RabbitMQ 4.0",
    "TestProtonOnBrokerJ": "`proton` Broker-J",
    "TestProtonOnArtemis": "`proton` Artemis",
    "TestQpidOnBrokerJ": "`qpid` Broker-J",
}
_NODE = re.compile(r".*::(?P<class>\w+)::test_(?P<test>\w+)(\[.*\])?(@.*)?")
_PASS = "✓"


class ContractTable:
    """What became of each test in each column: empty where it passed, else the sentence that says why not."""

    def __init__(self) -> None:
        self._cells: dict[tuple[str, str], str] = {}
        self._failed: set[str] = set()

    def record(self, report: pytest.TestReport) -> None:
        """Note one phase of one test."""
        found = _NODE.fullmatch(report.nodeid)
        if found is None or found["class"] not in COLUMNS:
            return
        cell = (found["test"], found["class"])
        if report.failed:
            self._failed.add(found["class"])
        elif report.skipped:
            reason = getattr(report, "wasxfail", None) or report.longrepr[2].removeprefix("Skipped: ")  # type: ignore[index] # file, line, reason
            self._cells[cell] = reason
        elif report.when == "call":
            self._cells.setdefault(cell, "")

    def keep(self, page: str) -> None:
        """Take from the page's table what did not run, or not as a whole, or failed."""
        tests = _tests()
        text = page.partition(BEGIN)[2].partition(END)[0]
        sentences = dict(re.findall(r"^(\d+)\. (.+)$", text, re.MULTILINE))
        rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
        for place, column in enumerate(COLUMNS, 1):
            if column in self._failed or any((test, column) not in self._cells for test in tests):
                for test in tests:
                    self._cells.pop((test, column), None)
                for row in rows[1:]:
                    test = row[0].replace(" ", "_")
                    if rows[0][place : place + 1] == [COLUMNS[column]] and test in tests:
                        self._cells[test, column] = sentences.get(row[place], "")

    def why_not(self) -> str | None:
        """Say what the table lacks; None: nothing."""
        columns = {column for _, column in self._cells}
        missing = [name for column, name in COLUMNS.items() if column not in columns]
        return f"these failed, or did not run: {', '.join(missing)}" if missing else None

    def text(self) -> str:
        """Return the table, and the sentences that its numbers stand for."""
        sentences: dict[str, int] = {}
        lines = [f"| the contract | {' | '.join(COLUMNS.values())} |", f"|---{'|:-:' * len(COLUMNS)}|"]
        for test in sorted(_tests()):
            cells = []
            for column in COLUMNS:
                why = self._cells.get((test, column), "It was not tested.")
                cells.append(str(sentences.setdefault(why, len(sentences) + 1)) if why else _PASS)
            lines.append(f"| {test.replace('_', ' ')} | {' | '.join(cells)} |")
        passed, all_of_them = sum(not why for why in self._cells.values()), len(_tests()) * len(COLUMNS)
        lines += ["", f"{passed} of {all_of_them} cells pass. The numbers say why the others do not:", ""]
        return "\n".join([*lines, *(f"{number}. {sentence}" for sentence, number in sentences.items())]) + "\n"

    def write(self, page: Path = PAGE) -> None:
        """Put the table into the page, in place of the one that it has."""
        before, begin, rest = page.read_text("utf-8").partition(BEGIN)
        _, end, after = rest.partition(END)
        page.write_text(f"{before}{begin}\n{self.text()}\n{end}{after}", "utf-8")


def _tests() -> set[str]:
    """Return the names of the contract's tests."""
    from gofer.testing import AdapterContract

    return {name.removeprefix("test_") for name in dir(AdapterContract) if name.startswith("test_")}


_table = ContractTable()


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Note what becomes of a test of the contract."""
    _table.record(report)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Write the table, at the end of a run that is to do it."""
    if os.environ.get("GOFER_CONTRACT_TABLE"):
        _table.keep(PAGE.read_text("utf-8"))
        why_not = _table.why_not()
        _table.write()
        became = "whole" if why_not is None else f"not whole: {why_not}"
        terminalreporter.write_line(f"docs/{PAGE.name}: the contract's table is {became}")
