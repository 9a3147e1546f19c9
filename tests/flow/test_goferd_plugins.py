"""What plugins can do to each other and to their requests, seen by a caller of a real goferd."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from gofer.errors import MemberNotFound, NamespaceNotFound, NotAuthorized, NotFound, Rejected, RequestTimeout
from gofer.proxy import Agent
from support.goferd import AgentProcess
from support.localbroker import LocalBroker
from support.plugins import describe, install
from support.presence import timed_out
from support.waiting import eventually

DOG = """
    import asyncio
    import time

    from gofer.agent.plugin import Plugin
    from gofer.decorators import remote

    class Dog:
        @remote
        def bark(self, words="woof"):
            return words

        @remote
        def whoami(self):
            return Plugin.find(__name__).name

        @remote
        async def whoami_later(self):
            await asyncio.sleep(0.01)
            return Plugin.find(__name__).name

        @remote
        def sleep(self, seconds):
            time.sleep(seconds)

    @remote
    def whistle():
        return Plugin.find(__name__).cfg.foobar.sound
"""


class Farm:
    """A goferd, its broker, and a caller for each of its plugins."""

    def __init__(self, root: Path, site: Path, broker: LocalBroker) -> None:
        self.root = root
        self.site = site
        self.broker = broker
        self.goferd = AgentProcess(root, path=(site,))
        self._agents: dict[str, Agent] = {}

    def plugin(self, name: str, code: str | None = DOG, main: str = "", more: str = "") -> None:
        """Install a plugin (no code: one that is installed already) and describe it, with a queue of its name."""
        if code is not None:
            install(self.site, name, code)
        text = f"[main]\nenabled=1\n{main}\n[messaging]\nurl={self.broker.url}\n[model]\nqueue={name}\n{more}"
        describe(self.root, name, text)

    def __getitem__(self, name: str) -> Agent:
        """The caller of a plugin's queue; goferd is started with the first."""
        if self.goferd.process is None:
            self.goferd.start()
        if name not in self._agents:
            agent = self._agents[name] = Agent(self.broker.url, name, wait=20)
            eventually(lambda: reads(agent), what=self.goferd.tail())
        return self._agents[name]

    def close(self) -> None:
        for agent in self._agents.values():
            agent.close()
        self.goferd.stop()


def reads(agent: Agent) -> bool:
    try:
        agent(wait=5)["Nobody"]["nothing"]()
    except (NotFound, RequestTimeout):
        return False
    except (NamespaceNotFound, Rejected):
        return True
    raise AssertionError("Nobody answers")


@pytest.fixture
def farm(root: Path, tmp_path: Path) -> Iterator[Farm]:
    site = tmp_path / "site"
    site.mkdir()
    with LocalBroker(str(root / "run/gofer/broker.sock")) as broker:
        farm = Farm(root, site, broker)
        yield farm
        farm.close()


class TestPlugins:
    def test_code_finds_its_own_plugin_in_methods_coroutines_and_functions(self, farm: Farm) -> None:
        farm.plugin("dog", more="[foobar]\nsound=fweet\n")
        farm.plugin("hound", None, main="plugin=dog")

        assert farm["dog"].Dog().whoami() == "dog"
        assert farm["hound"].Dog().whoami() == "hound"  # of the two with this module, the one that is called
        assert farm["hound"].Dog().whoami_later() == "hound"
        assert farm["dog"].dog.whistle() == farm["dog"].dog_module.whistle() == "fweet"

    def test_what_is_extended_inherited_and_delegated_can_be_called(self, farm: Farm) -> None:
        farm.plugin("animals", DOG)
        farm.plugin(
            "zoo",
            """
            from gofer.agent.plugin import Plugin
            from gofer.decorators import remote

            plugin = Plugin.find(__name__)
            plugin += Plugin.find("animals")["Dog"]
            _Dog = Plugin.find("animals")["Dog"]

            class Retriever(_Dog):
                @remote
                def fetch(self):
                    return "stick"

            class Toy:
                @remote
                def bark(self):
                    return _Dog().bark("squeak")
            """,
        )
        farm.plugin(
            "cat",
            "from gofer.decorators import remote\nclass Cat:\n    @remote\n    def meow(self): return 'meow'\n",
            main="extends=animals",
        )

        assert farm["zoo"].Dog().bark() == "woof"
        assert farm["zoo"].Retriever().bark("yip") == "yip"
        assert farm["zoo"].Retriever().fetch() == "stick"
        assert farm["zoo"].Toy().bark() == "squeak"
        assert farm["animals"].Cat().meow() == "meow"

    def test_what_one_does_not_have_is_forwarded_where_both_agree(self, farm: Farm) -> None:
        farm.plugin("front", "", main="forward=closed, dog")
        farm.plugin("closed", DOG, main="accept=others")
        farm.plugin("dog", None, main="plugin=closed\naccept=front")

        assert farm["front"].Dog().bark("over there") == "over there"
        with pytest.raises(NamespaceNotFound, match="plugin 'front' has no remote class or module 'Cat'"):
            farm["front"].Cat().meow()
        with pytest.raises(MemberNotFound, match="purr"):
            farm["closed"].Dog().purr()


