"""What becomes of the plugins of one agent: loaded, extended, quarantined, found, reloaded."""

from __future__ import annotations

import logging
import sys
import textwrap
from collections.abc import Callable

import pytest
from gofer.agent.config import read_descriptors
from gofer.agent.plugin import Plugin, State
from gofer.errors import PluginError
from gofer.root import Root
from support.containers import DOG, Kennel
from support.plugins import describe, install


class TestLoading:
    def test_what_is_enabled_runs_and_what_is_not_is_not_even_imported(self, kennel: Kennel) -> None:
        kennel.plugin("dog", DOG)
        kennel.plugin("cat", DOG, main="enabled=0")
        install(kennel.site, "cow", DOG)

        kennel.start()

        assert {name: plugin.state for name, plugin in kennel.container.plugins.items()} == {
            "dog": State.RUNNING,
            "cat": State.DISABLED,
        }
        assert kennel["dog"].enabled
        assert not kennel["cat"].enabled
        assert "cat_module" not in sys.modules
        assert "cow_module" not in sys.modules

    @pytest.mark.parametrize(
        ("code", "says"),
        [
            ("import nowhere_at_all", "module bad_module cannot be imported: ModuleNotFoundError"),
            ("import sys; sys.exit(1)", "module bad_module cannot be imported: SystemExit"),
            (
                "from gofer.agent.plugin import Plugin\nPlugin.find('dog')['Cat']",
                "plugin 'dog' has no remote class or function 'Cat'; it has: Dog, whistle",
            ),
            (
                "from gofer.agent.plugin import Plugin\nPlugin.find('cow')['Cow']",
                "(there is no plugin 'cow'; there are: bad, dog",
            ),
            (
                "from gofer.agent.plugin import Plugin\nPlugin.find(__name__)['Any']",
                "plugin 'bad' has no 'Any' to give: it is loading",
            ),
            (
                "from gofer.decorators import load\n@load\ndef begin():\n    raise OSError('no disk')",
                "its @load or a gofer_load hook failed: OSError: no disk",
            ),
            (
                "from gofer.decorators import load\n@load\ndef begin():\n    raise SystemExit",
                "its @load or a gofer_load hook failed: SystemExit",
            ),
            ("from gofer.decorators import remote\n@remote\nclass Dog: pass", "@remote on Dog: goes on a function"),
            (
                "from gofer.hooks import hookimpl\n@hookimpl\ndef gofer_laod(plugin): pass",
                "unknown hook 'gofer_laod' in plugin <module 'bad_module'",
            ),
            (
                "from gofer.hooks import hookimpl\n@hookimpl\ndef gofer_load(plug): pass",
                "Argument(s) {'plug'} are declared in the hookimpl but can not be found in the hookspec",
            ),
            ("def gofer_load(plugin): pass", "gofer_load is not marked @hookimpl"),
            (
                "from gofer.hooks import hookimpl\n@hookimpl\ndef gofer_extend(plugin):\n    return 1 / 0",
                "a gofer_extend hook failed: ZeroDivisionError",
            ),
        ],
    )
    def test_what_fails_is_quarantined_with_its_traceback_and_reported_in_one_line(
        self, kennel: Kennel, errors: Callable[[], list[str]], code: str, says: str
    ) -> None:
        kennel.plugin("zebra", DOG.replace("Dog", "Zebra"))
        kennel.plugin("dog", DOG)
        file = kennel.plugin("bad", code)

        kennel.start()

        bad = kennel["bad"]
        assert bad.state is State.QUARANTINED
        (line,) = errors()
        assert line == bad.error
        assert line.startswith(f"{file}: [main] plugin: ")
        assert says in line
        assert "\n" not in line
        assert "Traceback" in (bad.trace or "")
        assert kennel["zebra"].state is State.RUNNING
        assert "bad_module" not in sys.modules

    def test_hooks_of_a_quarantined_plugin_are_not_called(self, kennel: Kennel) -> None:
        kennel.plugin(
            "bad",
            """
            from gofer.decorators import load
            from gofer.hooks import hookimpl

            @hookimpl
            def gofer_load(plugin):
                if plugin.name != "bad":
                    raise AssertionError("I am in quarantine")

            @load
            def begin():
                raise OSError
            """,
        )
        kennel.plugin("dog", DOG)

        kennel.start()

        assert kennel["dog"].state is State.RUNNING

    def test_two_plugins_share_a_module_and_each_finds_itself(self, kennel: Kennel) -> None:
        kennel.plugin(
            "one",
            """
            from gofer.agent.plugin import Plugin
            from gofer.decorators import load

            loaded = []

            @load
            def begin():
                loaded.append(Plugin.find(__name__).name)
            """,
        )
        describe(kennel.root, "two", "[main]\nenabled=1\nplugin=one\n")

        kennel.start()

        assert sys.modules["one_module"].loaded == ["one", "two"]  # type: ignore[attr-defined]  # see above

    def test_a_name_that_is_loaded_already_changes_nothing(self, kennel: Kennel) -> None:
        kennel.plugin("dog", DOG)
        kennel.start()
        before = kennel["dog"]

        with pytest.raises(PluginError, match="'dog' is loaded already"):
            kennel.container.load(before.descriptor)

        assert kennel["dog"] is before

    def test_an_authenticator_that_cannot_be_made_keeps_the_plugin_from_running(
        self, kennel: Kennel, errors: Callable[[], list[str]]
    ) -> None:
        names = ("nope", "os.nope", "json.JSONDecoder", "decimal.Decimal.from_float")
        for number, name in enumerate(names):
            kennel.plugin(f"dog{number}", DOG, more=f"[messaging]\nauthenticator={name}\n")

        kennel.start()

        lines = errors()
        assert len(lines) == len(names)
        assert all("[messaging] authenticator: " in line for line in lines)
        assert "no authenticator 'nope' is installed; installed: " in lines[0]
        assert "pip install" not in lines[0]
        assert "'json.JSONDecoder' is no authenticator: it has no method sign and no method validate" in lines[2]
        assert {plugin.state for plugin in kennel.container.plugins.values()} == {State.QUARANTINED}


