"""Plugins and servers as they were written for gofer 2.12, run as they are: they register, sign, fork and watch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from gofer.errors import NotFound, Rejected, RequestTimeout, SecretNotMatched
from gofer.messaging.auth import ValidationFailed
from gofer.messaging.connector import Connector, added
from gofer.proxy import Agent
from gofer.rmi.policy import RequestTimeout as PolicyTimeout
from gofer.rmi.reply import Listener, ReplyConsumer
from support.goferd import AgentProcess
from support.localbroker import LocalBroker
from support.presence import answers, until_it_answers
from support.waiting import eventually

# Content management behind a registration: not attached before there is one, elsewhere after the next one.
CONTENT = """
    import os
    from logging import getLogger

    from gofer.agent.plugin import Plugin
    from gofer.config import Config
    from gofer.decorators import FORK, action, load, remote, unload
    from gofer.pmon import PathMonitor

    plugin = Plugin.find(__name__)
    path_monitor = None
    registered = False
    log = getLogger(__name__)

    SETTINGS = plugin.cfg.registration.settings
    CERTIFICATE = plugin.cfg.registration.certificate


    @load
    def plugin_loaded():
        global path_monitor
        path_monitor = PathMonitor()
        path_monitor.add(CERTIFICATE, certificate_changed)
        path_monitor.start()
        validate_registration()
        if registered:
            update_settings()


    @unload
    def plugin_unloaded():
        path_monitor.abort()
        log.info('monitoring has ended')


    def certificate_changed(path):
        log.info('changed: %s', path)
        validate_registration()
        if registered:
            update_settings()
            plugin.attach()
        else:
            plugin.detach()


    def validate_registration():
        global registered
        registered = os.path.exists(CERTIFICATE)


    def update_settings():
        settings = Config(SETTINGS)
        if 'ca_cert_dir' in settings['rhsm']:
            ca_cert_dir = settings['rhsm']['ca_cert_dir']
        else:
            ca_cert_dir = settings['server']['ca_cert_dir']
        plugin.cfg.messaging.cacert = settings['rhsm']['repo_ca_cert'] % {'ca_cert_dir': ca_cert_dir}
        plugin.cfg.messaging.url = settings['server']['url']
        with open(CERTIFICATE) as fp:
            plugin.cfg.model.queue = 'content.agent.%s' % fp.read().strip()


    class Restart(object):

        @staticmethod
        def is_busy():
            return len(os.listdir(plugin.scheduler.pending.PENDING)) > 0

        @action(minutes="240")
        def apply(self):
            if not self.is_busy():
                log.info('Restarting.')

        @action(seconds="0.1")
        def look(self):
            self.is_busy()


    class Consumer(object):

        @remote
        def unregister(self):
            log.info('Consumer has been unregistered.')


    class Content(object):

        @remote(model=FORK)
        def install(self, units, options):
            return {'pid': os.getpid(), 'units': units, 'options': options}

        @remote
        def pid(self):
            return os.getpid()
