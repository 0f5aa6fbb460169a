"""HTTPS servers in threads, and the sockets they listen on."""

import errno
import socket
import threading
import time
from collections.abc import Sequence
from typing import Any, Final

import uvicorn

from local_stack.certificates import Certificates
from local_stack.errors import LocalStackError, PortInUse

START_S: Final = 30
LOOPBACK: Final = ("127.0.0.1", "::1")


def listen(port: int, hosts: Sequence[str] = LOOPBACK) -> list[socket.socket]:
    """Return a socket that listens for each host, all on one port; 0 means any. Raise PortInUse if it is taken.

    ::1 is left out where IPv6 is switched off.
    """
    first = _bound(socket.AF_INET, hosts[0], port)
    number = first.getsockname()[1]
    sockets = [first]
    for host in hosts[1:] if socket.has_ipv6 else ():
        try:
            sockets.append(_bound(socket.AF_INET6, host, number))
        except PortInUse:
            first.close()
            if port == 0:  # another program has the port that the system chose, but for IPv6 only
                return listen(port, hosts)
            raise
        except OSError:  # IPv6 is compiled in but switched off on this machine
            pass
    return sockets


def listen_again(wanted: int, hosts: Sequence[str] = LOOPBACK) -> list[socket.socket]:
    """Return sockets as `listen` does, on any port if another program listens on `wanted` now."""
    try:
        return listen(wanted, hosts)
    except PortInUse:
        return listen(0, hosts)


def _bound(family: socket.AddressFamily, host: str, port: int) -> socket.socket:
    bound = socket.socket(family, socket.SOCK_STREAM)
    # The port of a stack that has just stopped may be reused at once; a port with a listener may not.
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
        bound.listen(128)
    except OSError as error:
        bound.close()
        if error.errno == errno.EADDRINUSE:
            raise PortInUse(f"port {port} is in use by another program; choose another with --port") from error
        if error.errno == errno.EACCES:
            raise PortInUse(f"port {port} needs rights that you do not have; choose one above 1023") from error
        raise
    return bound


class Server:
    """One ASGI application in a thread, over HTTPS if it is given certificates."""

    def __init__(self, application: Any, sockets: list[socket.socket], certificates: Certificates | None) -> None:
        self.port: int = sockets[0].getsockname()[1]
        config = uvicorn.Config(
            application,
            ssl_certfile=str(certificates.chain_file) if certificates else None,
            ssl_keyfile=str(certificates.key_file) if certificates else None,
            log_level="critical",  # LXD tries plain http on this port first; that is not worth a log line
            access_log=False,
            lifespan="off",
            server_header=False,
            timeout_graceful_shutdown=1,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": sockets}, name=f"server-{self.port}", daemon=True
        )

    def start(self) -> None:
        """Return when it accepts connections."""
        self._thread.start()
        give_up = time.monotonic() + START_S
        while not self._server.started:
            if not self._thread.is_alive() or time.monotonic() > give_up:
                raise LocalStackError(f"the server on port {self.port} did not start")
            time.sleep(0.02)

    def stop(self) -> None:
        """Close it; running transfers are aborted."""
        self._server.should_exit = True
        self._server.force_exit = True
        self._thread.join(timeout=3)
