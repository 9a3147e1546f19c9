"""What of a module is exposed, and what never is."""

from __future__ import annotations

import json
import types
from collections.abc import Callable
from typing import Any

import pytest
from gofer.decorators import action, direct, fork, load, once, remote, unload, user
from gofer.errors import MemberNotFound, NamespaceNotFound, PluginError
from gofer.messaging.document import decode_request, encode
from gofer.rmi import description
from gofer.rmi.api import API
from gofer.rmi.model import DIRECT, FORK
from gofer.rmi.model.direct import call
from support import kennel
from support.receiving import request


def module(name: str, **members: Any) -> types.ModuleType:
    """Make a module; functions and classes made here count as its own."""
    made = types.ModuleType(name)
    for key, member in members.items():
        if getattr(member, "__module__", None) == __name__:
            member.__module__ = name
        setattr(made, key, member)
    return made


def function(name: str, *marks: Callable[[Any], Any]) -> Any:
    def made() -> str:
        return name

    made.__name__ = name
    for mark in marks or (remote,):
        mark(made)
    return made


@pytest.fixture
def api() -> API:
    return API.of_module(kennel, ["pets"])


def test_classes_are_namespaces_and_remote_methods_their_members(api: API) -> None:
    target = api.find("Dog", "echo")
    assert (target.cls, target.function, target.name) == (kennel.Dog, kennel.Dog.echo, "Dog.echo")
    assert (target.plugin, target.model, target.is_async) == ("pets", DIRECT, False)
    assert api.find("Dog", "later").is_async
    assert api.find("Dog", "forked").model == FORK
    assert api.find("Dog", "guarded").mark.secret == "garfield"
    assert api.find("Dog", "static").method == "static"
    assert api.find("Dog", "named").method == "named"


def test_functions_are_called_by_the_plugins_name_and_by_the_modules_last_component(api: API) -> None:
    for namespace in ("pets", "kennel"):
        assert api.find(namespace, "hello").function is kennel.hello
    with pytest.raises(NamespaceNotFound):
        api.find("support.kennel", "hello")


@pytest.mark.parametrize(
    "method",
    ["hidden", "fur", "_private", "__init__", "__class__", "__dict__", "nope", "", "echo.__func__", "name", "mro"],
)
def test_what_is_not_decorated_or_private_is_not_there(api: API, method: str) -> None:
    with pytest.raises(MemberNotFound) as caught:
        api.find("Dog", method)
    assert str(caught.value).startswith(f"Dog has no remote method {method!r}")
    assert "echo" in str(caught.value).partition("Available: ")[2].split(", ")
    assert not api.has("Dog", method)


@pytest.mark.parametrize("classname", ["Nope", "Cat", "Any", "asyncio", "sys", "Refusal", "__builtins__", ""])
def test_a_class_without_remote_methods_is_no_namespace(api: API, classname: str) -> None:
    with pytest.raises(NamespaceNotFound) as caught:
        api.find(classname, "meow")
    assert str(caught.value).startswith(f"plugin 'pets' has no remote class or module {classname!r}")
    assert "Dog" in str(caught.value).partition("Available: ")[2].split(", ")
    assert classname not in api


def test_undecorated_functions_are_not_there(api: API) -> None:
    for name in ("quiet", "loaded", "tick", "ran", "not_a_member"):
        with pytest.raises(MemberNotFound):
            api.find("kennel", name)


def test_inherited_methods_are_exposed_as_decorated_there_unless_overridden(api: API) -> None:
    inherited = api.find("Hound", "guarded")
    assert (inherited.cls, inherited.mark.secret) == (kennel.Hound, "garfield")
    assert api.find("Dog", "echo").mark.secret is None
    assert api.find("Hound", "echo").mark.secret == "wag"
    assert api.has("Dog", "who")
    assert not api.has("Hound", "who")


def test_imported_classes_and_functions_are_exposed_too() -> None:
    api = API.of_module(module("zoo", Puppy=kennel.Dog, greet=kennel.hello))
    assert api.find("Puppy", "echo").cls is kennel.Dog
    assert api.find("zoo", "greet").function is kennel.hello


def test_names_with_an_underscore_are_not_exposed() -> None:
    api = API.of_module(module("zoo", _Dog=kennel.Dog, _hello=kennel.hello))
    assert list(api) == []


