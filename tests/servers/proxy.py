"""A TCP proxy in front of a server that breaks connections, or lets them hang, after so many bytes."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator


class Proxy:
    """Hands all on to ``port`` of loopback. ``passed``: bytes that servers sent to clients through it.

    ``cut_after``: when one connection has passed so many bytes, it is broken, at most ``cuts`` times.
    ``hang_after``: when ``passed`` has reached it, no more bytes are handed on; ``hangs`` is set then.
    """

    def __init__(
        self, port: int, *, cut_after: int | None = None, cuts: int = 1, hang_after: int | None = None
    ) -> None:
        self._upstream = ("127.0.0.1", port)
        self._cut_after = cut_after
        self._cuts = cuts
        self._hang_after = hang_after
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.passed = 0
        self.hangs = threading.Event()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    @property
    def cuts_left(self) -> int:
        return self._cuts

    @contextlib.contextmanager
    def running(self) -> Iterator[Proxy]:
        threading.Thread(target=self._accept, daemon=True).start()
        try:
            yield self
        finally:
            self._ended.set()
            self._listener.close()

    def mend(self) -> None:
        """Hand on all that comes on new connections; those that hang go on hanging."""
        self._hang_after = None

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed at the end
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._upstream)
                threading.Thread(target=self._upwards, args=(client, server), daemon=True).start()
                threading.Thread(target=self._downwards, args=(server, client), daemon=True).start()

    def _upwards(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(65536):
                server.sendall(data)
        _close(server)

    def _downwards(self, server: socket.socket, client: socket.socket) -> None:
        here = 0
        with contextlib.suppress(OSError):
            while data := server.recv(65536):
                client.sendall(data)
                here += len(data)
                if self._is_over(here, len(data)):
                    break
        _close(server)
        _close(client)

    def _is_over(self, here: int, count: int) -> bool:
        hangs = False
        with self._lock:
            self.passed += count
            if self._hang_after is not None and self.passed >= self._hang_after:
                hangs = True
                self.hangs.set()
            elif self._cut_after is not None and here >= self._cut_after and self._cuts > 0:
                self._cuts -= 1
                return True
        if hangs:
            self._ended.wait()
        return hangs


def _close(one: socket.socket) -> None:
    # Also wakes the thread that waits in recv; without lingering, so that the other side sees a broken connection.
    with contextlib.suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
    one.close()
