"""The dialects of the proton adapter: what they ask, and what they make of an answer. Most brokers are tested live."""

from __future__ import annotations

from typing import Any

import pytest
from gofer.errors import AdapterError
from gofer.messaging import adapter as api
from gofer.messaging.address import Address
from gofer_adapter_proton.brokers import NOT_FOUND, Broker, Refused, broker_of
from proton import Message

_PRODUCTS = {
    "RabbitMQ 4": {"product": "RabbitMQ", "version": "4.0.5"},
    "RabbitMQ 3": {"product": "RabbitMQ", "version": "3.10.8"},
    "Qpid Broker-J": {"product": "Apache Qpid Broker-J Core"},
    "ActiveMQ Artemis": {"product": "apache-activemq-artemis"},
    "qpidd": {"product": "qpid-cpp"},
    "something new": {"product": "something new"},
}
_OPERATIONS: list[api.Operation] = [
    api.DeclareQueue("q/1", expires=60.0),
    api.DeclareQueue("q", kind="quorum"),
    api.DeleteQueue("q"),
    api.PurgeQueue("q"),
    api.CheckQueue("q"),
    api.DeclareExchange("x", "topic", auto_delete=True),
    api.DeleteExchange("x"),
    api.Bind("q", "x", "a.*"),
    api.Unbind("q", "x", "a.*"),
]


def dialect(name: str) -> Broker:
    return broker_of(_PRODUCTS[name], [])


def qpidd(operation: api.Operation, *answers: Message) -> Any:
    """Have an operation done by qpidd's dialect with these answers; return its value."""
    steps = dialect("qpidd").perform(operation)
    try:
        steps.send(None)
        for answer in answers:
            steps.send(answer)
    except StopIteration as done:
        return done.value
    raise AssertionError("it asks for more")


@pytest.mark.parametrize("name", _PRODUCTS)
def test_a_broker_is_known_by_its_product(name: str) -> None:
    assert dialect(name).name == name


@pytest.mark.parametrize("operation", _OPERATIONS, ids=lambda one: type(one).__name__)
@pytest.mark.parametrize("name", _PRODUCTS)
def test_each_operation_is_a_request_or_an_error_that_names_the_broker(name: str, operation: api.Operation) -> None:
    broker = dialect(name)
    if type(operation) in broker.questions:
        question = broker.questions[type(operation)](operation)
        assert question.encode() if isinstance(question, Message) else question[0].endswith(("q", "q/1", "q%2F1"))
    else:
        assert name in str(broker.cannot(operation))


def test_names_are_quoted_in_the_addresses_of_rabbitmq_alone() -> None:
    addresses = [dialect(name).target(Address("x/y", "a b")) for name in ("RabbitMQ 4", "RabbitMQ 3", "Qpid Broker-J")]
    assert addresses == ["/exchanges/x%2Fy/a%20b", "/exchange/x%2Fy/a%20b", "x/y/a b"]
    with pytest.raises(AdapterError, match="it has none"):
        dialect("ActiveMQ Artemis").target(Address("x", "k"))


def test_qpidd_tells_consumers_what_is_missing_and_what_is_there_already() -> None:
    found = Message(properties={"qmf.opcode": "_query_response"}, body=[{"_values": {"consumerCount": 0}}])
    assert "no consumer" in qpidd(api.CheckQueue("q"), found)
    with pytest.raises(Refused) as caught:
        qpidd(api.DeleteQueue("q"), Message(properties={"qmf.opcode": "_query_response"}, body=[]))
    assert caught.value.condition == NOT_FOUND
    made = Message(properties={"qmf.opcode": "_method_response"}, body={"_arguments": {}})
    assert qpidd(api.DeclareQueue("q"), made) is None
    exists = Message(properties={"qmf.opcode": "_exception"}, body={"_values": {"error_text": "q already exists"}})
    assert qpidd(api.DeclareQueue("q"), exists) == "q already exists"
