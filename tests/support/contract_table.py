"""The table of adapters, brokers and tests in docs/brokers.md, written by the run of the contract on all of them.

``make brokers`` sets ``GOFER_CONTRACT_TABLE``; a run that was whole and green writes the table anew.
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

    def why_not(self) -> str | None:
        """Say why the table is not written; None: it is."""
        missing = [COLUMNS[each] for each in COLUMNS if each not in {column for _, column in self._cells}]
        tests = {test for test, _ in self._cells}
        partly = [each for each in COLUMNS if not missing and any((test, each) not in self._cells for test in tests)]
        if self._failed:
            return f"these failed: {', '.join(COLUMNS[each] for each in COLUMNS if each in self._failed)}"
        if missing:
            return f"these did not run: {', '.join(missing)}"
        return f"these ran in part: {', '.join(COLUMNS[each] for each in partly)}" if partly else None

    def text(self) -> str:
        """Return the table, and the sentences that its numbers stand for."""
        sentences: dict[str, int] = {}
        lines = [f"| the contract | {' | '.join(COLUMNS.values())} |", f"|---{'|:-:' * len(COLUMNS)}|"]
        for test in sorted({test for test, _ in self._cells}):
            cells = []
            for column in COLUMNS:
                why = self._cells[test, column]
                cells.append(str(sentences.setdefault(why, len(sentences) + 1)) if why else _PASS)
            lines.append(f"| {test.replace('_', ' ')} | {' | '.join(cells)} |")
        passed = sum(not why for why in self._cells.values())
        lines += ["", f"{passed} of {len(self._cells)} cells pass. The numbers say why the others do not:", ""]
        return "\n".join([*lines, *(f"{number}. {sentence}" for sentence, number in sentences.items())]) + "\n"

    def write(self, page: Path = PAGE) -> None:
        """Put the table into the page, in place of the one that it has."""
        before, begin, rest = page.read_text("utf-8").partition(BEGIN)
        _, end, after = rest.partition(END)
        page.write_text(f"{before}{begin}\n{self.text()}\n{end}{after}", "utf-8")


_table = ContractTable()


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Note what becomes of a test of the contract."""
    _table.record(report)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Write the table, at the end of a run that is to do it."""
    if os.environ.get("GOFER_CONTRACT_TABLE"):
        why_not = _table.why_not()
        if why_not is None:
            _table.write()
        became = "written" if why_not is None else f"as it was: {why_not}"
        terminalreporter.write_line(f"docs/{PAGE.name}: the contract's table is {became}")
