"""The public names of every distribution, pinned: nobody adds to or takes from them by accident.

A module is public when no part of its name begins with an underscore; its public names are its ``__all__``. Who
changes one on purpose copies what the failed test prints over the table below.
"""

from __future__ import annotations

import json
import pkgutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from typing import Any

import pytest
from support.repository import distributions

pytestmark = pytest.mark.xdist_group("public-names")  # one process makes what the module shares

PUBLIC_NAMES = """
gofer.agent: PluginContainer
gofer.agent.actions: Actions Cron Every Moment Schedule moment schedule_of
gofer.agent.builtin: admin_api help_text started
gofer.agent.certificates: CertificateWatch InUse certificates_in_use files_of read_in_use
gofer.agent.check: check
gofer.agent.config: AgentConfig Descriptor FleetConfig LiveSection LiveSettings LoggingConfig Machine MainConfig
    ManagementConfig MessagingConfig PamConfig Problem as_changed asks_to_be_required check_together
    find_plugin_dirs made_elsewhere not_trusted read_agent read_descriptor read_descriptors read_url_file redescribe
    ruled_plugin stable_uuid
gofer.agent.config.agent: AGENT AgentConfig FleetConfig LoggingConfig MainConfig ManagementConfig MessagingConfig
    PamConfig read_agent
gofer.agent.config.broken: asks_to_be_required ruled_plugin
gofer.agent.config.descriptor: DESCRIPTOR Descriptor find_plugin_dirs read_descriptor read_descriptors read_url_file
    redescribe
gofer.agent.config.files: MAX_FILE distrusted list_files list_misplaced list_unread read_bytes read_text
gofer.agent.config.identity: Machine made_elsewhere stable_uuid
gofer.agent.config.keys: GUARD Key Reader Schema keys_of written
gofer.agent.config.kinds: ADDRESS BROKER EXCHANGE FLAG GROUPS Kind LEVEL NAME OWN_HOST PROXY Wrong choice dotted
    line names odd_identity seconds size whole
gofer.agent.config.live: LiveSection LiveSettings as_changed
gofer.agent.config.problem: Problem plain shown
gofer.agent.config.together: check_together not_trusted
gofer.agent.container: PluginContainer
gofer.agent.core_hooks: CoreHooks RequestHooks
gofer.agent.endpoint: Endpoint
gofer.agent.endpoints: Endpoints Gate
gofer.agent.facts: Facts own_facts
gofer.agent.failures: Broken Refused blamed not_identified one_line why_not_loaded within
gofer.agent.helper: main
gofer.agent.helper_process: HELPER Method greeting import_objects import_problems methods
gofer.agent.imports: Imports PATIENCE
gofer.agent.links: Links Probe
gofer.agent.loader: Batch Loader
gofer.agent.log_handler: NonBlockingHandler
gofer.agent.logs: JournalFormatter JsonFormatter LineFormatter LogSetup configure is_journal
gofer.agent.main: main
gofer.agent.management.operations: Operations plugin_line show
gofer.agent.management.server: Management loopback may_manage open_tcp open_unix peer_of write_token
gofer.agent.management.wire: Answer CODES Cancel Channel Drop Error Load MAX_ANSWER MAX_REQUEST Reload Request
    Requests Retry Show Unload Unusable decode decode_request encode proof socket_of token_of
gofer.agent.membership: Membership
gofer.agent.plugin: Container Plugin State current
gofer.agent.plugin_code: ask_extensions authenticate check_hooks exchange_hooks find_plugin import_code
    locate_plugin run_load run_unload
gofer.agent.plugin_queue: PluginQueue
gofer.agent.process: AgentLock AlreadyRunning Signals give_memory_back notify watchdog_interval
gofer.agent.reload: Reload dependents
gofer.agent.request_services: RequestServices
gofer.agent.rmi: Context
gofer.agent.rules: Rules
gofer.agent.sharing: accepting build_apis check_trust homes may_reach owners
gofer.agent.sighup: Changes decide descriptors_of
gofer.agent.sources: Aside GROUP Source forget import_source locate unused_files
gofer.agent.states: NEXT State
gofer.aio: Agent AsyncioSession
gofer.card: Answer Card EXCHANGE PluginCard Question Who key_of_group read_answer read_question
gofer.config: Config Graph get_bool
gofer.crontab: Crontab parse_crontab
gofer.decorators: Action DIRECT FORK Login Mark Version action destructive direct fork idempotent initializer load
    mark_of once pam read_only remote unload user version version_of
gofer.duration: DURATIONS parse_duration
gofer.entry_points: Installed find listed load scan
gofer.errors: AdapterError CallError Cancelled ConfigError ConnectionLost DispatchError DocumentError
    ExecutionTimeout GoferError Interrupted InvalidOperator MemberNotFound MessagingError NamespaceNotFound
    NotAuthenticated NotAuthorized NotFound NotTaken PasswordRequired PluginError ProcessDied Rejected
    RemoteException RequestTimeout ResultTooLarge SecretNotMatched SecretRequired UserNotAuthorized UserRequired
gofer.fleet: BlockingFleet BlockingRun Fleet Found Member Outcome Plan Run Selection Summary Watch Waves
    read_members
gofer.fleet.blocking: BlockingFleet BlockingRun
gofer.fleet.discovery: Found discover
gofer.fleet.fleet: Begin FAILURES Fleet Plan Selection
gofer.fleet.members: Member Members read_members
gofer.fleet.record: OPEN OUTCOMES Record RunRow TargetRow WordRow
gofer.fleet.run: Confirm Outcome RecordedRun Run Summary outcome_of
gofer.fleet.state: Database StateError state_directory
gofer.fleet.watch: Watch
gofer.fleet.waves: Amount CAREFUL Waves Window
gofer.hooks: gofer_accept gofer_call gofer_extend gofer_facts gofer_find gofer_finished gofer_load gofer_route
    gofer_unload hookimpl hookspec
gofer.limit: Limit LimitedLog
gofer.messaging: Connector Consumer Document Exchange NotFound Producer Queue Reader URL
gofer.messaging.adapter: Adapter Bind Blocked Cancel CheckQueue Closed Confirmed DeclareExchange DeclareQueue
    DeleteExchange DeleteQueue Delivery Done Event HEAD NO_EXPIRY Opened Operation Outcome Outgoing PurgeQueue
    Settlement Subscribe SubscriptionLost TAIL Unbind checked
gofer.messaging.adapters: GROUP find installed
gofer.messaging.address: Address
gofer.messaging.asyncio_driver: AsyncioConnection AsyncioWaiter
gofer.messaging.auth: Authenticator ValidationFailed fault_of sign signer_of text_of verify
gofer.messaging.authenticators: GROUP caller_authenticator make_authenticator
gofer.messaging.backoff: Backoff OF_MANY
gofer.messaging.body: Body
gofer.messaging.caller_conf: PROFILE_KEYS caller_conf profile profiles read_section
gofer.messaging.certificates: Certificate day read_certificates read_file
gofer.messaging.connection: Connection Flow Traffic
gofer.messaging.connector: Connector SSL
gofer.messaging.core: Core Settle
gofer.messaging.dispatcher: NotAuthorized
gofer.messaging.document: Document EXPIRED Head Invocation MAX_CONTAINERS Reply Request Result Signed VERSION
    check_size decode_fields decode_reply decode_request encode head seconds_of shown timestamp unwrap
gofer.messaging.driver: Driver OPEN Opened SILENCE
gofer.messaging.driver_lock: DriverLock
gofer.messaging.endings: BrokerClosed LoginRefused NoVirtualHost ProtocolError ending who_answers words
gofer.messaging.keyfiles: Watched check_rights files_in read_public read_secret
gofer.messaging.local: default_path open_socket
gofer.messaging.local.adapter: LocalAdapter
gofer.messaging.local.client: Client
gofer.messaging.local.paths: default_path listening locked open_socket path_of reachable
gofer.messaging.local.server: Broker serving
gofer.messaging.local.state: Consumer Exchange Message Queue Receiver State matches
gofer.messaging.local.wire: Ask BadFrame Close Frame Heartbeat Hello MAX_BODY Publish Reader Settle VERSION write
gofer.messaging.mock: install register uninstall
gofer.messaging.model: Consumer Exchange Message Producer Queue Reader
gofer.messaging.operations: Answer MOST_PATIENCE OPERATION Operations State copy_error
gofer.messaging.pool: Pool pool
gofer.messaging.proxies: find_proxy parse_proxy tunnel
gofer.messaging.stamped: Expired MAX_AGE SKEW Stamp StampedAuthenticator read_limits
gofer.messaging.subscription: Steps Subscription declare_temporary
gofer.messaging.subscriptions: Subscriptions
gofer.messaging.thread_driver: ThreadConnection Waiter
gofer.messaging.tls: Session explain make_context shake_hands
gofer.messaging.transport: Connecting open_wire start_connecting
gofer.messaging.url: URL broker_of place
gofer.messaging.value: MAX_DEPTH plain
gofer.messaging.wire: Wakeup Wire
gofer.metrics: Timer timestamp
gofer.ownership: OTHERS_WRITE SECRET distrust refusal user_name
gofer.pam: authenticate
gofer.pmon: PathMonitor
gofer.proxy: Agent Double agent seam
gofer.rmi.api: API Target targets_of
gofer.rmi.client.agent: Double Lease RemoteAgent seam
gofer.rmi.client.call: Call Next no_agent
gofer.rmi.client.notices: Accepted Failed Notice Progress Received Rejected Resubscribed Started Succeeded
    read_reply
gofer.rmi.client.options: CallOptions OPTION_NAMES Options Report
gofer.rmi.client.reply_consumer: Listener ReplyConsumer
gofer.rmi.client.reply_queue: ReplyQueue
gofer.rmi.client.session: Session ThreadSession complete
gofer.rmi.client.stub: Invoke Method Stub Trigger fixed new_request
gofer.rmi.client.unconfirmed: Owner Unconfirmed UnconfirmedRequest
gofer.rmi.clock: Clock Timer
gofer.rmi.context: Context
gofer.rmi.contract: Contract Parameter constructor_of contract_of
gofer.rmi.criteria: InvalidOperator MAX_BYTES MAX_DEPTH MAX_TERMS OPERATORS check matches
gofer.rmi.description: of_api
gofer.rmi.dispatcher: DispatchError MemberNotFound NamespaceNotFound NotAuthenticated NotAuthorized PasswordRequired
    RemoteException SecretNotMatched SecretRequired UserNotAuthorized UserRequired
gofer.rmi.exceptions: encoded from_result sentence to_result trace_of
gofer.rmi.model: DIRECT FORK
gofer.rmi.model.coroutines: Loop Run
gofer.rmi.model.direct: call
gofer.rmi.model.fork: Forks HelperProcess died
gofer.rmi.model.fork_children: GRACE end_with_parent serve threads
gofer.rmi.model.pipe: BEGUN CALL EXIT FAILED FORK IMPORT IMPORTED KILL LogHandler PROGRESS RAISED Sender TERMINATE
    VALUE pair receive send
gofer.rmi.policy: RequestTimeout
gofer.rmi.progress: INTERVAL Progress
gofer.rmi.reply: Accepted Failed Listener Notice Progress Rejected ReplyConsumer Started Succeeded
gofer.rmi.request: ANSWERING BROKER ENDED QUEUED RECEIVED RUNNING Received STATES STORED WRITING digest_of
gofer.rmi.server.access: ANONYMOUS ANYBODY Access Denied Rule Verdict why_denied
gofer.rmi.server.administration: ANSWERING Administration Entry INTERRUPTED Listing OVERDUE STATES UNDELIVERABLE
    WAITING
gofer.rmi.server.channel: Backlog Channel
gofer.rmi.server.consumer: Consumer
gofer.rmi.server.counters: BOUNDS Counters
gofer.rmi.server.dispatch: Dispatch Pending Unfit authorize way_out
gofer.rmi.server.early_cancels: Owner Tombstones
gofer.rmi.server.hooks: HookCalls Raised call_each named
gofer.rmi.server.in_flight: Registry
gofer.rmi.server.lifecycle: Lifecycle
gofer.rmi.server.logins: Attempt Logins attempt pam_service
gofer.rmi.server.nonces: Nonce Nonces Seen
gofer.rmi.server.persistence: AlreadyStarted Persistence
gofer.rmi.server.rejections: Rejections start_of
gofer.rmi.server.reply_encoder: CannotSign Encoder Refusal of_error of_value
gofer.rmi.server.reply_publisher: GIVE_UP Publisher Settled
gofer.rmi.server.request_log: RequestLog
gofer.rmi.server.serial: Outcome SerialThread
gofer.rmi.server.service: PluginCode Service
gofer.rmi.server.statuses: MOST_HELD Statuses
gofer.rmi.server.sweep: Sweep
gofer.rmi.server.verification: ALLOWANCE Refused Verification Verified too_late
gofer.rmi.server.window: Window
gofer.rmi.server.workers: Task Workers
gofer.rmi.shell: LIMIT Shell
gofer.rmi.store: Database Unavailable
gofer.rmi.store.database: Database Unavailable Work
gofer.rmi.store.requests: ANSWERING CANCELLED DAY DONE INTERRUPTED MOST_KEPT QUEUED RUNNING Record Row UNDELIVERABLE
    absent begin buried bury claim clean count count_all decode drop find keep kept known light load pull pull_these
    remove revive revoke rows settle take trim
gofer.rmi.store.schema: VERSION boot prepare recover version_of
gofer.root: Root sync
gofer.sections: Content Guards Sections Unreadable decode has_comment parse_ini parse_json
gofer.streams: UNWRITABLE give_up_output open_missing
gofer.suggest: available did_you_mean nearest
gofer.targets: MAX_LENGTH Targets
gofer.testing: AdapterContract AuthenticatorContract
gofer.testing.agents: AgentProcess Guard
gofer.testing.authenticators: AuthenticatorContract
gofer.testing.contract: AdapterContract
gofer.testing.emulator: EmulatedAgent Emulator Script
gofer.testing.mock: Call install register uninstall
gofer.testing.own_broker: Finding TestOwnBroker check_login run_contract
gofer.testing.plugin: gofer_agent gofer_agents gofer_broker gofer_mock gofer_plugins gofer_process gofer_url
gofer.testing.proxy: Direction Filter Proxy
gofer.tools.agent: agent mgt
gofer.tools.agent_client: NoAgent NoAnswer ask
gofer.tools.agent_tree: print_agent
gofer.tools.arguments: address call_arguments call_input duration input_option json_value option_group read_argument
    read_arguments target
gofer.tools.broker: broker
gofer.tools.can: can
gofer.tools.certs: certs
gofer.tools.certs_files: Exists check_directories write_files
gofer.tools.certs_lines: Files TARGETS lines_for
gofer.tools.completion: COMPLETE completion targets
gofer.tools.connecting: agent_options broker_options connector_of proof_options proofs signing_option tls_options
gofer.tools.demo: Step demo read_steps
gofer.tools.describe: at_address describe method_lines
gofer.tools.emulate: emulate
gofer.tools.fleet: fleet
gofer.tools.fleet_call: COMMANDS
gofer.tools.fleet_completion: fleet_methods fleet_names fleet_outcomes fleet_runs fleet_targets
gofer.tools.fleet_do: FAILED STOPPED fleet_command fleet_words with_fleet
gofer.tools.fleet_machines: COMMANDS
gofer.tools.fleet_output: histogram live_line machines plain print_groups print_plan print_report summary_line
    tell_of_care tell_unfinished
gofer.tools.fleet_runs: COMMANDS
gofer.tools.listing: adapters authenticators plugins
gofer.tools.main: main
gofer.tools.new: new
gofer.tools.output: complain filled harmless print_json print_table text_of
gofer.tools.pki: Entry Store
gofer.tools.progress: Bar
gofer.tools.rmi: answer rmi
gofer.tools.service: service
gofer.tools.service_files: Record Service State install stage uninstall
gofer.tools.stubs: stubs write_stubs
gofer.tracing: Tracer slot use
gofer_adapter_amqp: AmqpAdapter
gofer_adapter_amqp.adapter: AmqpAdapter
gofer_adapter_amqp.broker: Closed DIFFERS Dialect LOCKED NOT_FOUND OPENED REFUSED logins
gofer_adapter_amqp.channel: Channel Channels Method Question Steps Task
gofer_adapter_amqp.messages: Consumer Publisher
gofer_adapter_amqp.operations: steps
gofer_adapter_amqp.wire: DELIVER FRAME_ENDS HEARTBEAT LONGEST PROTOCOL_HEADER body_size consumers expiration
    frame_head frame_size message_at message_id method_frame publish_frames reply settle_frame signature
    tag_and_flag
gofer_adapter_proton: ProtonAdapter
gofer_adapter_proton.adapter: ProtonAdapter
gofer_adapter_proton.brokers: Ask Broker NOT_FOUND Question Refused broker_of
gofer_adapter_proton.links: Hub Lane
gofer_adapter_proton.login: Login
gofer_adapter_proton.messages: Incoming encode
gofer_adapter_proton.traffic: Consumer Publisher
gofer_adapter_qpid: QpidAdapter
gofer_adapter_qpid.adapter: QpidAdapter
gofer_adapter_qpid.amqp_0_10: AmqpError Connection ConnectionClosed Ends Fields Login LoginRefused Message Outcomes
    PeerSilent ProtocolError Publisher Question Ranges Session SessionClosed Steps Subscription Tasks Transfer drain
    encode_header encode_transfer logins to_ranges
gofer_adapter_qpid.amqp_0_10.codec: Reader decode_method decode_structs encode_method encode_struct encode_value
gofer_adapter_qpid.amqp_0_10.connection: Connection Login logins
gofer_adapter_qpid.amqp_0_10.errors: AmqpError ConnectionClosed LoginRefused PeerSilent ProtocolError SessionClosed
gofer_adapter_qpid.amqp_0_10.frames: Assembler BODY Body COMMAND CONTROL Ends FrameReader HEADER MIN_MAX_FRAME_SIZE
    PROTOCOL_HEADER WHOLE assembly_frames frame
gofer_adapter_qpid.amqp_0_10.messages: Message TRANSFER Transfer encode_header encode_transfer read_destination
    read_header
gofer_adapter_qpid.amqp_0_10.publisher: CONFIRMED Outcomes Publisher REFUSED RETURNED Sent UNKNOWN
gofer_adapter_qpid.amqp_0_10.session: Home Ranges Session to_ranges
gofer_adapter_qpid.amqp_0_10.subscription: Subscription
gofer_adapter_qpid.amqp_0_10.tables: CLOSE_CODES COMMANDS CONTROLS DETACH_CODES ERROR_CODES Layout STRUCTS TYPES
    Type
gofer_adapter_qpid.amqp_0_10.tasks: Fields Question Steps Tasks drain
gofer_adapter_qpid.operations: steps
gofer_adapter_qpid.sessions: Consumer Home error_of
gofer_authenticator_hmac: HmacAuthenticator
gofer_authenticator_hmac.authenticator: HmacAuthenticator
gofer_authenticator_x509: X509Authenticator
gofer_authenticator_x509.authenticator: X509Authenticator
gofer_authenticator_x509.trust: ANY_PURPOSE CLIENT_AUTH Key Trust check_key common_name load_certificate
    read_purpose
gofer_plugin_audit: begin end gofer_call gofer_finished
gofer_plugin_audit.chain: Finding GENESIS RECOVERED Record Verification line_of lines_of read_line torn_digest
gofer_plugin_audit.command: audit
gofer_plugin_audit.log: AuditLog files_in
gofer_plugin_demo: Demo TooTired hello
gofer_plugin_metrics: start stop write
gofer_plugin_metrics.readings: Readings
gofer_plugin_metrics.serving: serve
gofer_plugin_package: Package check
gofer_plugin_package.apt: Apt
gofer_plugin_package.changes: Change Installed change difference rollback
gofer_plugin_package.dnf: Dnf
gofer_plugin_package.managers: Manager QUIET Wanted parse_names query
gofer_plugin_package.packages: Ended Package
gofer_plugin_package.settings: Settings read_settings
gofer_plugin_package.transactions: run_transaction
gofer_plugin_system: Script Service Shell System check
gofer_plugin_system.access: run_as
gofer_plugin_system.commands: Ended Shell
gofer_plugin_system.power: System
gofer_plugin_system.scripts: Script
gofer_plugin_system.services: Service
gofer_plugin_tracing: GoferInstrumentor gofer_call gofer_finished start stop
gofer_plugin_tracing.attributes: SCOPE W3C described failed
gofer_plugin_tracing.exporters: find flush provide rehearse
gofer_plugin_tracing.requests: begin current end ended record_refused
gofer_plugin_tracing.tracer: CallTracer
gofer_plugin_virt: Virt check close
gofer_plugin_virt.connections: connect disconnect uri_of
gofer_plugin_virt.domains: Domain Virt
"""

