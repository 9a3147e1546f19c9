"""The plugin disks in a real agent, called as its callers do."""

import shutil

import pytest
from gofer.proxy import Agent


@pytest.fixture(scope="module")
def gofer_plugins() -> dict[str, str]:
    return {"disks": "gofer_plugin_disks"}


def test_the_usage_of_a_directory(gofer_agent: Agent) -> None:
    usage = gofer_agent.Disk("/").usage()
    assert usage["total"] == shutil.disk_usage("/").total
    assert 0 < usage["used"] <= usage["total"]


def test_a_directory_that_there_is_not(gofer_agent: Agent) -> None:
    with pytest.raises(FileNotFoundError, match="no/such"):
        gofer_agent.Disk("/no/such/directory").usage()


def test_the_fullest_disk(gofer_agent: Agent) -> None:
    fullest = gofer_agent.disks.fullest()
    assert fullest["free"] <= shutil.disk_usage(fullest["path"]).total
