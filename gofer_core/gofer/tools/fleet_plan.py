"""What ``gofer fleet plan`` prints: what a method does, which machines it is called on, and in which waves."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from gofer.errors import CallError, MessagingError
from gofer.tools.describe import at_address, method_lines
from gofer.tools.fleet_do import machines
from gofer.tools.output import complain, harmless, print_json

if TYPE_CHECKING:
    from gofer.fleet import Fleet, Plan, Selection

__all__ = ["print_plan", "tell_of_care"]

_NAMES = 5  # names of machines in a sentence
_TELLERS = 3  # machines that are asked for a method's documentation, until one tells


async def print_plan(fleet: Fleet, selection: Selection, method: tuple[str, str], *, as_json: bool) -> int:
    """Print what is known of the method, and the waves with their machines; return the exit status."""
    plan = selection.plan(*method)
    documentation = await _documentation(fleet, plan, method)
    if as_json:
        names = [one.name for one in plan.members]
        told = {
            "method": ".".join(method),
            "documentation": documentation,
            "destructive": [one.name for one in plan.destructive],
            "options": plan.waves.text(),
            "waves": [names[begin:end] for begin, end in pairwise([0, *plan.ends])],
        }
        print_json(told)
        return 0
    for line in documentation:
        print(harmless(line))
    print()
    if plan.waves != selection.waves:
        print(_care(plan, method))
    for n, (begin, end) in enumerate(pairwise([0, *plan.ends])):
        print(f"wave {n + 1} of {len(plan.ends)}: {'.'.join(method)} on {machines(end - begin)}")
        for member in plan.members[begin:end]:
            print(f"  {harmless(member.name)} ({harmless(member.card.address_of(method[0]))})")
    return 0


async def _documentation(fleet: Fleet, plan: Plan, method: tuple[str, str]) -> list[str]:
    """Have one of the machines tell of the method; or say why none does."""
    why = ""
    for member in plan.members[:_TELLERS]:
        try:
            told = await fleet.describe(member, method[0])
            lines = method_lines(at_address(told), *method)
        except (CallError, MessagingError) as failed:
            why = why or f"{member.name} does not tell of it: {failed}"
            continue
        except (AttributeError, KeyError, TypeError, ValueError):  # whatever an agent of somebody else's has sent
            why = why or f"{member.name} does not tell of it: its answer is no description"
            continue
        if lines:
            return [*lines, f"(from {member.name})"]
        why = why or f"{member.name} has no such method that you may call"
    return [f"{'.'.join(method)}: {why}"]


def tell_of_care(selection: Selection, method: tuple[str, str]) -> None:
    """Say so on standard error if a method gets careful waves because it is marked destructive."""
    plan = selection.plan(*method)
    if plan.waves != selection.waves and len(plan.members) > 1:
        complain("gofer fleet", _care(plan, method))


def _care(plan: Plan, method: tuple[str, str]) -> str:
    names = ", ".join(harmless(one.name) for one in plan.destructive[:_NAMES])
    more = f" and {len(plan.destructive) - _NAMES} more" if len(plan.destructive) > _NAMES else ""
    return (
        f"{'.'.join(method)} is marked destructive at {names}{more}: it is called on one machine, then on a tenth, "
        "then on the rest, up to the first failure; --ramp, --batch or --stop-after says otherwise"
    )
