"""What SIGHUP loads, reloads and unloads, from the descriptors and the plugins that there are."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from gofer.agent.plugin import State
from gofer.agent.sighup import Changes, decide, descriptors_of
from gofer.root import Root


@dataclass(frozen=True)
class Described:
    """What a decision looks at in a descriptor."""

    name: str
    enabled: bool = True
    text: str = "as it was"
    file: Path = Path("/etc/gofer/plugins/x.conf")
    access: str = ""

    def differs_in_access_alone(self, other: Described) -> bool:
        return self.access != other.access and replace(self, access=other.access) == other


@dataclass
class Loaded:
    """What a decision looks at in a plugin."""

    descriptor: Described
    state: State = State.RUNNING

    @property
    def name(self) -> str:
        return self.descriptor.name

    @property
    def is_running(self) -> bool:
        return self.state is State.RUNNING


DOG, CHANGED, OFF = Described("dog"), Described("dog", text="another"), Described("dog", enabled=False)
OPEN = Described("dog", access="all")


@pytest.mark.parametrize(
    ("now", "plugin", "changes"),
    [
        (DOG, None, Changes([], [], [DOG], [])),  # new
        (OFF, None, Changes([], [], [OFF], [])),  # new and off: it is shown
        (None, Loaded(DOG), Changes([], ["dog"], [], [])),  # gone
        (DOG, Loaded(DOG), Changes([], [], [], [])),
        (CHANGED, Loaded(DOG), Changes([], [], [], ["dog"])),
        (OPEN, Loaded(DOG), Changes([OPEN], [], [], [])),
        (replace(CHANGED, access="all"), Loaded(DOG), Changes([], [], [], ["dog"])),
        (OPEN, Loaded(DOG, State.QUARANTINED), Changes([], ["dog"], [OPEN], [])),
        (OFF, Loaded(DOG), Changes([], ["dog"], [OFF], [])),  # switched off
        (DOG, Loaded(OFF, State.DISABLED), Changes([], ["dog"], [DOG], [])),  # switched on
        (OFF, Loaded(OFF, State.DISABLED), Changes([], [], [], [])),
        (DOG, Loaded(DOG, State.QUARANTINED), Changes([], ["dog"], [DOG], [])),  # tried again
        (CHANGED, Loaded(DOG, State.QUARANTINED), Changes([], ["dog"], [CHANGED], [])),
        (CHANGED, Loaded(DOG, State.LOADING), Changes([], ["dog"], [CHANGED], [])),
        (DOG, Loaded(DOG, State.LOADING), Changes([], [], [], [])),
    ],
)
def test_what_is_done_with_a_plugin(now: Any, plugin: Any, changes: Changes) -> None:
    wanted = {} if now is None else {now.name: now}
    assert decide(wanted, [] if plugin is None else [plugin]) == changes


def test_each_plugin_is_decided_about_by_itself() -> None:
    cat, cow, owl = Described("cat"), Described("cow", text="another"), Described("owl")
    wanted: dict[str, Any] = {one.name: one for one in (DOG, cow, owl)}
    plugins: list[Any] = [Loaded(DOG), Loaded(cat), Loaded(Described("cow"))]
    assert decide(wanted, plugins) == Changes([], ["cat"], [owl], ["cow"])
    assert set(wanted) == {"dog", "cow", "owl"}  # left as it was


def test_a_plugin_stays_whose_descriptor_cannot_be_read_now(tmp_path: Path) -> None:
    root = Root(tmp_path)
    broken = Described("dog", file=root.descriptors / "dog.conf")
    gone = Described("cat", file=root.descriptors / "cat.conf")
    plugins: list[Any] = [Loaded(broken), Loaded(gone)]
    kept = {str(broken.file)}
    assert descriptors_of([], plugins, root, kept) == {"dog": broken}
    assert descriptors_of([], plugins, root, ()) == {}
