"""The plugin that the documents of gofer 2.12 were captured with, written again."""

from __future__ import annotations

__all__ = ["DESCRIPTOR", "WIRE"]

#: What the plugin behind the captured documents had, as far as these tests call it.
WIRE = """
from gofer.agent.rmi import Context
from gofer.decorators import remote


class NoJson:
    pass


class MyError(Exception):
    def __init__(self, a, b):
        super().__init__(a)
        self.b = b
        self.where = {"k": [1, 2]}


class Demo:
    @remote
    def echo(self, thing):
        return thing

    @remote
    def none(self):
        return None

    @remote
    def both(self, a, b=2, c=3):
        return [a, b, c]

    @remote(secret="garfield")
    def secret(self):
        return "ok"

    @remote
    def pam(self):
        return "ok"

    def hidden(self):
        return "hidden"

    @remote
    def value_error(self):
        raise ValueError("bad", 3)

    @remote
    def my_error(self):
        raise MyError("This is", 23)

    @remote
    def bad_args(self):
        raise ValueError(NoJson())

    @remote
    def nojson(self):
        return NoJson()

    @remote
    def nobytes(self):
        return b"raw"

    @remote
    def noset(self):
        return {1}

    @remote
    def intkeys(self):
        return {1: "a"}

    @remote
    def nan(self):
        return float("nan")

    @remote
    def progress(self):
        progress = Context.current().progress
        progress.total = 2
        progress.completed = 1
        progress.completed = 2
        return "done"

    @remote
    def progress_details(self):
        progress = Context.current().progress
        progress.total = 2
        progress.details = {"name": "a", "n": [1]}
        progress.completed = 2
        return "done"


class Named:
    def __init__(self, name, age=0):
        self.name = name
        self.age = age

    @remote
    def who(self):
        return [self.name, self.age]


@remote
def mecho(thing):
    return thing
"""
DESCRIPTOR = """
    [main]
    enabled = 1
    plugin = wire

    [messaging]
    url = {url}

    [model]
    queue = wire-cap
"""