"""

# Everything from @initializer: settings, the authenticator, secrets by a function, progress of a conduit.
CONSUMER = """
    import os
    from hashlib import sha256
    from logging import getLogger

    from gofer.agent.plugin import Plugin
    from gofer.agent.rmi import Context
    from gofer.config import Config
    from gofer.decorators import *
    from gofer.messaging.auth import ValidationFailed
    from gofer.metrics import Timer
    from gofer.pmon import PathMonitor

    log = getLogger(__name__)
    plugin = Plugin.find(__name__)
    path_monitor = PathMonitor()
    cfg = plugin.cfg()

    conf = Config({'server': {'host': 'server.example.com'}, 'messaging': {'url': cfg.consumer.url}}).graph()
    plugin.whiteboard['secret'] = 'garfield'
    package = Plugin.find('package')

    if plugin.cfg.messaging.auth:
        raise Exception('nobody has set that')


    @initializer
    def init_plugin():
        path_monitor.add('/nowhere', lambda path: None)
        path_monitor.start()
        update_settings()


    def update_settings():
        plugin.cfg.messaging.url = conf.messaging.url
        plugin.cfg.messaging.uuid = get_agent_id()
        plugin.cfg.messaging.cacert = conf.messaging.cacert
        plugin.cfg.messaging.clientcert = conf.messaging.clientcert or os.path.join('/etc', 'pki', 'consumer.pem')
        plugin.authenticator = Authenticator()
        log.info('plugin configuration updated')


    def get_agent_id():
        return 'consumer.agent.7'


    def get_secret():
        return plugin.whiteboard['secret']


    class Authenticator(object):

        def sign(self, digest):
            h = sha256()
            h.update(digest.encode('utf8'))
            return h.hexdigest()

        def validate(self, document, digest, signature):
            if document.routing[1] != plugin.uuid or not document.request.method or document.nothing:
                raise ValidationFailed('not for me', document)
            if signature != self.sign(digest):
                raise ValidationFailed('matching signatures: [%s, %s]' % (signature, digest))


    class Conduit(object):

        def update_progress(self, report):
            context = Context.current()
            context.progress.details = report
            context.progress.report()

        def cancelled(self):
            return Context.current().cancelled()


    assert Context.current() is None


    class Content(object):

        @remote(secret=get_secret)
        def install(self, units, options):
            conduit = Conduit()
            with Timer() as timer:
                for n, unit in enumerate(units):
                    conduit.update_progress({'unit': unit, 'step': n})
            return {'cancelled': conduit.cancelled(), 'took': timer.duration() >= 0, 'timer': str(timer)}

        @remote(secret=get_secret)
        def fail(self):
            raise ValueError('no such unit', 7)

        @remote(secret=get_secret)
        def sleep(self):
            while not Context.current().cancelled():
                pass

    @remote(secret=get_secret)
    def configuration():
        sections = {}
        for name, section in plugin.cfg:
            sections[name] = {}
            for key, value in section:
                sections[name][key] = value
        return [
            sections,
            plugin.cfg.main.threads,
            plugin.cfg.nothing.at_all,
            [p.name for p in Plugin.all()],
            package is None,
            plugin.uuid,
            plugin.url is not None,
        ]