class TestFinding:
    def test_a_plugin_is_found_by_name_and_by_its_modules_name_whatever_the_order(self, kennel: Kennel) -> None:
        kennel.plugin(
            "a",
            """
            from gofer.agent.plugin import Plugin

            found = [Plugin.find(name) for name in (__name__, "a", "z", "z_module")]
            Zebra = found[2]["Zebra"]
            """,
        )
        kennel.plugin("z", DOG.replace("Dog", "Zebra"))

        kennel.start()

        module = sys.modules["a_module"]
        assert [plugin.name for plugin in module.found] == ["a", "a", "z", "z"]  # type: ignore[attr-defined]  # see above
        assert module.Zebra is sys.modules["z_module"].Zebra  # type: ignore[attr-defined]  # see above

    def test_those_that_need_each_other_at_import_are_named(
        self, kennel: Kennel, errors: Callable[[], list[str]]
    ) -> None:
        take = "from gofer.agent.plugin import Plugin\n"
        kennel.plugin("a", take + "Dog = Plugin.find('b')['Dog']")
        kennel.plugin("b", take + "Dog = Plugin.find('c')['Dog']")
        kennel.plugin("c", take + "plugin = Plugin.find(__name__)\nplugin += Plugin.find('a')")

        kennel.start()

        lines = errors()
        assert "plugin 'a' has nothing to add: it is loading, and they need each other: a -> b -> c -> a" in lines[0]
        assert "plugin 'c' has no 'Dog' to give: it is quarantined" in lines[1]
        assert "plugin 'b' has no 'Dog' to give: it is quarantined" in lines[2]
        assert all("a -> b -> c -> a" in line for line in lines)
        assert len(lines) == 3

    def test_it_is_not_for_threads_that_belong_to_no_plugin(self, kennel: Kennel) -> None:
        kennel.plugin("dog", DOG)
        kennel.start()

        with pytest.raises(PluginError, match=r"Plugin.find\('dog'\) outside of a plugin's import, hooks and calls"):
            Plugin.find("dog")

    def test_a_hook_may_find_what_there_is_no_plugin_of(self, kennel: Kennel) -> None:
        kennel.plugin(
            "dog",
            DOG
            + """
    from gofer.agent.plugin import Plugin
    from gofer.hooks import hookimpl

    @hookimpl
    def gofer_find(name):
        return Plugin.find("dog") if name == "rover" else None
    """,
        )
        kennel.plugin("zoo", "from gofer.agent.plugin import Plugin\nDog = Plugin.find('rover')['Dog']")

        kennel.start()

        assert kennel["zoo"].state is State.RUNNING

    def test_the_descriptor_is_at_hand_with_the_users_own_sections(self, kennel: Kennel) -> None:
        kennel.plugin(
            "dog",
            """
            from gofer.agent.plugin import Plugin

            cfg = Plugin.find(__name__).cfg
            seen = (cfg.foobar.timeout, cfg().foobar.timeout, cfg["main"]["enabled"])
            """,
            more="[foobar]\ntimeout=100\n",
        )

        kennel.start()

        assert sys.modules["dog_module"].seen == ("100", "100", "1")  # type: ignore[attr-defined]  # see above


