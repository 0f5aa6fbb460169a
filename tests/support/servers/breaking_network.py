"""A network that breaks: a proxy that cuts connections in the middle of an upload."""

from __future__ import annotations

import contextlib
import socket
import threading


class BreakingNetwork:
    """A proxy that cuts every second connection that carries more than `after` bytes."""

    def __init__(self, server: tuple[str, int], after: int) -> None:
        self._server, self._after = server, after
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._lock = threading.Lock()
        self._large = 0
        self.cuts = 0
        self.bytes_up = 0
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._carry, args=(connection,), daemon=True).start()

    def _carry(self, near: socket.socket) -> None:
        with near, socket.create_connection(self._server) as far:
            threading.Thread(target=_pump, args=(far, near), daemon=True).start()
            carried = 0
            with contextlib.suppress(OSError):
                while data := near.recv(65536):
                    far.sendall(data)
                    carried += len(data)
                    with self._lock:
                        self.bytes_up += len(data)
                    if carried - len(data) <= self._after < carried and self._cut_this():
                        return

    def _cut_this(self) -> bool:
        with self._lock:
            self._large += 1
            self.cuts += self._large % 2
            return self._large % 2 == 1


def _pump(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
