"""What the benchmarks share: load on a few connections that are never idle, cores, figures and tables."""

from __future__ import annotations

import os
import selectors
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

CONNECTIONS = 4
CLASSES = {"gthread": ["--worker-class", "gthread", "--threads", "4"], "sync": ["--worker-class", "sync"]}


class Connection:
    """A client that sends the next request after each answer, and reconnects if the server closes."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._socket: socket.socket | None = None
        self._buffer = b""
        self._missing = -1
        self._closes = False
        self.asked_at = 0.0

    def ask(self, path: str, selector: selectors.BaseSelector) -> None:
        self.asked_at = time.perf_counter()
        if self._socket is None:
            self._socket = socket.create_connection(("127.0.0.1", self._port))
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            selector.register(self._socket, selectors.EVENT_READ, self)
        self._buffer, self._missing = b"", -1
        self._socket.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())

    def receive(self, selector: selectors.BaseSelector) -> bool:
        """Return whether the answer is complete; any status but 200 ends the benchmark."""
        assert self._socket is not None
        data = self._socket.recv(1 << 20)
        if not data:
            raise ConnectionError("the server closed in the middle of an answer")
        if self._missing < 0:
            self._buffer += data
            head, found, body = self._buffer.partition(b"\r\n\r\n")
            if not found:
                return False
            if not head.startswith(b"HTTP/1.1 200 "):
                raise ConnectionError(f"the server answered {head[:80]!r}")
            lower = head.lower()
            self._closes = b"connection: close" in lower
            length = lower.partition(b"content-length: ")[2].partition(b"\r\n")[0]
            self._missing = int(length) - len(body)
        else:
            self._missing -= len(data)
        if self._missing > 0:
            return False
        if self._closes:
            self.close(selector)
        return True

    def close(self, selector: selectors.BaseSelector) -> None:
        if self._socket is not None:
            selector.unregister(self._socket)
            self._socket.close()
            self._socket = None


@contextmanager
def on_other_cores() -> Iterator[int | None]:
    """Keep this process off one core, and yield that core for a server; None if there is only one."""
    first, *others = cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, others or cores)
    try:
        yield first if others else None
    finally:
        os.sched_setaffinity(0, cores)


def pinned(core: int | None) -> list[str]:
    """Return the first words of a command that may use this core only, or none for any core."""
    return [] if core is None else ["taskset", "--cpu-list", str(core)]


def run(port: int, paths: Sequence[str], requests: int) -> tuple[float, list[float]]:
    """Return the requests per second and the sorted latencies in seconds."""
    latencies: list[float] = []
    with selectors.DefaultSelector() as selector:
        clients = [Connection(port) for _ in range(CONNECTIONS)]
        asked = 0
        began = time.perf_counter()
        for client in clients:
            client.ask(paths[asked % len(paths)], selector)
            asked += 1
        while len(latencies) < requests:
            for key, _ in selector.select():
                client = key.data
                if client.receive(selector):
                    latencies.append(time.perf_counter() - client.asked_at)
                    if asked < requests:
                        client.ask(paths[asked % len(paths)], selector)
                        asked += 1
        took = time.perf_counter() - began
        for client in clients:
            client.close(selector)
    return requests / took, sorted(latencies)


def percentile(ordered: Sequence[float], percent: int) -> float:
    return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)]


def note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def head(*titles: str) -> None:
    """Print the head of a table."""
    print(f"\n| {' | '.join(titles)} |\n|{'---|' * len(titles)}")


def row(*cells: object) -> None:
    """Print a row of a table."""
    print(f"| {' | '.join(map(str, cells))} |", flush=True)