# Documented names -> where their objects are at home. Programs written for gofer 2.12 import the former.
DOORS = {
    "gofer.agent.PluginContainer": "gofer.agent.container.PluginContainer",
    "gofer.agent.rmi.Context": "gofer.rmi.context.Context",
    "gofer.messaging.Connector": "gofer.messaging.connector.Connector",
    "gofer.messaging.NotFound": "gofer.errors.NotFound",
    "gofer.messaging.URL": "gofer.messaging.url.URL",
    "gofer.messaging.mock.install": "gofer.testing.mock.install",
    "gofer.messaging.mock.register": "gofer.testing.mock.register",
    "gofer.messaging.mock.uninstall": "gofer.testing.mock.uninstall",
    "gofer.messaging.dispatcher.NotAuthorized": "gofer.errors.NotAuthorized",
    "gofer.rmi.criteria.InvalidOperator": "gofer.errors.InvalidOperator",
    "gofer.rmi.dispatcher.DispatchError": "gofer.errors.DispatchError",
    "gofer.rmi.dispatcher.MemberNotFound": "gofer.errors.MemberNotFound",
    "gofer.rmi.dispatcher.NamespaceNotFound": "gofer.errors.NamespaceNotFound",
    "gofer.rmi.dispatcher.NotAuthenticated": "gofer.errors.NotAuthenticated",
    "gofer.rmi.dispatcher.NotAuthorized": "gofer.errors.NotAuthorized",
    "gofer.rmi.dispatcher.PasswordRequired": "gofer.errors.PasswordRequired",
    "gofer.rmi.dispatcher.RemoteException": "gofer.errors.RemoteException",
    "gofer.rmi.dispatcher.SecretNotMatched": "gofer.errors.SecretNotMatched",
    "gofer.rmi.dispatcher.SecretRequired": "gofer.errors.SecretRequired",
    "gofer.rmi.dispatcher.UserNotAuthorized": "gofer.errors.UserNotAuthorized",
    "gofer.rmi.dispatcher.UserRequired": "gofer.errors.UserRequired",
    "gofer.rmi.model.DIRECT": "gofer.decorators.DIRECT",
    "gofer.rmi.model.FORK": "gofer.decorators.FORK",
}