def test_a_method_that_another_decorator_wraps_keeps_its_mark() -> None:
    import functools

    def loud(wrapped: Any) -> Any:
        @functools.wraps(wrapped)
        def wrapper(*args: Any) -> Any:
            return wrapped(*args)

        return wrapper

    class Wolf:
        @loud
        @remote
        async def howl(self) -> None: ...

    target = API.of_module(module("zoo", Wolf=Wolf)).find("Wolf", "howl")
    assert target.function is Wolf.__dict__["howl"]
    assert target.is_async


def test_a_method_that_a_module_has_of_an_instance_is_called_on_that() -> None:
    """As those of ``random`` are: what a caller sends never takes the place of the instance."""

    class Counter:
        def __init__(self) -> None:
            self.total = 5

        @remote
        def add(self, number: int) -> int:
            self.total += number
            return self.total

        @remote
        async def later(self) -> int:
            return self.total

    for one in (Counter.add, Counter.later):
        one.__module__ = "zoo"
    counter = Counter()
    api = API.of_module(module("zoo", add=counter.add, later=counter.later))
    target = api.find("zoo", "add")
    assert call(target, decode_request(encode(request("zoo", "add", 2))).request) == 7
    assert target.contract.fault((2,), {}) is None
    assert target.contract.fault(("two",), {}) == "number: expected int, got str"
    assert api.find("zoo", "later").is_async


def test_loads_unloads_and_actions_are_those_of_the_module_itself(api: API) -> None:
    assert [one.function for one in api.loads] == [kennel.loaded]
    assert [one.function for one in api.unloads] == [kennel.unloaded]
    assert [(one.name, one.function) for one in api.actions] == [("pets.tick", kennel.tick)]
    importing = API.of_module(module("zoo", loaded=kennel.loaded, unloaded=kennel.unloaded, tick=kennel.tick))
    assert (importing.loads, importing.unloads, importing.actions) == ((), (), ())
    private = function("_set_up", load)
    loads = API.of_module(module("zoo", _set_up=private, also=private)).loads
    assert [one.function for one in loads] == [private]


@pytest.mark.parametrize(
    ("decorators", "says"),
    [
        ([fork], "@fork on zoo.bark: "),
        ([direct], "@direct on zoo.bark: "),
        ([once], "@once on zoo.bark: "),
        ([user(name="root")], "@user, or @pam, on zoo.bark: "),
        ([action(hours=1), user(name="root")], "@user, or @pam, on zoo.bark: "),
        ([load, fork], "@fork on zoo.bark: "),
    ],
)
def test_what_makes_no_sense_without_remote_is_refused_with_the_functions_name(
    decorators: list[Callable[[Any], Any]], says: str
) -> None:
    with pytest.raises(PluginError) as caught:
        API.of_module(module("zoo", bark=function("bark", *decorators)))
    assert str(caught.value).startswith(says)
    assert "@remote" in str(caught.value)


def test_that_is_not_the_business_of_who_imports_it() -> None:
    bark = function("bark", fork)
    bark.__module__ = "elsewhere"
    assert list(API.of_module(module("zoo", bark=bark))) == []


# -- taking in another's API ---------------------------------------------------------------------------------------


def test_a_class_is_added() -> None:
    api = API.of_module(module("zoo"))
    api.add(kennel.Dog)
    assert api.find("Dog", "echo").plugin == "zoo"
    assert api.get("Dog") is kennel.Dog


def test_a_function_is_added_under_our_own_names() -> None:
    api = API.of_module(module("some.zoo"), ["animals"])
    api.add(kennel.hello)
    assert [(one.namespace, one.method) for one in api] == [("animals", "hello"), ("zoo", "hello")]
    assert api.get("hello") is kennel.hello


def test_a_whole_api_is_added_its_functions_also_under_their_old_names(api: API) -> None:
    zoo = API.of_module(module("zoo"))
    zoo.add(api)
    assert zoo.find("Hound", "echo").function is kennel.Hound.echo
    for namespace in ("zoo", "pets", "kennel"):
        assert zoo.find(namespace, "hello").function is kennel.hello
    zoo.add(api)  # the same once more changes nothing
    assert len(zoo) == len(API.of_module(kennel, ["pets"])) + 1


def test_a_module_or_a_list_is_added() -> None:
    zoo = API.of_module(module("zoo"))
    zoo.add([kennel, function("feed")])
    assert zoo.has("Dog", "echo")
    assert zoo.has("zoo", "hello")
    assert zoo.has("zoo", "feed")