"""


class Host:
    """A machine with goferd and its broker."""

    def __init__(self, root: Path, url: str) -> None:
        self.root, self.url = root, url
        self.goferd = AgentProcess(root)

    def plugin(self, name: str, code: str, more: str = "") -> None:
        self.goferd.plugin(name, code, f"[main]\nenabled=1\n{more}")


@pytest.fixture
def host(root: Path) -> Iterator[Host]:
    with LocalBroker(str(root / "run/gofer/broker.sock")) as broker:
        host = Host(root, broker.url)
        yield host
        host.goferd.stop()
        added.clear()


def there(url: str, queue: str) -> bool:
    with Agent(url, queue) as agent:
        return answers(agent, 5.0)


def missing(url: str, queue: str) -> bool:
    with Agent(url, queue, wait=2) as agent:
        try:
            agent.Admin().hello()
        except NotFound:
            return True
        except (Rejected, RequestTimeout):  # it is leaving
            return False
    return False


class TestContent:
    def registered(self, host: Host, who: str | None) -> None:
        certificate = host.root / "identity.pem"
        if who is None:
            certificate.unlink()
            return
        new = certificate.with_suffix(".new")
        new.write_text(who)
        new.rename(certificate)

    def start(self, host: Host) -> None:
        (host.root / "rhsm.conf").write_text(
            f"[server]\nurl = {host.url}\nport=443\n\n"
            f"[rhsm]\nca_cert_dir = {host.root}/\nrepo_ca_cert = %(ca_cert_dir)sca.pem\n"
        )
        more = f"[messaging]\nheartbeat=5\n[registration]\nsettings={host.root}/rhsm.conf\n"
        host.plugin("content", CONTENT, f"{more}certificate={host.root}/identity.pem\n")
        host.goferd.start()

    def test_it_is_where_its_registration_says_and_nowhere_without_one(self, host: Host) -> None:
        self.start(host)
        assert "plugin content: loaded from" in host.goferd.tail()
        assert "without a queue" in host.goferd.tail()

        self.registered(host, "abc")
        eventually(lambda: there(host.url, "content.agent.abc"), what=host.goferd.tail())
        with Agent(host.url, "content.agent.abc", wait=30) as agent:
            content = agent.Content()
            done = content.install([{"type_id": "rpm"}], {"apply": True})
            assert (done["units"], done["options"]) == ([{"type_id": "rpm"}], {"apply": True})
            assert done["pid"] != content.pid() == host.goferd.pid
            assert agent.Consumer().unregister() is None

        self.registered(host, None)
        eventually(lambda: missing(host.url, "content.agent.abc"), what=host.goferd.tail())

        self.registered(host, "def")
        eventually(lambda: there(host.url, "content.agent.def"), what=host.goferd.tail())
        self.registered(host, "ghi")
        eventually(lambda: there(host.url, "content.agent.ghi"), what=host.goferd.tail())
        host.goferd.stop()
        assert "monitoring has ended" in host.goferd.tail()

    def test_it_is_there_at_once_when_it_is_registered_before(self, host: Host) -> None:
        self.registered(host, "abc")
        self.start(host)

        eventually(lambda: there(host.url, "content.agent.abc"), what=host.goferd.tail())
        # What it looked into is no more, and that is told to whoever reads the log.
        eventually(lambda: "a plugin has no 'scheduler' any more" in log(host))
        assert "plugin.pending" in log(host)


def log(host: Host) -> str:
    return host.goferd.log.read_text()


class Server(Listener):
    """A server's half: an authenticator, a reply queue, and what it heard."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, Any]] = []

    def sign(self, digest: str) -> str:
        from hashlib import sha256

        return sha256(digest.encode("utf8")).hexdigest()

    def validate(self, document: Any, digest: str, signature: str) -> None:
        if signature != self.sign(digest):
            raise ValidationFailed("not the agent's", document)

    def started(self, reply: Any) -> None:
        self.heard.append(("started", reply.data))

    def progress(self, reply: Any) -> None:
        self.heard.append(("progress", reply.details))

    def succeeded(self, reply: Any) -> None:
        self.heard.append(("succeeded", dict(reply.retval)))

    def failed(self, reply: Any) -> None:
        self.heard.append(("failed", [reply.xclass, reply.xargs, reply.xstate["trace"], reply.exval, reply.xmodule]))

    def until(self, kind: str) -> Any:
        def found() -> list[Any]:
            return [what for one, what in list(self.heard) if one == kind]

        return eventually(found)[-1]