MODULES = [
    name
    for distribution in distributions()
    for name, _ in distribution.modules()
    if name.rpartition(".")[2] != "__main__"  # a program, run by `python -m`, not imported
]

# Runs in a process of its own, so that no test of this one depends on what was imported here, or in which order.
LOOK = """
import importlib, json, sys, traceback

def look(name):
    try:
        module = importlib.import_module(name)
    except BaseException:
        return {"error": traceback.format_exc()}
    names = getattr(module, "__all__", None)
    missing = [each for each in names or () if not hasattr(module, each)]
    return {"error": None, "doc": module.__doc__, "names": None if names is None else list(names), "missing": missing}

json.dump({name: look(name) for name in sys.argv[1:]}, sys.stdout)
"""


@pytest.fixture(scope="module")
def seen() -> dict[str, dict[str, Any]]:
    """What an interpreter finds that imports every module: an error, or docstring, names, and names without object."""
    done = subprocess.run(
        [sys.executable, "-c", LOOK, *MODULES], check=True, stdout=subprocess.PIPE, text=True, timeout=60
    )
    return dict(json.loads(done.stdout))


def table(seen: dict[str, dict[str, Any]]) -> str:
    """Write a line for every public module that offers something: its name, then its names in alphabetic order."""
    lines = [""]
    for name, module in sorted(seen.items()):
        names = sorted(module.get("names") or ())
        if names and not any(part.startswith("_") for part in name.split(".")):
            lines.append(textwrap.fill(f"{name}: {' '.join(names)}", width=116, subsequent_indent="    "))
    return "\n".join([*lines, ""])


