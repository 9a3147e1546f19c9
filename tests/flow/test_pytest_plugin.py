"""The pytest plugin, in a pytest of its own, as somebody else's suite would use it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow  # each starts a pytest

CONFTEST = 'pytest_plugins = ["gofer.testing.plugin"]\n'

KENNEL = """
from gofer.decorators import remote

class Dog:
    def __init__(self, name="Rover"):
        self.name = name

    @remote
    def bark(self, words):
        return f"{self.name}: {words}"
"""


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    """A directory with a suite that asks for the plugin, and a plugin of gofer."""
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = -p no:cacheprovider\nfilterwarnings = error\n")
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "kennel.py").write_text(KENNEL)
    (tmp_path / "broken.py").write_text("import nothing_here")
    return tmp_path


def run(suite: Path, test: str, *options: str) -> subprocess.CompletedProcess[str]:
    (suite / "test_it.py").write_text(test)
    # Its own directory: in the one of all, several that tidy up at the same time stumble over each other.
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", f"--basetemp={suite}/temporary", *options]
    return subprocess.run(command, cwd=suite, capture_output=True, text=True, timeout=100, check=False)


def test_a_running_agent_serves_a_module_by_its_name_and_is_called(suite: Path) -> None:
    done = run(
        suite,
        """
import pytest

@pytest.fixture(scope="module")
def gofer_plugins():
    return {"kennel": "kennel"}

def test_it_barks(gofer_agent):
    assert gofer_agent.Dog("Fido").bark("woof") == "Fido: woof"

def test_it_is_the_same_agent(gofer_agent, gofer_agents, gofer_process):
    assert gofer_agents == {"kennel": gofer_agent}
    assert gofer_agent(wait=30).Admin().hello()
    gofer_process.kill()
    gofer_process.start()
    assert gofer_agent.Dog().bark("again") == "Rover: again"
    assert "kennel" in gofer_process.tail()
""",
    )
    assert "2 passed" in done.stdout, done.stdout + done.stderr
    assert done.returncode == 0


def test_plugins_are_given_as_modules_and_files_too(suite: Path) -> None:
    (suite / "cattery").mkdir()
    (suite / "cattery/cats.py").write_text(KENNEL.replace("Dog", "Cat").replace("bark", "meow"))
    done = run(
        suite,
        """
from pathlib import Path
import kennel
import pytest

@pytest.fixture(scope="module")
def gofer_plugins():
    return {"dogs": kennel, "cats": Path(__file__).with_name("cattery") / "cats.py"}

def test_both(gofer_agents, gofer_url):
    from gofer.proxy import Agent
    assert gofer_agents["dogs"].Dog().bark("x") == "Rover: x"
    assert gofer_agents["cats"].Cat().meow("x") == "Rover: x"
    assert Agent(gofer_url, "cats").Cat().meow("y") == "Rover: y"

def test_which_one(gofer_agent):
    pass
""",
    )
    assert "1 passed, 1 error" in done.stdout, done.stdout + done.stderr
    assert "there are dogs, cats" in done.stdout


def test_mocks_last_for_one_test(suite: Path) -> None:
    done = run(
        suite,
        """
from gofer.proxy import Agent, seam

def test_mocked(gofer_mock):
    class Dog:
        def bark(self, words):
            return words
    gofer_mock.register(Dog=Dog)
    dog = Agent("amqp://nobody.invalid", "xyz").Dog()
    assert dog.bark("x") == "x"
    assert dog.bark.history()[-1].args == ("x",)

def test_no_more():
    assert seam.double is None
""",
    )
    assert "2 passed" in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("fixture", "wrong"),
    [
        ("", "override the fixture gofer_plugins"),
        ('{"kennel": "no_such_module"}', "'no_such_module' is neither an installed plugin nor a module"),
        ('{"kennel": "broken"}', "No module named 'nothing_here'"),
        ('{"kennel": 5}', "kennel is a module, a module's name or a Path, not 5"),
        ('{"../kennel": "kennel"}', "'../kennel' is no name"),
    ],
)
def test_what_is_wrong_is_reported(suite: Path, fixture: str, wrong: str) -> None:
    override = f"import pytest\n@pytest.fixture(scope='module')\ndef gofer_plugins():\n    return {fixture}\n"
    done = run(suite, f"{override if fixture else ''}\ndef test_it(gofer_agent):\n    pass\n")
    assert "1 error" in done.stdout, done.stdout + done.stderr
    assert wrong in done.stdout


def test_a_suite_that_does_not_ask_for_it_loads_nothing_of_gofer(suite: Path) -> None:
    (suite / "conftest.py").unlink()
    done = run(
        suite, "import sys\ndef test_it():\n    assert [n for n in sys.modules if n.startswith('gofer')] == []\n"
    )
    assert "1 passed" in done.stdout, done.stdout + done.stderr


def test_a_suite_that_asks_for_it_loads_no_more_than_it_uses(suite: Path) -> None:
    done = run(
        suite,
        "import sys\ndef test_it():\n    assert sorted(n for n in sys.modules if n.startswith('gofer')) == "
        "['gofer', 'gofer.testing', 'gofer.testing.plugin']\n",
    )
    assert "1 passed" in done.stdout, done.stdout + done.stderr