class TestConsumer:
    @pytest.fixture
    def consumer(self, host: Host) -> Host:
        host.plugin("consumer", CONSUMER, f"[messaging]\nurl=\n[consumer]\nurl={host.url}\n")
        host.goferd.start()
        return host

    def agent(self, host: Host, **options: Any) -> Agent:
        options = {"secret": "garfield", "authenticator": Server(), "wait": 30, **options}
        return until_it_answers(Agent(host.url, "consumer.agent.7", **options), host.goferd.tail())

    def test_what_it_has_set_when_it_was_loaded_counts(self, consumer: Host) -> None:
        with self.agent(consumer) as agent:
            sections, threads, nothing, names, alone, uuid, has_url = agent["consumer"].configuration()
            assert sections["main"] == {"enabled": "1"}
            assert sections["messaging"]["uuid"] == uuid == "consumer.agent.7"
            assert (threads, nothing, names, alone, has_url) == ("1", None, ["consumer"], True, True)
            with pytest.raises(SecretNotMatched):
                agent(secret="odie")["consumer"].configuration()
        assert "consumer has looked for another one: there is no plugin 'package'; there are: consumer" in log(consumer)

    def test_progress_is_reported_and_time_is_taken(self, consumer: Host) -> None:
        reports: list[dict[str, Any]] = []
        with self.agent(consumer, progress=reports.append) as agent:
            done = agent.Content().install(["a", "b"], {})
        assert (done["cancelled"], done["took"]) == (False, True)
        assert reports[-1]["details"] == {"unit": "b", "step": 1}

    def test_a_server_gets_signed_replies_by_its_listener(self, consumer: Host) -> None:
        connector = Connector(consumer.url)
        connector.heartbeat = 5
        connector.add()
        server = Server()
        replies = ReplyConsumer("server.replies", url=consumer.url, authenticator=server)
        replies.start(server)
        with self.agent(consumer, reply="server.replies", data={"task_id": 7}) as agent:
            agent.Content().install(["a"], {})
            assert server.until("succeeded")["cancelled"] is False
            assert server.until("started") == {"task_id": 7}
            agent.Content().fail()
            xclass, xargs, trace, exval, xmodule = server.until("failed")
        replies.stop()
        replies_joined = replies.stop(20)
        assert replies_joined
        assert (xclass, xmodule, xargs) == ("ValueError", "builtins", ["no such unit", 7])
        assert "no such unit" in trace
        assert isinstance(exval, ValueError)

    def test_a_timeout_is_reported_by_its_old_name_with_the_serial_number(self, consumer: Host) -> None:
        with self.agent(consumer) as agent:
            with pytest.raises(PolicyTimeout) as caught:
                agent(wait=0.5).Content().sleep()
            sn = caught.value.sn()
            assert agent.Admin().cancel(sn=sn) == [sn]


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("from gofer.messaging import Node", "gofer.messaging has no Node in this version of gofer: "),
        ("from gofer.rmi.async import ReplyConsumer", "write `from gofer.rmi.reply import ReplyConsumer`"),
        (
            "import importlib\nimportlib.import_module('gofer.rmi.async').ReplyConsumer",
            "from gofer.rmi.reply import ReplyConsumer",
        ),
        ("from gofer.common import mkdir", "Python has its own for what was there"),
        ("import gofer.nothing", 'this version of gofer has no such module; the page "Coming from gofer 2"'),
        ("from gofer.agent.plugin import PluginContainer", "write `from gofer.agent import PluginContainer`"),
        ("from gofer.messaging.adapter.model import Queue", "is in gofer.messaging: from gofer.messaging import Queue"),
        ("from gofer.messaging.consumer import Consumer", "write `from gofer.messaging import Consumer`"),
        ("from gofer.rmi.store import Pending", "plugin.pending is how many have not ended"),
        ("from gofer.transport.broker import Broker", "the adapter is named in the URL"),
        ("from gofer.config import Reader", "this version of gofer has no such name in gofer.config"),
        (
            "from gofer.agent.plugin import Plugin\nDog = Plugin.find(__name__).export('Dog')",
            "a plugin has no 'export' any more; write plugin['Name']",
        ),
        ("from gofer.agent.plugin import Plugin\nPlugin.find(__name__).node.queue", "plugin.queue is its address"),
        (
            "from gofer.decorators import pam, remote\nclass A:\n  @remote\n  @pam(name='root')\n  def a(self): ...",
            "@pam on A.a: missing a required argument: 'user'; it takes user, service",
        ),
        ("from gofer.decorators import fork\n@fork(1)\ndef a(): ...", "too many positional arguments; it takes none ("),
        ("from gofer.decorators import pam\n@pam\ndef a(): ...", "old.py, line 2)"),
    ],
)
def test_what_is_not_there_any_more_is_reported_with_what_to_write_instead(host: Host, code: str, says: str) -> None:
    host.goferd.plugin("old", code, "[main]\nenabled=1\n")
    host.goferd.start()

    errors = [line for line in log(host).splitlines() if "old.conf: " in line]
    assert len(errors) == 1
    assert says in errors[0]


def test_a_plugin_may_unload_itself(host: Host) -> None:
    host.goferd.plugin(
        "brief",
        """
        from gofer.agent.plugin import Plugin
        from gofer.decorators import remote

        @remote
        def leave():
            Plugin.find(__name__).shutdown()
            return "left"
        """,
        f"[main]\nenabled=1\n[messaging]\nurl={host.url}\n[model]\nqueue=brief\n",
    )
    host.goferd.start()

    with Agent(host.url, "brief", wait=30) as agent:
        assert until_it_answers(agent)["brief"].leave() == "left"
    eventually(lambda: missing(host.url, "brief"))
