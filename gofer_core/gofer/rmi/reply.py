"""The documented home of consumers of replies (see :mod:`gofer.rmi.client.reply_consumer`)::

from gofer.proxy import Agent
from gofer.rmi.reply import ReplyConsumer

with ReplyConsumer("tasks", "amqp://broker.example.com").start(listener):
    Agent("amqp://broker.example.com", "web-42", reply="tasks").Dog().bark("hello")
"""

from gofer.rmi.client.notices import Accepted, Failed, Notice, Progress, Rejected, Started, Succeeded
from gofer.rmi.client.reply_consumer import Listener, ReplyConsumer

__all__ = ["Accepted", "Failed", "Listener", "Notice", "Progress", "Rejected", "ReplyConsumer", "Started", "Succeeded"]
