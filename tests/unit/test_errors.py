"""The tree of errors: as its docstring draws it, and whole wherever an error is carried."""

from __future__ import annotations

import copy
import pickle
import re
from collections.abc import Iterator

import pytest
from gofer import errors
from gofer.errors import DocumentError, GoferError, MemberNotFound, NotTaken, Rejected, RemoteException, RequestTimeout

EXAMPLES: list[GoferError] = [
    DocumentError("model.invalid", "MODEL: document not valid", "here"),
    RequestTimeout("sn-1", 2.5, "started", "it was started by the agent", {"completed": 1}),
    Rejected("sn-1", "hook.refused", "not today", ["details"]),
    NotTaken({"sn-1": "nobody listens there"}),
    RemoteException("the trace", "wire", "MyError", ["This is"], {"b": 23}),
    *(
        getattr(errors, name)("some text")
        for name in errors.__all__
        if name not in {"DocumentError", "RequestTimeout", "Rejected", "NotTaken", "RemoteException"}
    ),
]


def drawn() -> Iterator[tuple[str, str, set[str]]]:
    """Yield what the docstring draws: an error's name, its parent's in the tree, and those in parentheses behind it."""
    above: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        found = re.match(
            r"    (?P<branch>(?:[│ ]   )*(?:[├└]── )?)(?P<names>[A-Z]\w+(?:, [A-Z]\w+)*)(?: \((\w+)\))?", line
        )
        if found is None:
            continue
        depth = len(found["branch"]) // 4
        for name in found["names"].split(", "):
            yield name, above[depth - 1] if depth else "Exception", {found[3]} - {None}
            above[depth:] = [name]


def test_the_docstring_draws_the_tree_as_it_is() -> None:
    lines = list(drawn())

    assert [name for name, _, _ in lines] == errors.__all__
    for name, parent, others in lines:
        bases = {base.__name__ for base in getattr(errors, name).__bases__}
        assert bases == {parent, *others}, name


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_an_error_is_whole_after_a_copy_and_a_pickle(error: GoferError) -> None:
    """Process pools and loggers carry errors so."""
    for other in (copy.copy(error), copy.deepcopy(error), pickle.loads(pickle.dumps(error))):
        assert type(other) is type(error)
        assert str(other) == str(error)
        assert other.args == error.args
        assert vars(other) == vars(error)


def test_a_timeout_is_a_timeout_and_no_error_of_the_system() -> None:
    """TimeoutError is an OSError, which would make file names of such arguments."""
    error = RequestTimeout("sn-1", 2.5, "queued", "the broker has it", None)

    assert isinstance(error, TimeoutError)
    assert (error.errno, error.strerror, error.filename) == (None, None, None)
    assert error.args == ("sn-1", 2.5, "queued", "the broker has it", None)
    assert str(error) == "request sn-1: no result after 2.5 s: the broker has it"
    assert (error.sn, error.sn()) == ("sn-1", "sn-1")  # a method, in gofer 2
    assert type(error.sn()) is str
    assert str(RequestTimeout("sn-1", None, "sent", "gone")) == "request sn-1: no result: gone"


def test_a_rejection_says_what_and_why() -> None:
    assert str(Rejected("sn-1", "hook.refused", "not today")) == "request sn-1 rejected: not today (hook.refused)"
    assert str(Rejected("sn-1", "a.b", "no", {"x": 1})) == "request sn-1 rejected: no (a.b): {'x': 1}"
    assert str(DocumentError("model.invalid", "not valid")) == "not valid (model.invalid)"


def test_what_was_not_taken_is_counted_and_its_first_three_are_shown() -> None:
    error = NotTaken({f"sn-{n}": f"why {n}" for n in range(5)})

    assert str(error) == (
        "5 request(s) sent without waiting were not taken: sn-0: why 0; sn-1: why 1; sn-2: why 2 (and 2 more)"
    )
    assert len(error.reasons) == 5


def test_a_remote_exceptions_text_is_its_trace() -> None:
    error = RemoteException("Traceback ...\nwire.MyError: no", "wire", "MyError", ["no"], {"b": 23})

    assert str(error) == "Traceback ...\nwire.MyError: no"
    assert (error.xmodule, error.xclass, error.xargs, error.xstate) == ("wire", "MyError", ["no"], {"b": 23})


def test_a_missing_method_is_a_sentence_even_if_its_agent_sends_the_name_alone() -> None:
    """As agents of 2.12 do."""
    assert str(MemberNotFound("brak")) == "no remote method 'brak'"
    assert str(MemberNotFound("brak", "Dog has no remote method 'brak'")) == "Dog has no remote method 'brak'"


def test_errors_of_a_call_name_its_method_and_its_address() -> None:
    for error, text in (
        (RequestTimeout("sn-1", 5, "sent", "it was sent"), "no result after 5 s: it was sent (request sn-1)"),
        (Rejected("sn-1", "hook.refused", "not today"), "rejected: not today (hook.refused) (request sn-1)"),
        (MemberNotFound("bark", "Dog has no remote method 'bark'"), "Dog has no remote method 'bark'"),
    ):
        error.method, error.address = "Dog.bark", "kennel"
        assert str(error) == f"Dog.bark() at 'kennel': {text}"
    late = errors.ExecutionTimeout("Dog.bark() took longer than 5 s")
    late.method, late.address = "Dog.bark", "kennel"
    assert str(late) == "Dog.bark() at 'kennel' took longer than 5 s"
