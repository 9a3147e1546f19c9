"""Call Python methods on machines that only a message broker can reach.

Callers begin with :mod:`gofer.proxy`, plugins with :mod:`gofer.decorators`; :mod:`gofer.errors` is what can go wrong.
Nothing is imported here: each process loads only its own half.
"""

__all__: list[str] = []
