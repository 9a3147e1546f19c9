"""The hooks: their names are fixed, each is documented, and one that would never be called is refused."""

from __future__ import annotations

from types import ModuleType

import pluggy
import pytest
from gofer import hooks
from gofer.agent.plugin_code import check_hooks
from gofer.errors import PluginError
from gofer.hooks import hookimpl

NAMES = [
    "gofer_accept",
    "gofer_call",
    "gofer_extend",
    "gofer_facts",
    "gofer_find",
    "gofer_finished",
    "gofer_load",
    "gofer_route",
    "gofer_unload",
]


def module(**names: object) -> ModuleType:
    made = ModuleType("some_plugin")
    vars(made).update(names)
    return made


def test_these_are_the_hooks_and_each_says_who_calls_it_and_what_raising_means() -> None:
    manager = pluggy.PluginManager("gofer")
    manager.add_hookspecs(hooks)

    assert sorted(name for name in vars(manager.hook) if name.startswith("gofer_")) == NAMES
    for name in NAMES:
        doc = " ".join((getattr(hooks, name).__doc__ or "").split())
        assert "Called by" in doc, name
        assert "aising" in doc, name


def test_hooks_of_the_right_names_and_arguments_pass() -> None:
    @hookimpl
    def gofer_load(plugin: object) -> None: ...

    @hookimpl(wrapper=True)
    def gofer_call(invoke: object) -> object:
        return (yield)  # type: ignore[misc]  # what a wrapper is

    @hookimpl(specname="gofer_find")
    def look(name: str) -> None: ...

    @hookimpl(optionalhook=True)
    def gofer_of_a_later_version(plugin: object) -> None: ...

    def helper() -> None: ...

    check_hooks(
        module(
            gofer_load=gofer_load,
            gofer_call=gofer_call,
            look=look,
            gofer_of_a_later_version=gofer_of_a_later_version,
            helper=helper,
            gofer_constant=7,
        )
    )


def test_a_misspelt_hook_is_refused_with_the_nearest() -> None:
    @hookimpl
    def gofer_finnished(plugin: object) -> None: ...

    with pytest.raises(PluginError, match=r"unknown hook 'gofer_finnished'.*; did you mean gofer_finished\?"):
        check_hooks(module(gofer_finnished=gofer_finnished))


def test_an_argument_that_the_hook_does_not_have_is_refused() -> None:
    @hookimpl
    def gofer_accept(plugin: object, message: object) -> None: ...

    with pytest.raises(PluginError, match=r"'message'. are declared in the hookimpl but can not be found"):
        check_hooks(module(gofer_accept=gofer_accept))


def test_a_hook_without_its_mark_is_refused_and_one_imported_from_elsewhere_is_not() -> None:
    def gofer_load(plugin: object) -> None: ...

    check_hooks(module(gofer_load=gofer_load))  # its __module__ is another: somebody's import
    gofer_load.__module__ = "some_plugin"
    with pytest.raises(PluginError, match="gofer_load is not marked @hookimpl"):
        check_hooks(module(gofer_load=gofer_load))
