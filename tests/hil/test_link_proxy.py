"""The link proxy is as bad as it says, and counts what passes."""

from __future__ import annotations

import asyncio
import socket
import threading
import time

import pytest

from hil.children import wait_until
from hil.link_proxy import HEADER_BYTES, Mode, _Connection


@pytest.fixture
def echo():
    """A server that sends back what it gets."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve(connection: socket.socket) -> None:
        with connection:
            try:
                while data := connection.recv(65536):
                    connection.sendall(data)
            except OSError:
                pass

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(connection,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    yield listener.getsockname()
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()


@pytest.fixture
def link(echo, make_link):
    return make_link(echo)


def dial(link) -> socket.socket:
    return socket.create_connection((link.host, link.port), timeout=60)


def _read_to_end(client: socket.socket) -> None:
    while client.recv(100):
        pass


def exchange(client: socket.socket, data: bytes) -> bytes:
    client.sendall(data)
    got = b""
    while len(got) < len(data):
        more = client.recv(65536)
        if not more:
            break
        got += more
    return got


def test_a_good_link_passes_and_counts(link) -> None:
    """Every byte arrives; payload and estimated wire bytes are counted both ways."""
    data = bytes(range(256)) * 1000
    with dial(link) as client:
        assert exchange(client, data) == data
    counts = link.counts()
    assert (counts.connections, counts.up, counts.down) == (1, len(data), len(data))
    assert counts.up_wire >= len(data) + (len(data) // 1448) * HEADER_BYTES
    assert counts.up_wire < len(data) * 1.1


def test_an_end_is_passed_on(link) -> None:
    """A half-close reaches the far side, and its end comes back."""
    with dial(link) as client:
        client.sendall(b"last")
        client.shutdown(socket.SHUT_WR)
        assert client.recv(10) == b"last"
        assert client.recv(10) == b""


def test_a_rate_is_kept(link) -> None:
    """20 kB at 100 kB/s take a fifth of a second."""
    link.up.rate = 100_000
    with dial(link) as client:
        started_s = time.monotonic()
        exchange(client, bytes(20_000))
        took_s = time.monotonic() - started_s
    assert 0.17 < took_s < 5


def test_a_delay_is_added_each_way(link) -> None:
    """A round trip takes both delays."""
    link.up.delay_s = link.down.delay_s = 0.1
    with dial(link) as client:
        started_s = time.monotonic()
        exchange(client, b"ping")
        assert time.monotonic() - started_s >= 0.2


def test_jitter_keeps_the_order(link) -> None:
    """TCP never overtakes itself."""
    link.up.jitter_s = 0.02
    data = b"".join(i.to_bytes(2, "big") for i in range(2000))
    with dial(link) as client:
        assert exchange(client, data) == data


def test_loss_is_a_stall_and_is_counted(link) -> None:
    """A lost segment costs its stall, not its bytes."""
    link.up.loss, link.up.loss_stall_s = 1.0, 0.15
    with dial(link) as client:
        started_s = time.monotonic()
        assert exchange(client, b"x") == b"x"
        assert time.monotonic() - started_s >= 0.15
    assert link.up.losses == 1


def test_a_cut_resets_both_sides(link) -> None:
    """The client sees RST, and the link stands for the next one."""
    with dial(link) as client:
        exchange(client, b"before")
        assert link.cut() == 1
        with pytest.raises(ConnectionResetError):
            client.recv(1)
    with dial(link) as client:
        assert exchange(client, b"after") == b"after"


def test_a_cut_reaches_who_has_only_come(link) -> None:
    """Accepted this moment, and nothing has moved yet."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours = socket.create_connection(listener.getsockname())
        theirs, _ = listener.accept()

    async def come() -> None:
        connection = _Connection(link, theirs)
        connection.reset()
        task = asyncio.create_task(connection.run())
        done, _ = await asyncio.wait({task}, timeout=10)
        assert done

    with ours:
        link._in_loop(come())
        with pytest.raises(ConnectionResetError):
            ours.recv(1)


def test_a_cut_after_n_bytes_is_exact(link) -> None:
    """Just that many bytes get through."""
    link.up.cut_after = 10
    with dial(link) as client:
        client.sendall(b"0123456789abcdef")
        # The far side's echo of the ten may come before the reset does.
        with pytest.raises(ConnectionResetError):
            _read_to_end(client)
    assert link.up.payload_bytes == 10


def test_a_stall_accepts_and_says_nothing_until_it_ends(link) -> None:
    """Half-open: connections stand and new ones are accepted, nothing moves; then everything does."""
    with dial(link) as standing:
        exchange(standing, b"before")
        link.mode = Mode.STALL
        with dial(link) as late:
            for client in (standing, late):
                client.settimeout(0.1)
                client.sendall(b"hello")
                with pytest.raises(TimeoutError):
                    client.recv(1)
            link.mode = Mode.UP
            for client in (standing, late):
                client.settimeout(60)
                assert client.recv(5) == b"hello"


def test_a_black_hole_swallows(link) -> None:
    """What is sent into it never comes out."""
    with dial(link) as client:
        link.mode = Mode.DISCARD
        client.sendall(b"lost")
        client.settimeout(0.1)
        with pytest.raises(TimeoutError):
            client.recv(1)


def test_a_refusing_link_refuses_and_comes_back_at_the_same_port(link) -> None:
    """The port stays ours meanwhile."""
    port = link.port
    link.down_for_good()
    with pytest.raises(ConnectionRefusedError):
        dial(link)
    link.mode = Mode.UP
    assert link.port == port
    with dial(link) as client:
        assert exchange(client, b"back") == b"back"


def test_a_slow_loris_hands_over_byte_by_byte(link) -> None:
    """Five bytes with 20 ms between them."""
    link.down.trickle_s = 0.02
    with dial(link) as client:
        started_s = time.monotonic()
        client.sendall(b"12345")
        for _ in range(5):
            client.recv(1)
        assert time.monotonic() - started_s >= 0.08


def test_a_dead_target_resets_the_client(make_link) -> None:
    """Nobody behind the link is not the link's silence."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        dead = listener.getsockname()
    link = make_link(dead)
    with pytest.raises(ConnectionResetError), dial(link) as client:
        client.recv(1)
    wait_until(lambda: link.refused_by_target == 1, "the refusal is counted")


def test_a_sender_is_held_back_by_a_slow_link(link) -> None:
    """Bytes under way are bounded: a flood into a slow link blocks the sender."""
    link.up.rate = 1000
    with dial(link) as client:
        client.settimeout(0.3)
        with pytest.raises(TimeoutError):
            client.sendall(bytes(64 << 20))