def test_a_clash_is_an_error_that_names_both_and_changes_nothing(api: API) -> None:
    class Dog:
        @remote
        def sit(self) -> None: ...

    zoo = API.of_module(module("zoo", Dog=Dog))
    before = list(zoo)
    with pytest.raises(PluginError, match=r"'Dog' of plugin 'pets' .* 'Dog' of plugin 'zoo'"):
        zoo.add(api)
    with pytest.raises(PluginError, match="name clash"):
        zoo.add([function("feed"), kennel.Dog])
    assert list(zoo) == before


def test_functions_clash_too() -> None:
    zoo = API.of_module(module("zoo", hello=function("hello")))
    with pytest.raises(PluginError, match="'hello' of plugin 'pets'"):
        zoo.add(API.of_module(kennel, ["pets"]))


def test_a_class_and_a_module_of_one_name_share_it_as_long_as_their_members_differ() -> None:
    class zoo:  # noqa: N801 - the name is the point
        @remote
        def feed(self) -> None: ...

    api = API.of_module(module("zoo", zoo=zoo, clean=function("clean")))
    assert (api.has("zoo", "feed"), api.has("zoo", "clean")) == (True, True)
    with pytest.raises(PluginError, match=r"zoo\.feed"):
        API.of_module(module("zoo", zoo=zoo, feed=function("feed")))


@pytest.mark.parametrize("nothing", [kennel.Cat, kennel.quiet, types.ModuleType("empty"), [], 5, "Dog", None])
def test_nothing_remote_is_an_error(nothing: object) -> None:
    api = API("zoo")
    if nothing == []:
        api.add(nothing)
        return
    with pytest.raises(PluginError, match="zoo"):
        api.add(nothing)


# -- descriptions --------------------------------------------------------------------------------------------------


def test_a_description_is_plain_json_with_everything_but_secrets(api: API) -> None:
    told = description.of_api(api)
    text = json.dumps(told)
    for secret in ("garfield", "zwei", "made", "wag"):
        assert secret not in text
    assert (told["plugin"], told["names"]) == ("pets", ["pets", "kennel"])
    dog = next(one for one in told["classes"] if one["name"] == "Dog")
    assert (dog["doc"], dog["constructor"]) == ("Barks.", "(name: str = 'nobody', *, age: int = 0) -> None")
    methods = {one["name"]: one for one in dog["methods"]}
    assert methods["echo"] == {
        "name": "echo",
        "doc": "Return what it is given.",
        "documentation": "Return what it is given.\n\nMore about it.",
        "signature": "(value: Any = None) -> Any",
        "parameters": [
            {"name": "value", "kind": "positional_or_keyword", "type": "Any", "schema": {}, "default": "None"}
        ],
        "schema": {
            "type": "object",
            "properties": {"value": {"default": None}},
            "required": [],
            "additionalProperties": False,
        },
        "returns": {},
        "model": DIRECT,
        "async": False,
        "once": False,
        "read_only": False,
        "destructive": False,
        "idempotent": False,
        "typed": False,
        "timeout": None,
        "secret": False,
        "users": [],
    }
    assert methods["guarded"]["secret"] is True
    assert methods["reboot"]["users"] == ["root"]
    assert methods["later"]["async"] is True
    assert methods["forked"]["model"] == FORK
    assert methods["static"]["signature"].startswith("(value")
    assert "hidden" not in methods
    assert [one["name"] for one in told["functions"]] == ["hello"]


def test_a_default_value_with_a_broken_repr_does_not_break_the_description() -> None:
    class Broken:
        def __repr__(self) -> str:
            raise RuntimeError("no")

    @remote
    def odd(value: object = Broken()) -> None: ...

    told = description.of_api(API.of_module(module("zoo", odd=odd)))
    assert told["functions"][0]["signature"] == "(...)"
    assert (
        told["functions"][0]["parameters"][0]["default"]
        == "<test_a_default_value_with_a_broken_repr_does_not_break_the_description.<locals>.Broken>"
    )


def test_marks_stack_in_any_order() -> None:
    @user(name="root")
    @direct
    @remote
    @action(seconds=1)
    @unload
    def all_of_it() -> None: ...

    api = API.of_module(module("zoo", all_of_it=all_of_it))
    assert api.has("zoo", "all_of_it")
    assert [one.function for one in api.unloads] == [all_of_it]
    assert [one.function for one in api.actions] == [all_of_it]
    assert fork is not direct
