"""A plugin for tests whose methods run in processes of their own, and do there what no agent should have to bear."""

from __future__ import annotations

__all__ = ["FORKED"]

FORKED = '''
import asyncio
import ctypes
import os
import signal
import subprocess
import sys
import time

from gofer.agent.plugin import Plugin
from gofer.agent.rmi import Context
from gofer.decorators import fork, load, remote

plugin = Plugin.find(__name__)
state = {"loaded": False, "loaded in fork": False, "counted": 0}


@load
def loaded():
    state["loaded"] = True


@load(fork=True)
def loaded_in_fork():
    state["loaded in fork"] = True


class Trouble(Exception):
    def __init__(self, text, code):
        super().__init__(text)
        self.code = code


@remote
@fork
def function(a, b=2):
    return [a, b]


@remote
def in_agent():
    return os.getpid()


class Forked:
    def __init__(self, name="nobody", *, age=0):
        self.name = name
        self.age = age

    @remote
    @fork
    def who(self, greeting="I am"):
        return f"{greeting} {self.name}, {self.age}"

    @remote
    @fork
    def echo(self, thing=None):
        return thing

    @remote
    @fork
    async def slowly(self, thing):
        await asyncio.sleep(0.01)
        return thing

    @remote
    @fork
    def process(self):
        return {"pid": os.getpid(), "parent": os.getppid(), "group": os.getpgrp()}

    @remote
    @fork
    def state(self):
        state["counted"] += 1
        return state

    @remote
    @fork
    def setting(self):
        return Plugin.find("forked").cfg.toys.favourite

    @remote
    @fork
    def context(self):
        context = Context.current()
        return {"sn": context.sn, "data": context.data, "cancelled": context.cancelled(), "forked": context.forked}

    @remote
    @fork
    def work(self, total):
        progress = Context.current().progress
        progress.total = total
        for n in range(total):
            progress.details = f"step {n + 1}"
            progress.completed = n + 1
            time.sleep(0.15)
        return total

    @remote
    @fork
    def fail(self, text, code):
        raise Trouble(text, code)

    @remote
    @fork
    def large(self, size):
        return "x" * size

    @remote
    @fork
    def odd(self):
        return {1, 2}

    @remote
    @fork
    def die(self, number):
        os.kill(os.getpid(), number)
        time.sleep(60)

    @remote
    @fork
    def crash(self):
        ctypes.string_at(0)

    @remote
    @fork
    def leave(self, status):
        sys.exit(status)

    @remote
    @fork
    def leave_now(self, status):
        os._exit(status)

    @remote
    @fork
    def descriptors(self):
        return sorted(os.readlink(f"/proc/self/fd/{n}") for n in os.listdir("/proc/self/fd")
                      if os.path.exists(f"/proc/self/fd/{n}"))

    @remote
    @fork
    def say(self, text):
        print(text)
        print(text + " (error)", file=sys.stderr)

    @remote
    @fork
    def hang(self, path, stubborn=False):
        """Start a process, leave the numbers of both in a file, and never return."""
        if stubborn:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        other = subprocess.Popen(["sleep", "300"])
        with open(path + ".new", "w") as file:
            file.write(f"{os.getpid()} {other.pid}")
        os.rename(path + ".new", path)
        try:
            while True:
                time.sleep(1)
        except SystemExit:  # SIGTERM: what there is to clean up, it can
            with open(path + ".cleaned", "w"):
                pass
            raise

    @remote(timeout=1.0)
    @fork
    def too_long(self, path, stubborn=False):
        self.hang(path, stubborn)

    @remote
    @fork
    def note(self, path, text, seconds=0):
        with open(path, "a") as file:
            file.write(text + "\\n")
        time.sleep(seconds)
        return text

    @remote
    @fork
    def meet(self, path, count):
        """Wait until so many are here."""
        with open(path, "a") as file:
            file.write("here\\n")
        end = time.monotonic() + 30
        while time.monotonic() < end:
            with open(path) as file:
                if len(file.readlines()) >= count:
                    return "met"
            time.sleep(0.005)
        return "alone"

    @remote
    def helper(self):
        return plugin.forks.pid
'''
