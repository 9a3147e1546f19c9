"""The rules of the house that ruff, mypy and import-linter cannot express, read off the source."""

from __future__ import annotations

import ast
import functools
import re
import tokenize
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.repository import TOP, distributions, settings, tracked

pytestmark = pytest.mark.xdist_group("house-rules")  # one process parses the modules

# Module-level state that has to be: "module.name", and why.
STATE = {
    "gofer.agent.logs._second": "the text of the present second: each line carries it",
    "gofer.agent.plugin._current": "a ContextVar: which plugin's code runs, for Plugin.find without an argument",
    "gofer.entry_points._read": "what is installed: reading it takes milliseconds, and each connection asks",
    "gofer.rmi.context._current": "a ContextVar: which request's method runs, for Context.current",
    "gofer.rmi.client.agent.seam": "what stands in for all agents of the process: None but in tests with mocks",
    "gofer.messaging.connector.added": "the connectors that a program has added, as gofer 2 had them: by their URLs",
    "gofer.messaging.document._timestamp_of": "the text of the present second: each reply carries it",
    "gofer.messaging.stamped._read": "the last signatures, read: each is checked, and then asked for its nonce",
    "gofer.rmi.server.nonces._realm_of": "short digests of the signers' names: each signed request needs its signer's",
    "gofer.tracing.slot": "what traces the calls of the process: None unless somebody has put it there",
    "gofer.messaging.pool.pool": "one connection per broker and process; counted, and emptied in a forked child",
}

STATEFUL = re.compile(
    "list|dict|set|bytearray|deque|defaultdict|OrderedDict|Counter|ChainMap|count|cycle|local|ContextVar|R?Lock|"
    "Condition|Event|Semaphore|Barrier|(Simple|Lifo|Priority)?Queue|Thread|Timer|Weak(Set|KeyDictionary|ValueDictionary)"
    "|\\w*Executor|(System)?Random"
)
# What a lower-case name at module level may hold: objects that are called and never change.
CALLED = re.compile(
    "Command|Group|Encoder|Decoder|HookspecMarker|HookimplMarker|TypeVar|ParamSpec|TypeVarTuple|NewType"
)
CHANGING = re.compile("append|extend|insert|add|update|setdefault|pop|popitem|remove|discard|clear|sort|reverse")
TOP_DIRECTORY = re.compile("bin|boot|dev|etc|home|lib|media|mnt|opt|private|proc|root|run|sbin|srv|sys|tmp|usr|var")


@dataclass(frozen=True)
class Source:
    """One module, parsed."""

    name: str
    path: Path
    tree: ast.Module

    @functools.cached_property
    def nodes(self) -> list[ast.AST]:
        """All of the tree, once for all rules."""
        return list(ast.walk(self.tree))

    def at(self, node: ast.stmt | ast.expr | ast.ExceptHandler, what: str) -> str:
        return f"{self.path.relative_to(TOP)}:{node.lineno}: {what}"


@functools.cache
def sources() -> list[Source]:
    """Parse every module, once."""
    return [
        Source(name, path, ast.parse(path.read_bytes(), path))
        for distribution in distributions()
        for name, path in distribution.modules()
    ]


def last_name(node: ast.expr) -> str:
    """Name what an expression ends in: ``Lock`` for ``threading.Lock()``, ``dict`` for ``dict[str, int]``."""
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
        case ast.Call(func=inner) | ast.Subscript(value=inner):
            return last_name(inner)
    return ""


def star_imports(source: Source) -> Iterator[str]:
    for node in source.nodes:
        if isinstance(node, ast.ImportFrom) and any(alias.name == "*" for alias in node.names):
            yield source.at(node, f"from {node.module} import *")


def subclassed_threads_and_processes(source: Source) -> Iterator[str]:
    for node in source.nodes:
        if isinstance(node, ast.ClassDef) and {last_name(base) for base in node.bases} & {"Thread", "Process", "Timer"}:
            yield source.at(node, f"{node.name} subclasses a thread or process; give one a target instead")


def metaclasses(source: Source) -> Iterator[str]:
    for node in source.nodes:
        if isinstance(node, ast.ClassDef) and (
            any(keyword.arg == "metaclass" for keyword in node.keywords)
            or {last_name(base) for base in node.bases} & {"type", "ABCMeta", "EnumMeta", "EnumType"}
        ):
            yield source.at(node, f"{node.name} has, or is, a metaclass")


