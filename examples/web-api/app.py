"""An HTTP API in front of agents: GET /machines, GET /machines/{machine}/disk?path=/.

Settings are environment variables: GOFER_URL, the broker; GOFER_MACHINES, the addresses that may be called, with commas
between them; GOFER_WAIT, how long to wait for an agent, in seconds.
"""

import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Annotated, Any

from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse
from gofer.aio import Agent
from gofer.errors import CallError, ConnectionLost, GoferError, NotAuthorized, NotFound, Rejected, RequestTimeout


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Keep an agent object for each machine while the application runs. They share one connection to the broker."""
    url = os.environ.get("GOFER_URL", "local://")
    names = [name.strip() for name in os.environ.get("GOFER_MACHINES", "disks").split(",") if name.strip()]
    wait = float(os.environ.get("GOFER_WAIT", "10"))
    async with AsyncExitStack() as stack:
        app.state.machines = {name: await stack.enter_async_context(Agent(url, name, wait=wait)) for name in names}
        yield


app = FastAPI(title="Machines", lifespan=lifespan)


def find_machine(machine: str, request: Request) -> Agent:
    """Return the agent of a machine. Only listed ones can be called: a URL must not name any queue of the broker."""
    found: Agent | None = request.app.state.machines.get(machine)
    if found is None:
        raise HTTPException(404, f"there is no machine {machine!r}")
    return found


@app.get("/machines")
async def machines(request: Request) -> list[str]:
    """List the machines."""
    return list(request.app.state.machines)


@app.get("/machines/{machine}/disk")
async def disk(agent: Annotated[Agent, Depends(find_machine)], path: str = "/") -> Any:
    """Tell how full the disk of a directory is."""
    return await agent.Disk(path).usage()


def answer(status: int, error: Exception, **more: Any) -> JSONResponse:
    """Say what happened, without the remote trace."""
    text = str(error).partition("\n")[0]
    return JSONResponse({"error": type(error).__name__, "detail": text, **more}, status)


# FastAPI takes the handler of the most derived class.
@app.exception_handler(RequestTimeout)
async def timed_out(_: Request, error: RequestTimeout) -> JSONResponse:
    """Tell how far the request got: the method may still run."""
    return answer(504, error, state=error.state, sn=error.sn)


@app.exception_handler(Rejected)
async def rejected(_: Request, error: Rejected) -> JSONResponse:
    """The agent refused the request: it is not allowed, or it is wrong."""
    forbidden = error.code.startswith(("security.", "hook.", "access."))
    return answer(403 if forbidden else 400, error, code=error.code)


@app.exception_handler(NotAuthorized)
async def not_authorized(_: Request, error: NotAuthorized) -> JSONResponse:
    """A rule, a secret or a password is in the way."""
    return answer(403, error)


@app.exception_handler(NotFound)
@app.exception_handler(ConnectionLost)
async def unavailable(_: Request, error: GoferError) -> JSONResponse:
    """No agent reads the queue, or the broker cannot be reached."""
    return answer(503, error)


@app.exception_handler(CallError)
async def failed(_: Request, error: CallError) -> JSONResponse:
    """Anything else that the machine said."""
    return answer(502, error)


@app.exception_handler(FileNotFoundError)
@app.exception_handler(NotADirectoryError)
async def no_directory(_: Request, error: OSError) -> JSONResponse:
    """The method's own exception: there is no such directory on the machine."""
    return answer(404, error)
