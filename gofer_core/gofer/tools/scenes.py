"""What ``gofer demo`` shows: Python that is printed and then run as it stands."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from typing import Any

__all__ = ["SCENES", "Scene", "play"]


@dataclass(frozen=True, slots=True)
class Scene:
    """A sentence, the code that shows what it says, and the name of the error that it ends with, if it is to."""

    says: str
    code: str
    raises: str | None = None


SCENES = (
    Scene(
        "An agent is a broker's URL and an address. Nothing is sent yet.",
        """\
from gofer.proxy import Agent
agent = Agent("local://", "demo")""",
    ),
    Scene("A call, and the value it returns.", """agent.Demo().echo({"name": "Fido", "friends": ["Rex", None]})"""),
    Scene("Constructor arguments for the remote class.", """agent.Demo("Fido", age=5).bark("woof")"""),
    Scene("Keyword arguments.", """agent.Demo().bark("woof", times=3, loud=True)"""),
    Scene("A function, by the name of its plugin.", """agent.demo.hello("you")"""),
    Scene("An `async def` is called like any other.", """agent.Demo("Fido").rest(0.3)"""),
    Scene(
        "A remote exception keeps its class and its attributes.",
        """\
from gofer_plugin_demo import TooTired
try:
    agent.Demo("Fido").bark("woof", times=9)
except TooTired as tired:
    print(f"{tired}; caught as {type(tired).__name__}, barks={tired.barks}")""",
    ),
    Scene(
        "A call that takes too long says how far it got.",
        """agent(wait=1).Demo().progress(8, pause=0.2)""",
        raises="RequestTimeout",
    ),
    Scene(
        "Progress, as a live bar.",
        """\
from gofer.tools.progress import Bar
with Bar("working") as bar:
    print(agent(progress=bar).Demo().progress(15, pause=0.1))""",
    ),
    Scene(
        "A call that does not wait returns the serial number of its request at once.",
        """agent(wait=0).Demo().slow(0.2)""",
    ),
    Scene("A missing method is an error at once.", """agent.Demo().fly()""", raises="MemberNotFound"),
    Scene("So is a missing agent.", """Agent("local://", "nobody").Demo().echo("x")""", raises="NotFound"),
)


def play(code: str, names: dict[str, Any]) -> Any:
    """Run code as the interactive interpreter would, and return what its last line is worth; None for a statement."""
    tree = ast.parse(code)
    last = tree.body[-1]
    if not isinstance(last, ast.Expr):
        exec(compile(tree, "<demo>", "exec"), names)  # noqa: S102 - the text above, which is what is shown
        return None
    exec(compile(ast.Module(tree.body[:-1], []), "<demo>", "exec"), names)  # noqa: S102 - as above
    return eval(compile(ast.Expression(last.value), "<demo>", "eval"), names)  # noqa: S307 - as above
