"""goferd as a child process, forked from one that has imported it."""

from __future__ import annotations

from gofer.testing import agents

from support import forkserver

__all__ = ["AgentProcess"]


class AgentProcess(agents.AgentProcess):
    """``gofer.testing.agents.AgentProcess``, started quickly."""

    _popen = forkserver.Popen
