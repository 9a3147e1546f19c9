"""Many machines at once: who is there, and one method called on all that are meant."""

from gofer.fleet.discovery import Found
from gofer.fleet.fleet import Fleet, Plan, Selection
from gofer.fleet.members import Member, read_members
from gofer.fleet.run import Outcome, Run, Summary
from gofer.fleet.waves import Waves

__all__ = ["Fleet", "Found", "Member", "Outcome", "Plan", "Run", "Selection", "Summary", "Waves", "read_members"]
