"""The caller's half: from ``Agent(url, address).Dog().bark()`` to the value.

===============  ==================================================================================
``agent``        what agents for threads and for coroutines share: names, views, a share in a connection
``stub``         remote classes and methods, and the document of a request
``options``      the options of a call
``session``      the reply queue of a connection, and the calls that wait for replies
``call``         one call, without I/O: replies go in, what to do next comes out
``replies``      what a reply says, read in one place for calls and consumers
``unconfirmed``  requests without a waiting caller, until the broker confirms them
``consumer``     a listener for a queue of replies
===============  ==================================================================================
"""

__all__: list[str] = []