class TestHooks:
    AUDIT = """
        import json
        from gofer.agent.plugin import Plugin
        from gofer.hooks import hookimpl

        def write(*line):
            with open(Plugin.find("auditor").container.root.path / "audit", "a") as file:
                file.write(json.dumps(line) + "\\n")

        @hookimpl
        def gofer_accept(plugin, request):
            if request.data == "refuse me":
                raise PermissionError("not today")

        @hookimpl(wrapper=True)
        def gofer_call(plugin, request, invoke):
            if request.method == "whistle":
                raise PermissionError("no whistling")
            write("call", plugin.name, request.api.plugin, request.api.name)
            value = yield
            return value

        @hookimpl
        def gofer_finished(plugin, request, outcome, seconds):
            if request.classname != "Nobody":
                write("finished", plugin.name, request.method, outcome, seconds < 10)
    """

    def test_a_plugin_refuses_wraps_and_records_the_requests_of_others(self, farm: Farm) -> None:
        farm.plugin("dog")
        farm.plugin("auditor", self.AUDIT)
        dog = farm["dog"]
        audit = farm.root / "audit"

        def written(*expected: list[object]) -> bool:
            lines = audit.read_text().splitlines() if audit.exists() else []
            return [json.loads(line) for line in lines] == list(expected)

        # The end is told to the hooks when the caller has heard it.
        assert dog.Dog().bark("x") == "x"
        bark = (["call", "dog", "dog", "Dog.bark"], ["finished", "dog", "bark", "value", True])
        eventually(lambda: written(*bark))
        with pytest.raises(Rejected, match="not today") as rejected:
            dog(data="refuse me").Dog().bark("x")
        assert rejected.value.code == "hook.refused"
        refused = ["finished", "dog", "bark", "rejected", True]
        eventually(lambda: written(*bark, refused))
        with pytest.raises(PermissionError, match="no whistling"):
            dog.dog.whistle()
        eventually(lambda: written(*bark, refused, ["finished", "dog", "whistle", "exception", True]))

    def test_a_plugin_may_say_who_answers(self, farm: Farm) -> None:
        farm.plugin("dog")
        farm.plugin(
            "router",
            """
            from gofer.agent.plugin import Plugin
            from gofer.hooks import hookimpl

            dog = Plugin.find("dog")

            @hookimpl
            def gofer_route(plugin, request):
                return dog if plugin.name == "router" else None
            """,
        )

        assert farm["router"].Dog().bark("routed") == "routed"


