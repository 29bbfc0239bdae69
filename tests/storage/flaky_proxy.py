"""A proxy on loopback between a client of S3's protocol and its server, which fails on purpose."""

from __future__ import annotations

import contextlib
import itertools
import socket
import struct
import threading
import time
from collections.abc import Callable

Fault = str
"""Name of a method of Connection: what happens to one request."""


class FlakyProxy:
    """Passes one request per connection on, unless `fault` names what is to happen to it instead.

    `fault` gets the number of the request, from 0, and its path.
    """

    def __init__(self, upstream: tuple[str, int]) -> None:
        self.fault: Callable[[int, str], Fault | None] = lambda number, path: None
        self.paths: list[str] = []
        self.delay_s = 0.2
        self._upstream, self._numbers, self._closed = upstream, itertools.count(), threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port = self._listener.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def close(self) -> None:
        """Stop, and end what still hangs."""
        self._closed.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join()

    def _accept(self) -> None:
        while not self._closed.is_set():
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(client,))
            self._threads.append(thread)
            thread.start()

    def _serve(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            client.settimeout(10)
            request = read_request(client)
            if not request:
                return
            path = request.split(b" ", 2)[1].decode()
            self.paths.append(path)
            fault = self.fault(next(self._numbers), path)
            if fault == "error":
                client.sendall(
                    b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
                )
            elif fault == "reset":
                reset(client)
            elif fault == "hang":
                self._closed.wait(30)
            else:
                if fault == "delay":
                    time.sleep(self.delay_s)
                self._answer(client, request, cut=fault == "cut")

    def _answer(self, client: socket.socket, request: bytes, *, cut: bool) -> None:
        with socket.create_connection(self._upstream, timeout=10) as server:
            head, _, body = request.partition(b"\r\n\r\n")
            lines = [line for line in head.split(b"\r\n") if not line.lower().startswith(b"connection:")]
            server.sendall(b"\r\n".join([*lines, b"Connection: close"]) + b"\r\n\r\n" + body)
            while data := server.recv(1 << 16):
                if cut:
                    client.sendall(data[: len(data) - 1])  # the last byte of the body never comes
                    reset(client)
                    return
                client.sendall(data)


def read_request(client: socket.socket) -> bytes:
    """Head and body of a request; b"" where the client went away."""
    data = b""
    while b"\r\n\r\n" not in data:
        if not (more := client.recv(1 << 16)):
            return b""
        data += more
    head, _, body = data.partition(b"\r\n\r\n")
    lengths = [
        int(line.split(b":")[1])
        for line in head.lower().split(b"\r\n")
        if line.startswith(b"content-length:")
    ]
    while len(body) < sum(lengths):
        if not (more := client.recv(1 << 16)):
            return b""
        body += more
    return head + b"\r\n\r\n" + body


def reset(client: socket.socket) -> None:
    """Close a connection as a crashed host does."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