class TestExtending:
    def test_a_plugin_takes_all_of_another_or_one_of_its_classes(self, kennel: Kennel) -> None:
        kennel.plugin("animals", DOG)
        add = (
            "from gofer.agent.plugin import Plugin\nanimals = Plugin.find('animals')\nplugin = Plugin.find(__name__)\n"
        )
        kennel.plugin("all", add + "plugin += animals\n")
        kennel.plugin("some", add + "plugin += animals['Dog']\n")

        kennel.start()

        assert kennel["all"].api.has("Dog", "bark")
        assert kennel["all"].api.has("all", "whistle")
        assert kennel["some"].api.has("Dog", "bark")
        assert not kennel["some"].api.has("some", "whistle")

    def test_a_subclass_has_the_inherited_methods_too(self, kennel: Kennel) -> None:
        kennel.plugin("animals", DOG)
        kennel.plugin(
            "dogs",
            """
            from gofer.agent.plugin import Plugin
            from gofer.decorators import remote

            class Retriever(Plugin.find("animals")["Dog"]):
                @remote
                def fetch(self):
                    return "stick"
            """,
        )

        kennel.start()

        assert sorted(t.method for t in kennel["dogs"].api if t.namespace == "Retriever") == ["bark", "fetch"]

    def test_a_descriptor_puts_a_plugins_api_into_another(self, kennel: Kennel) -> None:
        kennel.plugin("animals", "")
        kennel.plugin("dog", DOG, main="enabled=1\nextends=animals")
        kennel.plugin("puppy", DOG.replace("Dog", "Puppy").replace("whistle", "squeak"), "enabled=1\nextends=dog")

        kennel.start()

        animals = kennel["animals"].api
        assert animals.has("Dog", "bark")
        assert animals.has("animals", "whistle")
        assert animals.has("Puppy", "bark")  # by way of dog
        assert not kennel["dog"].api.has("Dog", "purr")

    def test_those_that_extend_each_other_are_named(self, kennel: Kennel, errors: Callable[[], list[str]]) -> None:
        for name, target in (("a", "b"), ("b", "c"), ("c", "a"), ("self", "self"), ("d", "a")):
            kennel.plugin(name, DOG.replace("Dog", name.title()), main=f"enabled=1\nextends={target}")

        kennel.start()

        lines = errors()
        for way in ("a -> b -> c -> a", "b -> c -> a -> b", "c -> a -> b -> c", "self -> self"):
            assert sum(line.endswith(f"[main] extends: a cycle: {way}") for line in lines) == 1
        assert sum("plugin 'a' is quarantined" in line for line in lines) == 1
        assert len(lines) == 5

    @pytest.mark.parametrize("target", ["nobody", "off", "bad"])
    def test_who_extends_what_does_not_run_gets_an_error(
        self, kennel: Kennel, errors: Callable[[], list[str]], target: str
    ) -> None:
        kennel.plugin("off", "", main="enabled=0")
        kennel.plugin("bad", "1 / 0")
        file = kennel.plugin("dog", DOG, main=f"enabled=1\nextends={target}")

        kennel.start()

        assert kennel["dog"].state is State.QUARANTINED
        assert any(line.startswith(f"{file}: [main] extends: ") and target in line for line in errors())

    def test_a_clash_is_the_extenders_fault_and_nothing_is_replaced(
        self, kennel: Kennel, errors: Callable[[], list[str]]
    ) -> None:
        kennel.plugin("animals", DOG)
        file = kennel.plugin("dog", DOG, main="enabled=1\nextends=animals")

        kennel.start()

        (line,) = errors()
        assert line.startswith(f"{file}: [main] extends: name clash: ")
        assert "'dog'" in line
        assert "'animals'" in line
        assert kennel["dog"].state is State.QUARANTINED
        assert kennel["animals"]["Dog"] is sys.modules["animals_module"].Dog  # type: ignore[attr-defined]  # see above

    def test_a_clash_at_import_is_the_importers_fault(self, kennel: Kennel, errors: Callable[[], list[str]]) -> None:
        kennel.plugin("animals", DOG)
        kennel.plugin(
            "dog",
            DOG + "\n    from gofer.agent.plugin import Plugin\n"
            "    plugin = Plugin.find(__name__)\n    plugin += Plugin.find('animals')\n",
        )

        kennel.start()

        assert "name clash" in errors()[0]
        assert (kennel["dog"].state, kennel["animals"].state) == (State.QUARANTINED, State.RUNNING)

    def test_a_hook_gives_more_api(self, kennel: Kennel) -> None:
        kennel.plugin("dog", DOG)
        kennel.plugin(
            "version",
            """
            from gofer.decorators import remote
            from gofer.hooks import hookimpl

            class Version:
                @remote
                def number(self):
                    return 1

            @remote
            def about():
                return "about"

            @hookimpl
            def gofer_extend(plugin):
                return [Version, about] if plugin.name == "dog" else None
            """,
        )

        kennel.start()

        assert kennel["dog"].api.has("Version", "number")
        assert kennel["dog"].api.has("dog", "about")

    def test_what_an_unloaded_plugin_has_added_goes_with_it(self, kennel: Kennel) -> None:
        kennel.plugin("animals", DOG.replace("Dog", "Cat").replace("whistle", "call"))
        kennel.plugin("dog", DOG, main="enabled=1\nextends=animals")
        kennel.start()
        assert kennel["animals"].api.has("Dog", "bark")

        kennel.container.unload("dog")

        assert not kennel["animals"].api.has("Dog", "bark")
        assert kennel["animals"].api.has("Cat", "bark")

    def test_however_far_it_went(self, kennel: Kennel) -> None:
        kennel.plugin("animals", "")
        kennel.plugin("dog", "", main="enabled=1\nextends=animals")
        kennel.plugin("puppy", DOG, main="enabled=1\nextends=dog")
        kennel.start()
        assert kennel["animals"].api.has("Dog", "bark")

        kennel.container.unload("puppy")

        assert [kennel[name].api.has("Dog", "bark") for name in ("dog", "animals")] == [False, False]

    def test_what_others_took_from_it_goes_on_and_is_named(
        self, kennel: Kennel, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO)
        kennel.plugin("dog", DOG)
        take = "from gofer.agent.plugin import Plugin\nclass Hound(Plugin.find('dog')['Dog']):\n    pass\n"
        kennel.plugin("hounds", take)
        kennel.start()

        kennel.container.unload("dog")

        assert kennel["hounds"]["Hound"]().bark() == "woof"
        assert "plugin dog: unloaded; these continue with what they took from it: hounds" in caplog.text


