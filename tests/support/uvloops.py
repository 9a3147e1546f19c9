"""A program that makes thousands of calls in uvloop, many at a time."""

from __future__ import annotations

from support.company import run

__all__ = ["many_calls"]

_PROGRAM = """
    import asyncio, sys, warnings
    import uvloop
    from gofer.aio import Agent

    url, address, count, width = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    warnings.simplefilter("always")

    async def main():
        async with Agent(url, address, wait=120) as agent:
            method, left, done = getattr(agent[sys.argv[5]](), sys.argv[6]), iter(range(count)), 0

            async def call():
                nonlocal done
                for n in left:
                    assert await method(n) == n
                    done += 1

            await asyncio.gather(*(call() for _ in range(width)))
            assert type(asyncio.get_running_loop()).__module__ == "uvloop"
            print(done)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop, debug=False) as runner:
        runner.run(main())
"""


def many_calls(url: str, address: str, method: tuple[str, str], count: int = 10_000, width: int = 256) -> None:
    """Make them in a process of its own; fail if any fails, or anything is written to stderr."""
    done = run(_PROGRAM, url, address, str(count), str(width), *method, timeout=280)
    assert (done.stdout, done.stderr, done.returncode) == (f"{count}\n", "", 0)
