"""A plugin for tests: methods that leave traces outside the agent, so that a test can tell what ran, and how often."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

__all__ = ["PROBE", "descriptor", "runs"]

PROBE = '''
import os
import time

from gofer.agent.rmi import Context
from gofer.decorators import remote


class Trouble(Exception):
    def __init__(self, text, code):
        super().__init__(text)
        self.code = code


class Probe:
    def __init__(self, name="nobody"):
        self.name = name

    @remote
    def echo(self, thing=None):
        return thing

    @remote
    def who(self):
        return self.name

    @remote
    def note(self, path, text, seconds=0, until=None):
        """Leave a line in a file, and stay for a while, or until another file is there."""
        with open(path, "a") as file:
            file.write(text + "\\\\n")
            file.flush()
        time.sleep(seconds)
        if until is not None:
            self.until(until)
        return text

    @remote
    def until(self, path, limit=60):
        """Stay until a file is there."""
        end = time.monotonic() + limit
        while not os.path.exists(path):
            if time.monotonic() > end:
                raise TimeoutError(path)
            time.sleep(0.005)
        return path

    @remote
    def twice(self, text):
        return text + text

    @remote
    def odd(self):
        return {1, 2}

    @remote
    def fail(self, text, code):
        raise Trouble(text, code)

    @remote
    def work(self, total):
        progress = Context.current().progress
        progress.total = total
        for n in range(total):
            progress.details = f"step {n + 1}"
            progress.completed = n + 1
            time.sleep(0.15)
        return total

    @remote
    def state(self):
        """Tell what this process has open, and how large it is."""
        import gc
        import threading

        gc.collect()
        with open("/proc/self/statm") as file:
            pages = int(file.read().split()[1])
        return {
            "threads": threading.active_count(),
            "descriptors": len(os.listdir("/proc/self/fd")),
            "rss": pages * os.sysconf("SC_PAGE_SIZE"),
        }
'''.replace("\\\\n", "\\n")


def descriptor(url: str, queue: str, *, threads: int = 1, more: str = "") -> str:
    """Return the probe's descriptor."""
    return f"""
        [main]
        enabled = 1
        threads = {threads}

        [messaging]
        url = {url}

        [model]
        queue = {queue}
        {more}
    """


def runs(path: Path) -> Counter[str]:
    """Count the lines that ``Probe.note`` left."""
    return Counter(path.read_text().split()) if path.exists() else Counter()
