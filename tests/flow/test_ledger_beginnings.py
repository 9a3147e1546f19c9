"""An agent that was killed between the note of a run and its beginning: the next one begins it."""

from __future__ import annotations

import json
from pathlib import Path

from gofer.rmi import records
from gofer.rmi.beginnings import Beginnings
from gofer.rmi.ledger import Ledger
from support import kennel
from support.receiving import request, served
from support.waiting import eventually


def test_a_run_that_was_noted_and_has_not_begun_is_begun_and_one_that_has_is_not(tmp_path: Path) -> None:
    documents = {name: request("Dog", "echo", name) for name in ("noted", "begun", "noted again")}
    ledger, begun = Ledger(tmp_path, lambda: None), Beginnings(tmp_path / "begun")
    for name, document in documents.items():
        for _ in range(2 if name == "noted again" else 1):
            record = records.Record(document["sn"], "kennel", json.dumps(document).encode(), None, b"d" * 16)
            ledger.call(begun.noting(records.note(record), document["sn"]))
        if name == "begun":
            begun.begins(document["sn"])
    ledger.stop()  # that is what the killed one has left

    with served(tmp_path) as serving:
        ends = {name: serving.caller.end(document["sn"])["result"] for name, document in documents.items()}
        assert ends["noted"]["retval"] == "noted"
        assert (ends["begun"]["xclass"], ends["noted again"]["xclass"]) == ("Interrupted", "Interrupted")
        assert kennel.ran() == ["noted"]
        sn = documents["noted"]["sn"]
        eventually(lambda: serving.store.call(records.find(sn)) is not None)
        found = serving.store.call(records.find(sn))
        assert found is not None
        assert found.runs == 1