def swallowed_errors(source: Source) -> Iterator[str]:
    for node in source.nodes:
        if not isinstance(node, ast.ExceptHandler):
            continue
        if node.type is None:
            yield source.at(node, "a bare except")
            continue
        caught = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
        idle = all(
            isinstance(each, ast.Pass | ast.Continue)
            or (isinstance(each, ast.Expr) and isinstance(each.value, ast.Constant))
            for each in node.body
        )
        if idle and {last_name(each) for each in caught} & {"Exception", "BaseException"}:
            yield source.at(node, "catches everything and does nothing")


def state(source: Source) -> Iterator[str]:
    """Find module-level objects that can change.

    A table is none: an upper-case literal that its module never changes. Nor is an upper-case object of a class that
    is not known to be stateful, nor what a lower-case function returned.
    """
    changed = {name for node in source.nodes for name in changed_names(node)}
    for node in top_level(source.tree.body):
        match node:
            case ast.Assign(targets=targets, value=value):
                names = [target.id for target in targets if isinstance(target, ast.Name)]
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value):
                names = [name]
            case _:
                continue
        literal = isinstance(value, ast.List | ast.Dict | ast.Set | ast.ListComp | ast.DictComp | ast.SetComp)
        empty = not (getattr(value, "elts", None) or getattr(value, "keys", None) or getattr(value, "generators", None))
        made = last_name(value) if isinstance(value, ast.Call) else ""
        for name in names:
            ours = made[:1].isupper() and not name.isupper() and not CALLED.fullmatch(made)
            stateful = STATEFUL.fullmatch(made) is not None or ours
            table = literal and not empty and name.isupper() and name not in changed
            mutable = stateful or (literal and name != "__all__" and not table) or name in changed
            if mutable and f"{source.name}.{name}" not in STATE:
                yield source.at(node, f"{name} is module-level state")


def caches(source: Source) -> Iterator[str]:
    for node in top_level(source.tree.body):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and f"{source.name}.{node.name}" not in STATE:
            for decorator in node.decorator_list:
                if last_name(decorator) in {"cache", "lru_cache"}:
                    yield source.at(node, f"{node.name} keeps what it returned in module-level state")