def faults(name: str, module: dict[str, Any]) -> Iterator[str]:
    """Tell what is wrong with a module, as ``LOOK`` saw it."""
    if module["error"] is not None:
        yield f"{name} cannot be imported: {module['error']}"
        return
    if not (module["doc"] or "").strip():
        yield f"{name} has no docstring"
    if module["names"] is None:
        yield f"{name} has no __all__"
    elif len(module["names"]) > len(set(module["names"])):
        yield f"{name}.__all__ names something twice"
    if module["missing"]:
        yield f"{name}.__all__ names what is not there: {module['missing']}"


def test_every_module_says_what_it_is_and_what_it_offers(seen: dict[str, dict[str, Any]]) -> None:
    found = [fault for name in MODULES for fault in faults(name, seen[name])]

    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("wrong", "fault"),
    [
        ({"error": "ImportError"}, "m cannot be imported: ImportError"),
        ({"doc": None}, "m has no docstring"),
        ({"names": None}, "m has no __all__"),
        ({"names": ["a", "a"]}, "m.__all__ names something twice"),
        ({"missing": ["b"]}, "m.__all__ names what is not there: ['b']"),
    ],
)
def test_each_fault_is_seen(wrong: dict[str, Any], fault: str) -> None:
    right = {"error": None, "doc": "Say it.", "names": ["a"], "missing": []}

    assert list(faults("m", right)) == []
    assert list(faults("m", right | wrong)) == [fault]


def test_public_names_are_those_pinned_here(seen: dict[str, dict[str, Any]]) -> None:
    now = table(seen)
    print(f'PUBLIC_NAMES = """{now}"""')  # shown when the next line fails, ready to be copied

    assert now == PUBLIC_NAMES, "the public names changed; if that is meant, the new table is in the captured output"


@pytest.mark.parametrize(("door", "home"), DOORS.items())
def test_a_documented_name_is_the_object_itself(door: str, home: str) -> None:
    assert pkgutil.resolve_name(door) is pkgutil.resolve_name(home)
