"""What ``gofer stubs`` writes: mypy accepts the programs that are right and refuses the others; and they run."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from gofer.proxy import Agent
from gofer.tools.stubs import write_stubs
from support.commands import gofer
from support.goferd import AgentProcess
from support.localbroker import LocalBroker
from support.presence import until_it_answers

SHOP = '''
from typing import Any, Literal, NotRequired, TypedDict
from gofer.decorators import destructive, fork, read_only, remote, version


class Item(TypedDict):
    name: str
    count: NotRequired[int]


class Shop:
    """Sells."""

    def __init__(self, floor: int = 0) -> None:
        self.floor = floor

    @remote
    @read_only
    def list(self, kind: Literal["old", "new"] = "new") -> list[Item]:
        """List what there is.

        "All" of it: \\ and \'\'\' too.
        """
        return [{"name": kind, "count": self.floor}]

    @remote(timeout=60)
    @destructive
    def sell(self, item: Item, *prices: float, at: str | None = None, **more: bool) -> dict[str, float]:
        return {item["name"]: sum(prices)}

    @remote
    async def later(self, a, b=2):
        return [a, b]


@version("2", of="Shop")
class Shop2:
    @remote
    def str(self) -> str:
        return "second"


@remote
@fork
def count(numbers: list[int], /) -> int:
    """Count."""
    return len(numbers)
'''

BACK = """
from gofer.decorators import remote


class Back:
    @remote
    def yard(self) -> bool:
        return True
"""

RIGHT = """
import asyncio
from shop import AsyncClient, Client, Item

def run(url: str) -> list[object]:
    item: Item = {"name": "a"}
    with Client(url) as client:
        found: list[Item] = client.Shop(3).list("old")
        sold: dict[str, float] = client.Shop().sell(item, 1, 2.5, at=None, gift=True)
        number: int = client(wait=5).shop.count([1, 2])
        number += client.shop.count((1, 2))
        name: str = client["Shop", "2"].str()
        anything = client.Shop().later([1], b="x")
        yard: bool = client.Back().yard()
        hello: object = client.Admin().hello()
        return [found, sold, number, name, anything, yard, hello]

async def run_async(url: str) -> list[object]:
    async with AsyncClient(url, "shop", wait=20) as client:
        found = await client.Shop(floor=3).list()
        first: Item = found[0]
        number: int = await client.shop.count([1])
        return [first["name"], number]

def main(url: str) -> list[list[object]]:
    return [run(url), asyncio.run(run_async(url))]
