"""Which port does a server under test listen on? One that no other test, in whatever process, can be given."""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Iterator
from functools import cache
from itertools import cycle

# Below those that the kernel gives to clients by itself.
FIRST, LAST, BLOCK = 10_000, 32_000, 100


@cache
def _ports_of(pid: int) -> Iterator[int]:
    """Reserve a block for this process: it keeps the block's first port bound, and gives away the others."""
    while True:
        first = random.randrange(FIRST, LAST, BLOCK)
        reserved = socket.socket()
        try:
            reserved.bind(("127.0.0.1", first))
            reserved.listen()  # without this, a socket with SO_REUSEADDR could bind the port, too
        except OSError:
            reserved.close()
            continue
        reserved.detach()  # bound until this process ends
        return cycle(range(first + 1, first + BLOCK))


def free_port() -> int:
    """Return a port of 127.0.0.1 that is free now and that only this process gives away."""
    for port in _ports_of(os.getpid()):
        with socket.socket() as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                tried.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("unreachable: the ports come round again")