class TestIdentity:
    def test_load_may_name_the_broker_and_the_queue(self, kennel: Kennel) -> None:
        kennel.plugin(
            "dog",
            DOG
            + """
    from gofer.agent.plugin import Plugin
    from gofer.decorators import load

    @load
    def begin():
        plugin = Plugin.find(__name__)
        plugin.url = f"local://{plugin.container.root.path}/nobody.sock"
        plugin.queue = "kennel/rover"
        assert not plugin.attached
    """,
        )

        kennel.start()

        dog = kennel["dog"]
        assert dog.attached
        assert str(dog.url) == f"local://{kennel.root}/nobody.sock"
        assert (dog.queue, dog.uuid) == ("kennel/rover", "rover")
        dog.detach()
        assert not dog.attached
        dog.attach()
        assert dog.attached

    def test_load_may_keep_it_from_its_queue(self, kennel: Kennel) -> None:
        kennel.plugin(
            "dog",
            "from gofer.agent.plugin import Plugin\nfrom gofer.decorators import load\n"
            "@load\ndef begin():\n    Plugin.find(__name__).detach()\n",
            more=f"[messaging]\nurl=local://{kennel.root}/nobody.sock\n",
        )

        kennel.start()

        assert kennel["dog"].state is State.RUNNING
        assert not kennel["dog"].attached

    def test_without_a_queue_it_has_a_uuid_that_stays(self, kennel: Kennel, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO)
        kennel.plugin("dog", DOG, more=f"[messaging]\nurl=local://{kennel.root}/nobody.sock\nexchange=amq.direct\n")
        kennel.start()
        first = kennel["dog"].uuid
        assert first is not None
        assert kennel["dog"].queue == f"amq.direct/{first}"
        assert f"its address is amq.direct/{first}" in caplog.text

        kennel.container.unload("dog")
        kennel.update()

        assert kennel["dog"].uuid == first

    def test_an_identity_that_cannot_be_kept_is_an_error_of_that_plugin(
        self, kennel: Kennel, errors: Callable[[], list[str]]
    ) -> None:
        identity = kennel.root / "var/lib/gofer/identity"
        identity.mkdir(0o700)
        (identity / "dog").write_text("rubbish")
        kennel.plugin("dog", DOG, more=f"[messaging]\nurl=local://{kennel.root}/nobody.sock\n")

        kennel.start()

        (line,) = errors()
        assert f"{identity}/dog: is not a plugin's identity" in line

    def test_no_adapter_for_its_url_is_an_error_of_that_plugin(
        self, kennel: Kennel, errors: Callable[[], list[str]]
    ) -> None:
        file = kennel.plugin("dog", DOG, more="[messaging]\nurl=pigeon+amqp://localhost\n[model]\nqueue=dog\n")

        kennel.start()

        (line,) = errors()
        assert line.startswith(f"{file}: [messaging] url: ")
        assert "the adapter 'pigeon' of pigeon+amqp://localhost:5672 is not installed; installed: amqp, " in line
        assert kennel["dog"].state is State.QUARANTINED

    def test_it_cannot_be_attached_without_a_broker(self, kennel: Kennel) -> None:
        kennel.plugin("dog", DOG)
        kennel.start()

        with pytest.raises(ValueError, match=r"\[messaging\] url: is not given"):
            kennel["dog"].attach()


