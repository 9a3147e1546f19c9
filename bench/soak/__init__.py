"""The soak: callers of every kind for minutes, while the agent is killed and the broker restarted at random moments.

``make soak``, or ``PYTHONPATH=bench:tests python -m soak --minutes 2 --seed 7``. It ends with a table, one line for
each promise, and exit status 1 if one was broken.
"""

__all__: list[str] = []
