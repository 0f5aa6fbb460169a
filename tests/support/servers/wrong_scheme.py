"""Servers whose port speaks TLS, or refuses it, as clients with the other scheme see them."""

from __future__ import annotations

import socket
import socketserver
import ssl
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import trustme

NGINX = "<html><head><title>400 The plain HTTP request was sent to HTTPS port</title></head></html>"
APACHE = "Reason: You're speaking plain HTTP to an SSL-enabled server port.<br />"
GO = "Client sent an HTTP request to an HTTPS server.\n"


class Resetting(socketserver.BaseRequestHandler):
    """Reset each connection in the middle of its handshake."""

    def handle(self) -> None:
        self.request.recv(4096)
        self.request.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@contextmanager
def over_tls(handler: type[BaseHTTPRequestHandler]) -> Iterator[int]:
    """Serve over TLS; yield the port."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    trustme.CA().issue_cert("localhost").configure_cert(context)
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # a handshake that fails, as it should
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server.server_port
    server.shutdown()
    server.server_close()
