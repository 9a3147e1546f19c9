"""A server in an event loop that calls agents for its clients."""

from __future__ import annotations

import asyncio
import json
import os
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from gofer import proxy
from gofer.aio import Agent
from gofer.errors import GoferError, MemberNotFound
from support.goferd import AgentProcess
from support.localbroker import LocalBroker
from support.presence import until_it_answers
from support.probe import PROBE, descriptor
from support.waiting import eventually

CLIENTS, CALLS = 20, 10


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    with LocalBroker(str(tmp_path / "broker.sock")) as broker, AgentProcess(tmp_path / "agent") as process:
        process.plugin("probe", PROBE, descriptor(broker.url, "probe", threads=4))
        process.start()
        with proxy.Agent(broker.url, "probe", wait=20) as agent:
            until_it_answers(agent, process.tail())
        yield broker.url


def test_it_serves_many_clients_over_one_connection_and_ends_cleanly(url: str, tmp_path: Path) -> None:
    """One agent for all of them. A client that goes away ends its own call's wait, and nothing else."""
    path = str(tmp_path / "server.sock")

    async def main() -> None:
        async with Agent(url, "probe", wait=30) as agent:

            async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                try:
                    while line := await reader.readline():
                        method, *args = json.loads(line)
                        try:
                            answer = await agent.Probe()[method](*args)
                        except GoferError as raised:
                            answer = type(raised).__name__
                        writer.write(json.dumps(answer).encode() + b"\n")
                        await writer.drain()
                finally:
                    writer.close()

            async def client(number: int) -> list[object]:
                reader, writer = await asyncio.open_unix_connection(path)
                answers = []
                for n in range(CALLS):
                    writer.write(json.dumps(["echo", [number, n]]).encode() + b"\n")
                    answers.append(json.loads(await reader.readline()))
                writer.write(b'["fly"]\n')
                answers.append(json.loads(await reader.readline()))
                writer.close()
                await writer.wait_closed()
                return answers

            async def leaves() -> None:
                _, writer = await asyncio.open_unix_connection(path)
                writer.write(json.dumps(["until", path, 5]).encode() + b"\n")
                writer.close()

            async with await asyncio.start_unix_server(serve, path):
                heard = await asyncio.gather(*map(client, range(CLIENTS)), *[leaves() for _ in range(3)])
            for number, answers in enumerate(heard[:CLIENTS]):
                assert answers == [*([number, n] for n in range(CALLS)), MemberNotFound.__name__]

    descriptors = len(os.listdir("/proc/self/fd"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        asyncio.run(main(), debug=True)
    eventually(lambda: len(os.listdir("/proc/self/fd")) <= descriptors)