class TestAdmin:
    def test_it_answers_while_every_worker_is_busy(self, farm: Farm) -> None:
        farm.plugin("dog")
        dog = farm["dog"]
        dog(wait=0).Dog().sleep(60)
        timed_out(lambda wait: dog(wait=wait).Dog().bark(), "accepted")

        assert dog.Admin().echo("still here") == "still here"
        assert dog.Admin().hello() == "Hello, I am gofer agent"
        farm.goferd.kill()

    def test_help_is_laid_out_as_gofer_2_did(self, farm: Farm) -> None:
        farm.plugin(
            "dog",
            """
            from gofer.decorators import action, remote

            class Demo:
                @remote
                def echo(self, thing: int) -> str: ...
                @action(cron="30 4 * * *")
                def tidy(self): ...
                @remote
                def both(self, a, b=2, c=3): ...

            class Another:
                @remote
                def who(self): ...

            @remote
            def mecho(thing): ...

            @action(minutes=10)
            def sweep(): ...
            """,
        )
        farm.plugin("empty", "")

        assert farm["empty"].Admin().help().splitlines() == [
            "Plugins:",
            "",
            "  <plugin> dog",
            "    Classes:",
            "      <class> Another",
            "        Methods:",
            "          who(self)",
            "      <class> Demo",
            "        Methods:",
            "          both(self, a, b=2, c=3)",
            "          echo(self, thing)",
            "    Functions:",
            "      mecho(thing)",
            "",
            "  <plugin> empty",
            "    Classes:",
            "    Functions:",
            "",
            "Actions:",
            "  dog.Demo.tidy() 30 4 * * *",
            "  dog.sweep() 0:10:00",
        ]

    def test_describe_is_for_programs(self, farm: Farm) -> None:
        farm.plugin("dog", DOG + "\n    @remote(secret='mycathas9lives')\n    def hide(): ...\n")

        described = farm["dog"].Admin().describe()

        (dog,) = described["plugins"]
        assert (dog["plugin"], dog["distribution"], dog["version"]) == ("dog", "gofer-plugin-dog", "1.0")
        assert [one["name"] for one in dog["classes"]] == ["Dog"]
        assert {one["name"]: one["secret"] for one in dog["functions"]} == {"hide": True, "whistle": False}
        assert "mycathas9lives" not in json.dumps(described)

    def test_it_may_be_for_named_identities_alone(self, farm: Farm) -> None:
        farm.plugin("dog", main="admin=alice")

        with pytest.raises(NotAuthorized, match="identities"):
            farm["dog"].Admin().hello()
        assert farm["dog"].Dog().bark("x") == "x"


class TestAuthenticator:
    def test_a_plugin_with_one_takes_no_unsigned_request(self, farm: Farm) -> None:
        (farm.site / "locks.py").write_text(
            "class Lock:\n"
            "    def sign(self, digest):\n        return 'lock:' + digest\n"
            "    def validate(self, document, digest, signature):\n"
            "        assert signature == 'lock:' + digest\n"
        )
        install(farm.site, "dog", DOG)
        text = f"[main]\nenabled=1\n[messaging]\nurl={farm.broker.url}\nauthenticator=locks.Lock\n[model]\nqueue=dog\n"
        describe(farm.root, "dog", text)
        farm.goferd.start()

        with Agent(farm.broker.url, "dog", wait=5) as stranger:
            eventually(lambda: refuses(stranger), what=farm.goferd.tail())


def refuses(agent: Agent) -> bool:
    try:
        agent.Dog().bark()
    except NotFound:
        return False
    except Rejected as rejected:
        return rejected.code == "security.authentication"
    raise AssertionError("an unsigned request was answered")


def test_a_second_module_of_one_name_costs_its_plugin_and_nobody_else(root: Path, tmp_path: Path) -> None:
    """One is a directory on Python's path, the other in a plugin directory."""
    (tmp_path / "dog").mkdir()
    with AgentProcess(root, path=(tmp_path,)) as process:
        process.descriptor("another", "[main]\nenabled = 1\nplugin = dog\n")
        process.plugin("dog", DOG, "[main]\nenabled = 1\n")
        process.descriptor("zoo", "[main]\nenabled = 1\nplugin = demo\n")
        process.start()
        eventually(lambda: "plugin zoo: loaded" in process.tail(), what=process.tail())
        assert "plugin another: loaded" in process.tail()
        assert "dog.conf: [main] plugin: module dog" in process.tail()
