"""Several versions of one class, side by side in one API."""

from __future__ import annotations

import types
from typing import Any

import pytest
from gofer.decorators import Version, remote, version, version_of
from gofer.errors import NamespaceNotFound, PluginError
from gofer.proxy import Agent
from gofer.rmi import description
from gofer.rmi.api import API


class Dog:
    @remote
    def bark(self) -> str:
        return "one"


@version("2", of="Dog")
class DogV2(Dog):
    """Barks louder."""

    @remote
    def bark(self) -> str:
        return "TWO"


class Retriever(DogV2):
    @remote
    def fetch(self) -> str:
        return "stick"


def api(*classes: type, name: str = "zoo") -> API:
    module = types.ModuleType(name)
    for cls in classes:
        setattr(module, cls.__name__, cls)
    return API.of_module(module)


def made(number: str, *, default: bool = False) -> type:
    @version(number, of="Cat", default=default)
    class Cat:
        @remote
        def meow(self) -> str:
            return number

    Cat.__name__ = f"Cat{number}"
    return Cat


def test_a_version_stands_beside_the_plain_class_and_has_no_other_name() -> None:
    zoo = api(Dog, DogV2)
    assert zoo.find("Dog", "bark").cls is Dog
    found = zoo.find("Dog@2", "bark")
    assert (found.cls, found.name) == (DogV2, "Dog@2.bark")
    assert "DogV2" not in zoo
    assert (zoo.get("Dog"), zoo.get("Dog@2")) == (Dog, DogV2)


def test_who_inherits_from_a_version_is_none_itself() -> None:
    zoo = api(Dog, DogV2, Retriever)
    assert zoo.find("Retriever", "bark").cls is Retriever
    assert version_of(Retriever) is None


def test_the_default_is_what_those_get_who_ask_for_no_version() -> None:
    one, two = made("1"), made("2.1", default=True)
    zoo = api(one, two)
    assert zoo.find("Cat", "meow").cls is two
    assert zoo.find("Cat@2.1", "meow").cls is two
    assert zoo.find("Cat@1", "meow").cls is one


@pytest.mark.parametrize(("asked", "classes"), [("Cat", [made("1"), made("2")]), ("Cat@3", [made("1"), made("2")])])
def test_a_version_that_there_is_none_of_is_reported_with_those_there_are(asked: str, classes: list[type]) -> None:
    missing = {"Cat": "has Cat in versions only", "Cat@3": "has no version '3' of Cat"}[asked]
    with pytest.raises(NamespaceNotFound, match=f"^plugin 'zoo' {missing}. Available versions: 1, 2$"):
        api(*classes).find(asked, "meow")


@pytest.mark.parametrize(
    "classes", [[made("1"), made("1")], [made("1", default=True), made("2", default=True)], [Dog, DogV2, "other"]]
)
def test_two_of_one_name_are_a_clash_that_names_both(classes: list[Any]) -> None:
    class Other:
        @remote
        def bark(self) -> None: ...

    classes = [version("3", of="Dog", default=True)(Other) if one == "other" else one for one in classes]
    if classes[0] is not Dog:
        classes[1].__name__ = "Another"
    with pytest.raises(PluginError, match=r"name clash: '(Cat|Cat@1|Dog)' .*test_versions.*test_versions"):
        api(*classes)


def test_versions_are_added_to_another_plugin_under_the_same_names() -> None:
    zoo = api(Dog, DogV2, made("2", default=True))
    whole, one = api(name="farm"), api(Dog, name="farm")
    whole.add(zoo)
    one.add(DogV2)
    assert {target.namespace for target in whole} == {"Dog", "Dog@2", "Cat", "Cat@2"}
    assert one.versions("Dog") == ["2"]
    assert one.find("Dog", "bark").cls is Dog


def test_a_description_reports_them() -> None:
    described = description.of_api(api(Dog, DogV2, made("2", default=True)))
    told = {one["name"]: one["version"] for one in described["classes"]}
    assert told == {"Dog": None, "Dog@2": "2", "Cat": "2", "Cat@2": "2"}


def test_the_mark_says_what_was_given() -> None:
    assert version_of(DogV2) == Version("2", "Dog")
    assert version_of(version("1.0")(type("Fox", (), {}))) == Version("1.0", "Fox")


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (version, r'@version on .*Fox: needs the version, like @version\("2"\)'),
        (version(2), "the version is text"),  # type: ignore[arg-type]  # the mistake
        (version(""), "the version is text"),
        (version("2@3"), "the version is text"),
        (version("2..3"), "the version is text"),
        (version("2\n"), "the version is text"),
        (version("2", of="a b"), "of is the name of a remote class"),
        (version("2", of="_Dog"), "of is the name of a remote class"),
        (version("2", default=1), "default is True or False"),  # type: ignore[arg-type]  # the mistake
        (lambda cls: version("3")(version("2")(cls)), "it has one already"),
        (lambda cls: version("3")(cls.bark), "goes on a class, not on a function"),
    ],
)
def test_wrong_use_is_reported_at_import(wrong: Any, told: str) -> None:
    class Fox:
        def bark(self) -> None: ...

    with pytest.raises(TypeError, match=told):
        wrong(Fox)


@pytest.mark.parametrize("name", [("Dog",), ("Dog", 2), ("Dog", "2", "3"), ("Dog", None), 5])
def test_a_caller_asks_for_a_version_by_two_texts(name: Any) -> None:
    with Agent("local://", "zoo") as agent:
        assert repr(agent["Dog", "2"]) == repr(agent["Dog@2"]) == "<remote Dog@2>"
        with pytest.raises(TypeError, match="a remote name must be text"):
            agent[name]
