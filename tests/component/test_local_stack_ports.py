"""The sockets that the local stack listens on."""

import contextlib
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from local_stack import servers
from local_stack.errors import PortInUse
from local_stack.servers import listen, listen_again
from local_stack.stack import _Ports
from tests.support.processes import free_port


@contextlib.contextmanager
def held(sockets: Sequence[socket.socket]) -> Iterator[int]:
    """Yield the port of these sockets, and close them."""
    try:
        yield sockets[0].getsockname()[1]
    finally:
        for bound in sockets:
            bound.close()


def test_a_chosen_port_that_is_taken_is_refused() -> None:
    with held(listen(0)) as taken, pytest.raises(PortInUse, match=f"port {taken} is in use .* --port"):
        listen(taken)


def test_a_remembered_port_is_used_again_unless_it_is_taken() -> None:
    port = free_port()
    with held(listen_again(port)) as first, held(listen_again(port)) as second:
        assert first == port
        assert second not in (port, 0)


def test_a_free_port_of_the_system_that_is_taken_for_ipv6_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """The system knows of each family for itself."""
    bind, refused = servers._bound, list[int]()

    def taken_once(family: socket.AddressFamily, host: str, port: int) -> socket.socket:
        if family == socket.AF_INET6 and not refused:
            refused.append(port)
            raise PortInUse(f"port {port} is in use")
        return bind(family, host, port)

    monkeypatch.setattr(servers, "_bound", taken_once)
    monkeypatch.setattr(socket, "has_ipv6", True)
    with held(listen(0)) as port:
        assert len(refused) == 1
        assert port not in (0, *refused)


def test_the_ports_of_the_last_start_are_used_again(tmp_path: Path) -> None:
    file = tmp_path / "ports.json"
    with held(_Ports(file).listen("api")) as first:
        pass
    with held(_Ports(file).listen("api")) as again, held(_Ports(file).listen("api")) as other:
        assert again == first != other
    with held(_Ports(file).listen("api")) as last:
        assert last == other


@pytest.mark.parametrize("note", ["", "{", "[]", '{"api": "x"}', '{"api": 70000}'])
def test_a_damaged_note_of_ports_means_any_port(tmp_path: Path, note: str) -> None:
    file = tmp_path / "ports.json"
    file.write_text(note)
    with held(_Ports(file).listen("api")) as port:
        assert port