class TestForwarding:
    @pytest.mark.parametrize(
        ("forward", "accept", "agreed"),
        [
            ("animals", "dog", True),
            ("*", "*", True),
            ("animals", "*", True),
            ("*", "dog", True),
            ("animals", "cow", False),
            ("cow", "dog", False),
        ],
    )
    def test_both_must_agree(self, kennel: Kennel, forward: str, accept: str, agreed: bool) -> None:
        kennel.plugin("dog", DOG, main=f"enabled=1\nforward={forward}")
        kennel.plugin("animals", DOG, main=f"enabled=1\naccept={accept}")
        kennel.plugin("cat", DOG)
        container = kennel.start()

        assert [plugin.name for plugin in container.forwards(kennel["dog"])] == (["animals"] if agreed else [])


class TestUnloading:
    UNLOADS = """
        from gofer.agent.plugin import Plugin
        from gofer.decorators import unload
        from pathlib import Path

        @unload
        def end():
            root = Plugin.find("dog").container.root.path
            with open(root / "unloaded", "a") as file:
                file.write("dog\\n")
    """

    def test_unload_functions_run_once_at_unloading_or_at_the_end(self, kennel: Kennel) -> None:
        kennel.plugin("dog", self.UNLOADS)
        kennel.start()
        kennel.container.unload("dog")
        kennel.update()
        kennel.container.stop(5)
        kennel.container.stop(5)

        assert (kennel.root / "unloaded").read_text() == "dog\ndog\n"

    def test_one_that_raises_is_logged_and_unloaded_all_the_same(
        self, kennel: Kennel, errors: Callable[[], list[str]]
    ) -> None:
        kennel.plugin("dog", "from gofer.decorators import unload\n@unload\ndef end():\n    raise SystemExit(2)\n")
        kennel.start()

        kennel.container.unload("dog")

        assert errors() == ["plugin dog: its @unload end failed"]
        assert "dog" not in kennel.container.plugins

    def test_an_unknown_name_is_reported(self, kennel: Kennel) -> None:
        kennel.plugin("dog", DOG)
        kennel.start()

        with pytest.raises(PluginError, match="there is no plugin 'cat'; there are: dog"):
            kennel.container.unload("cat")

    def test_update_follows_the_descriptors(self, kennel: Kennel) -> None:
        kennel.plugin("same", DOG)
        kennel.plugin("gone", DOG)
        changed = kennel.plugin("changed", DOG)
        kennel.start()
        same = kennel["same"]

        (kennel.root / "etc/gofer/plugins/gone.conf").unlink()
        changed.write_text("[main]\nenabled=1\nthreads=3\n")
        (kennel.site / "changed_module.py").write_text("new_code = True\n")
        kennel.plugin("new", DOG)
        kennel.update()

        assert kennel["same"] is same
        assert sorted(kennel.container.plugins) == ["changed", "new", "same"]
        assert kennel["changed"].descriptor.threads == 3
        assert sys.modules["changed_module"].new_code  # type: ignore[attr-defined]  # see above
        assert "gone_module" not in sys.modules
        assert {plugin.state for plugin in kennel.container.plugins.values()} == {State.RUNNING}

    def test_update_tries_again_what_is_quarantined(self, kennel: Kennel) -> None:
        kennel.plugin("dog", "1 / 0")
        kennel.start()
        (kennel.site / "dog_module.py").write_text("mended = True\n")

        kennel.update()

        assert kennel["dog"].state is State.RUNNING
        assert kennel["dog"].error is None

    def test_update_leaves_alone_what_can_no_longer_be_read(self, kennel: Kennel) -> None:
        file = kennel.plugin("dog", DOG)
        kennel.start()
        before = kennel["dog"]
        file.write_text("rubbish")
        descriptors, problems = read_descriptors(Root(kennel.root))

        kennel.container.update(descriptors, kept={problem.file for problem in problems})

        assert kennel["dog"] is before
        assert before.state is State.RUNNING


def test_two_plugins_share_a_file_in_a_plugin_directory(kennel: Kennel) -> None:
    directory = kennel.root / "usr/share/gofer/plugins"
    (directory / "slow.py").write_text(textwrap.dedent(DOG))
    describe(kennel.root, "hasty", "[main]\nenabled=1\nplugin=slow\n")
    describe(kennel.root, "slow", "[main]\nenabled=1\nplugin=slow\n")

    kennel.start()

    assert {plugin.state for plugin in kennel.container.plugins.values()} == {State.RUNNING}
    assert kennel["hasty"].source == kennel["slow"].source
    assert str(kennel["slow"].source) == str(directory / "slow.py")