def top_level(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Yield the statements that run at import, those under ``if``, ``try`` and ``with`` too."""
    for node in body:
        yield node
        for field in ("body", "orelse", "finalbody"):
            if isinstance(node, ast.If | ast.Try | ast.With | ast.For):
                yield from top_level(getattr(node, field, []))


def changed_names(node: ast.AST) -> Iterator[str]:
    """Yield the names that a piece of code declares global, stores into, or calls a changing method of."""
    match node:
        case ast.Global(names=names):
            yield from names
        case ast.Subscript(value=ast.Name(id=name), ctx=ast.Store() | ast.Del()):
            yield name
        case ast.Call(func=ast.Attribute(value=ast.Name(id=name), attr=method)) if CHANGING.fullmatch(method):
            yield name


RULES: list[Callable[[Source], Iterator[str]]] = [
    star_imports,
    subclassed_threads_and_processes,
    metaclasses,
    swallowed_errors,
    state,
    caches,
]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_no(rule: Callable[[Source], Iterator[str]]) -> None:
    found = [line for source in sources() for line in rule(source)]

    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        (star_imports, "from os import *"),
        (subclassed_threads_and_processes, "class Pump(threading.Thread): ..."),
        (metaclasses, "class One(metaclass=Singleton): ..."),
        (metaclasses, "class Singleton(type): ..."),
        (swallowed_errors, "try: f()\nexcept: g()"),
        (swallowed_errors, "try: f()\nexcept (OSError, Exception): pass"),
        (swallowed_errors, "for x in y:\n  try: f()\n  except BaseException: continue"),
        (state, "_links = {}"),
        (state, "_links: dict[str, int] = {}"),
        (state, "_LINKS = {'a': 1}\ndef f(): _LINKS['b'] = 2"),
        (state, "NAMES = ['a']\ndef f(): NAMES.append('b')"),
        (state, "if True:\n  _lock = threading.Lock()"),
        (state, "_seen = defaultdict[str, list](list)"),
        (state, "pool = Pool()"),
        (state, "_last = None\ndef f():\n  global _last\n  _last = 1"),
        (caches, "@functools.lru_cache(maxsize=8)\ndef f(): ..."),
    ],
)
def test_each_rule_sees_what_it_forbids(rule: Callable[[Source], Iterator[str]], text: str) -> None:
    assert list(rule(Source("example", TOP / "example.py", ast.parse(text))))


def test_tables_and_caught_errors_are_allowed() -> None:
    text = (
        "__all__ = ['f']\n_PORTS = {'amqp': 5672}\n_SHAPE = re.compile('x')\n_log = getLogger('x')\n"
        "try: f()\nexcept OSError: pass"
    )
    source = Source("example", TOP / "example.py", ast.parse(text))

    assert [line for rule in RULES for line in rule(source)] == []


def test_state_that_is_allowed_still_exists() -> None:
    modules = {source.name: source for source in sources()}
    defined = {
        f"{name}.{node.id}"
        for name, source in modules.items()
        for node in source.nodes
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    } | {
        f"{name}.{node.name}"
        for name, source in modules.items()
        for node in source.tree.body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }

    assert set(STATE) <= defined


IGNORED = re.compile(r"#\s*(?:ruff:\s*)?(?:noqa|type:\s*ignore|pragma)\b[\w:\s,\[\]-]*?(?=\s[-#]|$)(?P<reason>.*)")


def unexplained(comment: str) -> bool:
    """Whether a comment tells a tool to ignore something and does not say why: ``# noqa: X - two words or more``."""
    match = IGNORED.search(comment)
    return match is not None and len(re.findall(r"\w+", match["reason"])) < 2


def test_what_is_ignored_has_its_reason_beside_it() -> None:
    found = []
    for path in [path for path in tracked() if path.suffix == ".py"]:
        if not re.search(rb"#.*(noqa|type:|pragma)", path.read_bytes()):
            continue  # to look for words is fifty times as fast as to take a file apart
        with path.open("rb") as file:
            found += [
                f"{path.relative_to(TOP)}:{token.start[0]}: {token.string}"
                for token in tokenize.tokenize(file.readline)
                if token.type == tokenize.COMMENT and unexplained(token.string)
            ]

    assert not found, "\n".join(found)


def test_a_reason_is_more_than_the_code() -> None:
    assert unexplained("# noqa")
    assert unexplained("# noqa: S101, PT018")
    assert unexplained("# type: ignore[arg-type]")
    assert unexplained("# pragma: no cover")
    assert not unexplained("# noqa: S101, PT018 - asked for above")
    assert not unexplained("# type: ignore[arg-type]  # what a subclass gives")
    assert not unexplained("# an ordinary comment")


def private_places() -> re.Pattern[str]:
    """Match paths of the machine this runs on, home directories, and addresses and settings of package registries."""
    patterns = [
        rf"{re.escape(str(TOP))}(?![\w.-])",
        r"(?<![\w.$}*/-])/(?:home|Users)/[a-z]\w*/",
        r"https?://[^\s/]+/(?:simple|packages|maven2|debian|ubuntu)(?:/|$)",
        r"(?:index-url|find-links|trusted-host)\s*[= ]\s*\S*[/.]",
        r"\bpypi\.\w",
    ]
    if not TOP_DIRECTORY.fullmatch(TOP.parts[1]):
        patterns.append(rf"(?<![\w.$}}*-])/{re.escape(TOP.parts[1])}/")
    return re.compile("|".join(patterns))


def test_nothing_names_a_developers_machine_or_a_package_registry() -> None:
    private = private_places()
    found = [
        f"{path.relative_to(TOP)}:{number}: {line.strip()[:100]}"
        for path in tracked()
        for number, line in enumerate(path.read_text("utf-8", errors="replace").splitlines(), 1)
        if private.search(line)
    ]
    found += [
        path.name for path in tracked() if re.fullmatch(r"(uv|poetry|Pipfile)\.lock|package-lock\.json", path.name)
    ]

    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "parts",  # joined by slashes here, so that this file is none of those that name such a place
    [[str(TOP)], [str(TOP), "gofer"], ["", "home", "jane", "gofer"], ["https:", "", "example.org", "simple", "gofer"]],
)
def test_private_places_are_seen(parts: list[str]) -> None:
    assert private_places().search(f"see {'/'.join(parts)}")


def test_every_distribution_is_linted_and_type_checked() -> None:
    packages = sorted(distribution.package for distribution in distributions())

    assert sorted(settings()["tool"]["importlinter"]["root_packages"]) == packages
    assert sorted(settings()["tool"]["mypy"]["packages"]) == packages