"""

WRONG = [
    ('client.Shop().list("odd")', 'Argument 1 to "list" of "_Shop" has incompatible type'),
    ("client.Shop(floor='x')", 'Argument "floor" to "__call__" of "_Shop" has incompatible type "str"; expected "int"'),
    ("client.Shop().sell({'nam': 'a'})", 'Extra key "nam"'),
    ("client.Shop().sell({'name': 'a'}, 'x')", 'expected "float"'),
    ("client.Shop().sell({'name': 'a'}, extra=3)", 'expected "bool"'),
    ("client.shop.count(numbers=[1])", 'Unexpected keyword argument "numbers"'),
    ("client.shop.count(['x'])", "incompatible type"),
    ("name: int = client['Shop', '2'].str()", 'expression has type "str", variable has type "int"'),
    ("client.Shop().nothing()", 'has no attribute "nothing"'),
    ("client.Cat()", 'has no attribute "Cat"'),
    ("client(wait=[])", "incompatible type"),
    ("client['Shop', '3']", "Invalid index type"),
]

DESCRIPTOR = "[main]\nenabled=1\n{main}\n[messaging]\nurl={url}\n[model]\nqueue={name}\n"


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("stubs")
    with LocalBroker(str(folder / "broker.sock")) as broker, AgentProcess(folder / "root") as goferd:
        goferd.plugin("shop", SHOP, DESCRIPTOR.format(main="forward = back", url=broker.url, name="shop"))
        goferd.plugin("back", BACK, DESCRIPTOR.format(main="accept = shop", url=broker.url, name="back"))
        goferd.plugin("other", BACK.replace("Back", "Other"), DESCRIPTOR.format(main="", url=broker.url, name="other"))
        goferd.start()
        with Agent(broker.url, "shop", wait=30) as agent:
            until_it_answers(agent, goferd.tail())
        yield broker.url


def written(url: str, folder: Path) -> Path:
    done = gofer("stubs", "-u", url, "-a", "shop", "-o", str(folder))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == [str(folder / "shop.py"), str(folder / "shop.pyi")]
    return folder


def mypy(folder: Path, *files: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(folder / "cache"), *files],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.slow
def test_mypy_accepts_what_is_right_and_refuses_each_wrong_line_and_the_program_runs(url: str, tmp_path: Path) -> None:
    folder = written(url, tmp_path)
    (folder / "right.py").write_text(RIGHT)
    lines = ["from shop import Client", "client = Client('local://')", *(line for line, _ in WRONG)]
    (folder / "wrong.py").write_text("\n".join(lines))
    status, told = mypy(folder, "right.py", "wrong.py", "shop.pyi")
    assert status == 1
    found: dict[int, str] = {}
    for line in told.splitlines():
        if line.startswith("wrong.py:") and "error:" in line:
            number = int(line.split(":")[1])
            found[number] = found.get(number, "") + line
    assert [number for number, _ in enumerate(WRONG, 3) if number not in found] == [], told
    assert [(line, found[n]) for n, (line, says) in enumerate(WRONG, 3) if says not in found[n]] == []
    assert [line for line in told.splitlines() if line.startswith(("right.py", "shop.py"))] == []
    done = subprocess.run(
        [sys.executable, "-c", f"import json, right; print(json.dumps(right.main({url!r})))"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert json.loads(done.stdout) == [
        [[{"name": "old", "count": 3}], {"a": 3.5}, 4, "second", [[1], "x"], True, "Hello, I am gofer agent"],
        ["new", 1],
    ]


def test_only_what_the_address_answers_is_written(url: str, tmp_path: Path) -> None:
    text = (written(url, tmp_path) / "shop.pyi").read_text()
    assert "class _Back:" in text
    assert "Other" not in text
    assert "List what there is" in text


def test_a_file_that_somebody_has_written_is_left_alone(url: str, tmp_path: Path) -> None:
    written(url, tmp_path)
    written(url, tmp_path)
    (tmp_path / "shop.py").write_text("mine = 1\n")
    done = gofer("stubs", "-u", url, "-a", "shop", "-o", str(tmp_path))
    assert (done.returncode, "was not written by gofer stubs" in done.stderr) == (2, True)
    assert (tmp_path / "shop.py").read_text() == "mine = 1\n"
    done = gofer("stubs", "-u", url, "-a", "shop", "-o", str(tmp_path), "-n", "import")
    assert (done.returncode, "no name of a module" in done.stderr) == (2, True)
    done = gofer("stubs", "-u", url, "-a", "nobody", "-o", str(tmp_path))
    assert (done.returncode, done.stderr[:12]) == (4, "gofer stubs:")
    assert sorted(os.listdir(tmp_path)) == ["shop.py", "shop.pyi"]


def test_a_directory_that_cannot_be_written_is_told_in_one_line(url: str) -> None:
    done = gofer("stubs", "-u", url, "-a", "shop", "-o", "/proc/stubs")
    assert (done.returncode, done.stderr.count("\n")) == (74, 1), done.stderr
    assert done.stderr.startswith("gofer stubs: cannot write into /proc/stubs: ")


def test_describe_shows_it_to_people_and_as_json(url: str) -> None:
    done = gofer("describe", "-u", url, "-a", "shop")
    assert (done.returncode, done.stderr) == (0, "")
    for line in (
        "plugin shop",
        "  class Shop(floor: int = 0) -> None",
        "    Sells.",
        "    list(kind: Literal['old', 'new'] = 'new') -> list[shop.Item]  @read_only",
        "        \"All\" of it: \\ and ''' too.",
        "@destructive  @timeout(60 s)",
        "    shop.count(numbers: list[int], /) -> int  @fork",
        "plugin back",
    ):
        assert line in done.stdout, done.stdout
    assert "Other" not in done.stdout
    done = gofer("describe", "-u", url, "-a", "shop", "--json")
    told = json.loads(done.stdout)
    shop = next(one for one in told["plugins"] if one["plugin"] == "shop")
    sell = next(one for one in shop["classes"][0]["methods"] if one["name"] == "sell")
    assert (told["asked"], shop["forwards"], sell["destructive"], sell["timeout"]) == ("shop", ["back"], True, 60.0)
    assert sell["schema"]["properties"]["item"] == {"$ref": "#/$defs/Item"}
    assert sell["schema"]["$defs"]["Item"]["required"] == ["name"]
    assert sell["returns"] == {"type": "object", "additionalProperties": {"type": "number"}} | {
        "$defs": sell["returns"]["$defs"]
    }


EVIL = "x(): pass\nimport os; os.abort()\nclass y"


def evil(**more: Any) -> dict[str, Any]:
    method = {
        "name": "bark",
        "documentation": f"'''\n{EVIL}\n\"\"\"",
        "doc": EVIL,
        "parameters": [
            {"name": "a", "kind": "keyword_only", "type": EVIL, "schema": {"enum": [EVIL, "'"]}, "default": EVIL}
        ],
        "schema": {
            "$defs": {EVIL: {"type": "object", "properties": {EVIL: {"type": EVIL}, "class": {}}, "required": [EVIL]}}
        },
        "returns": {
            "anyOf": [{"$ref": f"#/$defs/{EVIL}"}, {"type": [EVIL]}, {"enum": [{"a": EVIL}]}, EVIL],
            "$defs": {EVIL: {"type": "object", "properties": {EVIL: {"enum": [EVIL]}, "b": 3}}},
        },
        "typed": True,
        **more,
    }
    cls = {"name": "Dog", "parameters": [], "schema": {}, "methods": [method, {**method, "name": EVIL}]}
    return {
        "asked": "dog",
        "plugins": [
            {
                "plugin": "dog",
                "names": ["dog", EVIL, "_dog", "class", "__init__"],
                "forwards": [],
                "classes": [cls, {**cls, "name": EVIL}, {**cls, "name": f"Dog@{EVIL}"}, {**cls, "name": "None"}],
                "functions": [method, {**method, "name": "__call__"}, {**method, "parameters": [{"name": EVIL}]}],
            }
        ],
    }


@pytest.mark.parametrize("address", ["dog", f'\'"""{EVIL}', None])
def test_nothing_that_an_agent_says_becomes_code(address: str | None) -> None:
    source, types, left = write_stubs(evil(), address)
    for text in (source, types):
        tree = ast.parse(text)
        names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        assert "os" not in names
        assert not [node for node in ast.walk(tree) if isinstance(node, ast.Import)]
        assert {node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef)} <= {
            *("Client", "AsyncClient", "_Dog", "_dog", "_Dog__async", "_dog__async", "Dict", "Dict2"),
        }
    assert left[:2] == [f"Dog.{EVIL}", EVIL]
    assert {f"Dog@{EVIL}", "None", "dog.__call__"} <= set(left)
