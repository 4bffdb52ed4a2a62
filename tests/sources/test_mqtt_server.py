"""Checks for the MQTT server as a whole: floods, TLS, stopping, and clients that others wrote."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import shutil
import socket
import ssl
import subprocess
import time
import weakref
from asyncio.sslproto import SSLProtocol
from typing import TYPE_CHECKING

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from gateway.core.units import Duration
from gateway.net.mqtt_packets import Will, connect_bytes, publish_bytes
from gateway.net.secrets import Secret
from gateway.sources.mqtt_server_auth import MqttCertificate, MqttUser
from gateway.sources.server_tls import ServerTls
from hil.paho_device import talking, wait_for_all

if TYPE_CHECKING:
    from pathlib import Path

PING, PONG = b"\xc0\x00", b"\xd0\x00"
ENV = "TIDEGATE_TEST_PASSWORD"


@pytest.fixture
def users(monkeypatch) -> tuple[MqttUser, ...]:
    monkeypatch.setenv(ENV, "right")
    return (MqttUser(name="pump", password=Secret(env=ENV), topics=("plant/{user}/#", "common/+")),)


# Who may come in.


async def test_a_password_opens_its_topics_only(mqtt_server, users) -> None:
    """MQTT 5 hears 0x87 for the others, 3.1.1 hears no PUBACK and is disconnected; both are counted."""
    rig = await mqtt_server.start(users=users)
    login = {"username": b"pump", "password": b"right"}
    client = await rig.connect(version=5, **login)
    topics = [b"plant/pump/a/b", b"plant/other/a", b"common/a", b"common/a/b"]
    await client.send(
        *(publish_bytes(topic, b"", qos=1, packet_id=k + 1, version=5) for k, topic in enumerate(topics)),
        publish_bytes(b"forbidden", b"", qos=2, packet_id=9, version=5),
        publish_bytes(b"forbidden", b"", version=5),
    )
    answers = [await client.packet() for _ in range(5)]
    assert answers[0] == b"\x40\x02\0\1"
    assert answers[1] == b"\x40\x03\0\2\x87"
    assert answers[2] == b"\x40\x02\0\3"
    assert answers[3] == b"\x40\x03\0\4\x87"
    assert answers[4] == b"\x50\x03\0\x09\x87"
    assert [topic for topic, _ in rig.door.messages] == [b"plant/pump/a/b", b"common/a"]
    assert {user for arrivals in rig.door.arrivals for _, user in arrivals.users} == {"pump"}

    client = await rig.connect(b"d2", **login)
    await client.send(publish_bytes(b"common/a", b"", qos=1, packet_id=1), publish_bytes(b"no", b""), PING)
    assert {await client.packet(), await client.packet()} == {b"\x40\x02\0\1", PONG}
    await client.send(
        publish_bytes(b"common/b", b"", qos=1, packet_id=2), publish_bytes(b"no", b"", qos=1, packet_id=3)
    )
    assert await client.rest() == b"\x40\x02\0\2"
    assert rig.refused == {"not_authorized": 6}
    assert 'may not publish to "no"' in rig.source.status()["last_error"]


async def test_a_wrong_password_is_answered_late(mqtt_server, users) -> None:
    """In the words of each version; an unknown name is no quicker; the right one is let in at once."""
    rig = await mqtt_server.start(users=users)
    for version, name, answer in ((4, b"pump", b"\x20\2\0\4"), (5, b"nobody", b"\x20\3\0\x86\0")):
        client = await rig.open()
        began_s = time.monotonic()
        await client.send(connect_bytes(b"d1", version=version, username=name, password=b"wrong"))
        assert await client.rest() == answer
        assert time.monotonic() - began_s >= 0.45
    quickest_s = 10.0
    for number in range(5):
        began_s = time.monotonic()
        await rig.connect(b"d%d" % number, username=b"pump", password=b"right")
        quickest_s = min(quickest_s, time.monotonic() - began_s)
    assert quickest_s < 0.4
    assert rig.refused == {"wrong_password": 2}
    assert rig.source.status()["refused_last"] == {
        "wrong_password": "wrong name or password for 'nobody' from 127.0.0.1"
    }


async def test_guessing_in_parallel_is_refused(mqtt_server, users, monkeypatch) -> None:
    """While eight wrong answers of an address wait, no other try of it is looked at; hanging up frees no place."""
    # None of the eight has its answer before the ninth has asked.
    monkeypatch.setattr("gateway.sources.mqtt_server_auth.DELAY_S", 3.0)
    monkeypatch.setattr("gateway.sources.mqtt_server_auth.DELAY_S_MAX", 3.0)
    rig = await mqtt_server.start(users=users)
    guess = connect_bytes(b"d1", version=5, username=b"pump", password=b"wrong")
    clients = [await rig.open() for _ in range(9)]
    for k, client in enumerate(clients[:8]):
        await client.send(guess)
        await rig.until(lambda k=k: rig.refused.get("wrong_password") == k + 1)
    for client in clients[:8]:
        client.writer.transport.abort()
    await clients[8].send(guess)
    assert await clients[8].rest() == b"\x20\3\0\x9f\0"
    await clients[8].close()
    await rig.until(lambda: rig.source.status()["connections"] == 0)
    await rig.connect(username=b"pump", password=b"right")


async def test_no_name_and_no_right_to_a_will(mqtt_server, users) -> None:
    """Each is refused at once."""
    rig = await mqtt_server.start(users=users)
    client = await rig.open()
    await client.send(connect_bytes(b"d1"))
    assert await client.rest() == b"\x20\2\0\5"
    client = await rig.open()
    will = Will(b"elsewhere", b"", 0)
    await client.send(connect_bytes(b"d1", version=5, username=b"pump", password=b"right", will=will))
    assert await client.rest() == b"\x20\3\0\x87\0"
    assert rig.refused == {"no_credentials": 1, "not_authorized": 1}


async def test_clients_without_a_name_publish_where_they_may(mqtt_server, users) -> None:
    """Nowhere else, in either version, by a will neither; who has a name has topics of its own."""
    rig = await mqtt_server.start(users=users, anonymous=True, anonymous_topics=("open/#",))
    client = await rig.connect(version=5)
    topics = [b"open/a", b"plant/pump/a", b"openly", b"common/a"]
    await client.send(*(publish_bytes(topic, b"", qos=1, packet_id=k, version=5) for k, topic in enumerate(topics, 1)))
    assert [await client.packet() for _ in topics] == [
        b"\x40\x02\0\1", b"\x40\x03\0\2\x87", b"\x40\x03\0\3\x87", b"\x40\x03\0\4\x87",
    ]  # fmt: skip
    client = await rig.connect(b"d2")
    await client.send(
        publish_bytes(b"open/b", b"", qos=1, packet_id=1), publish_bytes(b"plant/pump/a", b"", qos=1, packet_id=2)
    )
    assert await client.rest() == b"\x40\x02\0\1"
    client = await rig.open()
    await client.send(connect_bytes(b"d3", version=5, will=Will(b"plant/pump/a", b"", 0)))
    assert await client.rest() == b"\x20\3\0\x87\0"
    client = await rig.connect(b"d4", username=b"pump", password=b"right", version=5)
    await client.send(publish_bytes(b"open/c", b"", qos=1, packet_id=1, version=5))
    assert await client.packet() == b"\x40\x03\0\1\x87"
    assert [topic for topic, _ in rig.door.messages] == [b"open/a", b"open/b"]
    assert rig.refused == {"not_authorized": 6}


async def test_a_will_s_topic_is_as_long_as_it_may_be(mqtt_server) -> None:
    """With one byte more the client is not let in, for a reason that says both lengths."""
    rig = await mqtt_server.start(topic_bytes_max=10)
    await rig.connect(version=5, will=Will(b"0123456789", b"", 0))
    client = await rig.open()
    await client.send(connect_bytes(b"d2", version=5, will=Will(b"0123456789a", b"", 0)))
    assert await client.rest() == b"\x20\3\0\x90\0"
    assert "a topic of 11 bytes; at most 10 are taken" in rig.source.status()["last_error"]


# Floods.


async def open_sockets(port: int, count: int) -> list[socket.socket]:
    """Connect without ever saying anything."""
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.setblocking(False)
    loop = asyncio.get_running_loop()
    await asyncio.gather(*(loop.sock_connect(one, ("127.0.0.1", port)) for one in sockets))
    return sockets


async def test_a_thousand_connections_that_say_nothing(mqtt_server) -> None:
    """They are bounded, the oldest make room, and a device that speaks is served among them."""
    rig = await mqtt_server.start(connections_max=100, connect_timeout=Duration(60))
    sockets = []
    try:
        for k in range(10):
            sockets += await open_sockets(rig.port, 100)
            # Before the kernel's own queue is full: what it turns away, it lets knock again seconds later.
            await rig.until(lambda k=k: sum(rig.refused.values()) == 100 * (k + 1) - 25)
        client = await rig.connect()
        await client.send(publish_bytes(b"t", b"1", qos=1, packet_id=1))
        assert await client.packet() == b"\x40\x02\0\1"
        assert rig.source.status()["connections"] <= 27
        assert set(rig.refused) == {"connecting_max"}
        last = rig.source.status()["refused_last"]
        assert last == {"connecting_max": "127.0.0.1: made room for a newer connection"}
    finally:
        for one in sockets:
            one.close()


async def test_a_hundred_that_send_half_a_packet_for_ever(mqtt_server, monkeypatch, caplog) -> None:
    """A byte now and then, before CONNECT and behind it: each is ended with its reason, the honest are served."""
    monkeypatch.setattr("gateway.sources.mqtt_server.TICK_S", 0.02)
    monkeypatch.setattr("gateway.sources.mqtt_server_partials.PACKET_S", 0.3)
    rig = await mqtt_server.start(connect_timeout=Duration(1.5))
    strangers = [await rig.open() for _ in range(100)]
    known = [await rig.connect(b"slow%d" % k, version=5) for k in range(100)]
    half_connect = connect_bytes(b"never")[:10]
    half_publish = publish_bytes(b"t", bytes(1000), qos=1, packet_id=1)[:900]
    honest = await rig.connect(b"honest")
    for turn in range(900):
        for clients, data in ((strangers, half_connect), (known, half_publish)):
            for client in clients:
                with contextlib.suppress(ConnectionError):
                    client.writer.write(data[turn : turn + 1])
        await honest.send(PING)
        assert await honest.packet() == PONG
        if rig.refused.get("connect_timeout", 0) + rig.refused.get("packet_timeout", 0) == 200:
            break
        await asyncio.sleep(0.01)
    assert rig.refused == {"connect_timeout": 100, "packet_timeout": 100}
    last = rig.source.status()["refused_last"]
    assert last["connect_timeout"] == "127.0.0.1: no CONNECT in time"
    assert "of anyone at 127.0.0.1: a packet took too long to come" in last["packet_timeout"]
    assert rig.source._hub.partials.total == 0
    assert sum(record.name == "tidegate.mqtt_server" for record in caplog.records) == 2


async def test_one_login_cannot_have_all_connections(mqtt_server, users) -> None:
    """Whoever has fewer takes the place of its longest silent one; nobody pushes out who has no more than he."""
    rig = await mqtt_server.start(connections_max=4, users=users, anonymous=True)
    other = await rig.connect(b"other")
    greedy = [await rig.connect(b"g%d" % k, username=b"pump", password=b"right", version=5) for k in range(3)]
    await greedy[0].send(PING)
    assert await greedy[0].packet() == PONG
    newer = await rig.connect(b"newer")
    assert await greedy[1].rest() == b"\xe0\x01\x97"
    assert rig.refused == {"connections_of_one": 1}
    for client in (other, newer, greedy[0], greedy[2]):
        await client.send(PING)
        assert await client.packet() == PONG
    fifth = await rig.open()
    await fifth.send(connect_bytes(b"fifth"))
    assert await fifth.rest() == b"\x20\2\0\3"
    assert rig.refused == {"connections_of_one": 1, "too_many_connections": 1}
    assert "'anyone' from 127.0.0.1 was sent away" in rig.source.status()["last_error"]
    await rig.connect(b"newer")  # takes over from itself
    assert rig.source.status()["clients"] == 4


async def test_two_logins_cannot_share_all_connections(mqtt_server, users) -> None:
    """Nobody has more than half, and a third is let in all the same, until it has as many as they."""
    second, third = (MqttUser(name=name, password=Secret(env=ENV), topics=("#",)) for name in ("second", "third"))
    rig = await mqtt_server.start(connections_max=4, users=(*users, second, third))
    for k in range(2):
        await rig.connect(b"%d" % k, username=b"pump", password=b"right")
        await rig.connect(b"%d" % k, username=b"second", password=b"right")
    for k in range(2):
        await rig.connect(b"%d" % k, username=b"third", password=b"right")
    assert rig.refused == {"connections_of_one": 2}
    client = await rig.open()
    await client.send(connect_bytes(b"2", version=5, username=b"third", password=b"right"))
    assert await client.rest() == b"\x20\3\0\x88\0"
    assert rig.source.status()["clients"] == 4


async def test_one_login_cannot_have_all_connections_by_being_busy(mqtt_server, users) -> None:
    """Its longest silent one makes room, and what was taken from that one is acknowledged first."""
    rig = await mqtt_server.start(connections_max=2, users=users, anonymous=True)
    rig.door.opened.clear()
    greedy = [await rig.connect(b"g%d" % k, username=b"pump", password=b"right", version=5) for k in range(2)]
    for k, client in enumerate(greedy, 1):
        await client.send(publish_bytes(b"common/a", b"1", qos=1, packet_id=1, version=5))
        await rig.until(lambda k=k: rig.source.status()["received"] == k)
    await rig.connect(b"other")
    rig.door.opened.set()
    assert await greedy[0].rest() == b"\x40\x02\0\1\xe0\x01\x97"
    assert await greedy[1].packet() == b"\x40\x02\0\1"
    assert rig.refused == {"connections_of_one": 1}


async def test_who_was_turned_away_and_stays_makes_room(mqtt_server, users) -> None:
    """All is said to them; they are many, and count no more than as long as nobody wants their place."""
    rig = await mqtt_server.start(connections_max=20, users=users)
    turned_away = []
    for k in range(60):
        turned_away.append(await rig.open())
        await turned_away[-1].send(connect_bytes(b"n%d" % k))
        assert await turned_away[-1].packet() == b"\x20\2\0\5"
        assert rig.source.status()["connections"] <= 20
    known = [await rig.connect(b"d%d" % k, username=b"pump", password=b"right") for k in range(20)]
    await known[0].send(PING)
    assert await known[0].packet() == PONG
    assert rig.source.status()["clients"] == 20
    assert rig.refused == {"no_credentials": 60}


async def test_who_waits_to_hear_that_the_password_is_wrong_makes_room(mqtt_server, users, monkeypatch) -> None:
    """From many addresses, each with few; before anybody who has said nothing, who might know the right one."""
    monkeypatch.setattr("gateway.sources.mqtt_server_auth.DELAY_S", 60.0)
    monkeypatch.setattr("gateway.sources.mqtt_server_auth.DELAY_S_MAX", 60.0)
    rig = await mqtt_server.start(connections_max=20, users=users)
    silent = await rig.open()
    guess = connect_bytes(b"n", username=b"pump", password=b"wrong")
    for k in range(40):
        client = await rig.open(f"127.0.{1 + k // 4}.1")
        await client.send(guess)
        await rig.until(lambda k=k: rig.refused.get("wrong_password") == k + 1)
        assert rig.source.status()["connections"] <= 16
    known = [await rig.connect(b"d%d" % k, username=b"pump", password=b"right") for k in range(20)]
    await known[0].send(PING)
    assert await known[0].packet() == PONG
    await silent.send(connect_bytes(b"silent", username=b"pump", password=b"right"))
    assert await silent.packet() == b"\x20\2\0\0"
    assert rig.refused.keys() == {"wrong_password", "connecting_max", "connections_of_one"}


async def test_known_clients_do_not_make_room_for_strangers(mqtt_server) -> None:
    """Where all places are theirs, a few strangers more may say who they are; the oldest of those goes."""
    rig = await mqtt_server.start(connections_max=3)
    known = [await rig.connect(b"d%d" % k) for k in range(3)]
    strangers = [await rig.open() for _ in range(17)]
    assert await strangers[0].rest() == b""
    assert rig.refused == {"connecting_max": 1}
    assert rig.source.status()["connections"] == 3 + 16
    for client in known:
        await client.send(PING)
        assert await client.packet() == PONG


async def test_connections_that_end_are_bounded_too(mqtt_server) -> None:
    """What was taken from them waits for its commit; one more than so many is not let in."""
    rig = await mqtt_server.start(connections_max=1)
    rig.door.opened.clear()
    for k in range(1 + 16):
        client = await rig.connect(b"d%d" % k)
        await client.send(publish_bytes(b"t", b"%d" % k, qos=1, packet_id=1), b"\xe0\x00")
        await rig.until(lambda: rig.source.status()["clients"] == 0)
    client = await rig.open()
    assert await client.rest() == b""
    assert rig.refused == {"too_many_connections": 1}


async def test_more_connections_than_there_may_be_are_sent_away(mqtt_server) -> None:
    """Counted, while each waits for an answer; and room again when one leaves."""
    rig = await mqtt_server.start(connections_max=2)
    rig.door.opened.clear()
    first = await rig.connect(b"a")
    second = await rig.connect(b"b")
    for k, client in enumerate((first, second)):
        await client.send(publish_bytes(b"t", b"1", qos=1, packet_id=1))
        await rig.until(lambda k=k: rig.source.status()["received"] == k + 1)
    third = await rig.open()
    await third.send(connect_bytes(b"third"))
    assert await third.rest() == b"\x20\2\0\3"
    await third.close()
    assert rig.refused == {"too_many_connections": 1}
    rig.door.opened.set()
    assert await first.packet() == b"\x40\x02\0\1"
    await first.close()
    await rig.until(lambda: rig.source.status()["connections"] == 1)
    await rig.connect(b"c")


async def test_sessions_are_bounded(mqtt_server) -> None:
    """The one that would expire next is forgotten."""
    rig = await mqtt_server.start(sessions_max=3)
    for k in range(5):
        client = await rig.connect(b"d%d" % k, clean_start=False)
        await client.send(b"\xe0\x00")
        await client.rest()
    assert rig.source.status()["sessions"] == 3
    assert rig.refused == {"sessions_max": 2}


async def test_running_out_of_descriptors_is_waited_out(mqtt_server, monkeypatch) -> None:
    """The server stays and says so."""
    monkeypatch.setattr("gateway.net.listeners.ACCEPT_PAUSE_S", 0.01)
    rig = await mqtt_server.start()
    loop = asyncio.get_running_loop()
    accept, failures = loop.sock_accept, [OSError(24, "Too many open files"), OSError(103, "aborted")]

    async def failing(listener: socket.socket) -> object:
        if failures:
            raise failures.pop(0)
        return await accept(listener)

    monkeypatch.setattr(loop, "sock_accept", failing)
    await rig.connect(b"a")  # taken by the call that was waiting already
    await rig.connect(b"b")
    assert rig.refused == {"out_of_resources": 1}


async def test_a_port_that_is_taken_is_named(mqtt_server) -> None:
    """The error says which, and so does status."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        with pytest.raises(OSError, match=f"cannot listen on {address}"):
            await mqtt_server.start(listen=address)
    assert mqtt_server.source.status()["state"] == "failed"
    del mqtt_server.task


# Time.


async def test_the_clock_is_looked_at(mqtt_server, monkeypatch) -> None:
    """Once a tick: silent connections end, sessions expire, the gauge is set."""
    monkeypatch.setattr("gateway.sources.mqtt_server.TICK_S", 0.05)
    rig = await mqtt_server.start(connect_timeout=Duration(1), session_expiry_max=Duration(1))
    client = await rig.connect(b"a", clean_start=False)
    await client.send(b"\xe0\x00")
    silent = await rig.open()
    assert await silent.rest() == b""
    assert rig.refused == {"connect_timeout": 1}
    await rig.until(lambda: rig.source.status()["sessions"] == 0)
    await rig.until(lambda: rig.telemetry.value("tidegate_source_connections", source="direct") == 0)


# Stopping.


async def test_stopping_acknowledges_what_was_taken(mqtt_server) -> None:
    """Accepts that are under way finish, their PUBACKs are sent, then comes the reason, then the end."""
    rig = await mqtt_server.start()
    rig.door.opened.clear()
    will = Will(b"state", b"offline", 0)
    client = await rig.connect(version=5, will=will)
    silent = await rig.open()
    await client.send(publish_bytes(b"t", b"1", qos=1, packet_id=1, version=5))
    await rig.until(lambda: rig.door.offers)
    rig.task.cancel()
    await rig.until(lambda: rig.source.status()["state"] == "stopping")
    await client.send(publish_bytes(b"t", b"2", qos=1, packet_id=2, version=5))
    rig.door.opened.set()
    assert await client.rest() == b"\x40\x02\0\1\xe0\x01\x8b"
    assert await silent.rest() == b""
    await client.close()
    await silent.close()
    with pytest.raises(asyncio.CancelledError):
        await rig.task
    assert rig.door.messages == [(b"t", b"1")]
    assert rig.source.status()["state"] == "stopped"


async def test_stopping_is_bounded(mqtt_server, monkeypatch, caplog) -> None:
    """A gateway that stays full keeps nobody from stopping; nothing is acknowledged."""
    monkeypatch.setattr("gateway.sources.mqtt_server.STOP_S_MAX", 0.1)
    rig = await mqtt_server.start()
    rig.door.full_times = 1_000_000
    client = await rig.connect()
    await client.send(publish_bytes(b"t", b"1", qos=1, packet_id=1))
    await rig.until(lambda: rig.source.status()["state"] == "full")
    rig.task.cancel()
    assert await client.rest() == b""
    await rig.until(rig.task.done)
    assert "they were not acknowledged" in caplog.text


@pytest.mark.parametrize("is_full", [True, False])
async def test_what_nobody_sends_again_stands_in_the_ledger_at_the_stop(mqtt_server, monkeypatch, is_full) -> None:
    """Of messages that found no room those of QoS 0 are lost; the others were not acknowledged, and wills say so."""
    monkeypatch.setattr("gateway.sources.mqtt_server.STOP_S_MAX", 0.1)
    rig = await mqtt_server.start()
    rig.door.full_times = 1_000_000 * is_full
    rig.door.opened.clear()

    def make_room() -> None:
        rig.door.full_times = 0
        rig.door.opened.set()

    client = await rig.connect()
    await client.send(
        publish_bytes(b"t", b"1", qos=1, packet_id=1), publish_bytes(b"t", b"2"), publish_bytes(b"t", b"3")
    )
    await rig.until(lambda: rig.door.offers)
    asyncio.get_running_loop().call_later(0.2, make_room)
    rig.task.cancel()
    assert await client.rest() == b""
    await rig.until(rig.task.done)
    assert [arrivals.dropped for arrivals in rig.door.arrivals] == [{"no_room": 2}]


async def test_who_comes_at_the_moment_of_the_stop_is_hung_up_on(mqtt_server, caplog) -> None:
    """Without a traceback: a device that connects again and again meets that moment at some reload."""
    rig = await mqtt_server.start()
    with socket.create_connection(("127.0.0.1", rig.port)) as late:
        rig.task.cancel()
        await rig.until(rig.task.done)
        late.settimeout(60)
        with contextlib.suppress(ConnectionResetError):
            assert late.recv(1) == b""
    assert caplog.text == ""


async def test_a_will_that_waits_is_said_when_the_gateway_stops(mqtt_server) -> None:
    """The device has gone; nobody else remembers."""
    rig = await mqtt_server.start()
    client = await rig.connect(version=5, will=Will(b"state", b"offline", 0, delay_s=60), properties=[(0x11, 100)])
    client.writer.transport.abort()
    await rig.until(lambda: rig.source.status()["clients"] == 0)
    rig.task.cancel()
    await rig.until(rig.task.done)
    assert rig.door.messages == [(b"state", b"offline")]


async def test_it_can_run_again(mqtt_server) -> None:
    """A supervisor that starts it anew finds a working server."""
    rig = await mqtt_server.start()
    rig.task.cancel()
    await rig.until(rig.task.done)
    rig.task = asyncio.create_task(rig.source.run())
    await rig.source.listening.wait()
    client = await rig.connect()
    await client.send(publish_bytes(b"t", b"1", qos=1, packet_id=1))
    assert await client.packet() == b"\x40\x02\0\1"


# TLS.


@pytest.fixture(scope="session")
def certificates(tmp_path_factory) -> Path:
    """An authority, a server and a device that it signed, and a stranger, made by openssl."""
    folder = tmp_path_factory.mktemp("certificates")

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True, timeout=30)

    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2")
    for name in ("ca", "stranger"):
        openssl("req", "-x509", *key, "-keyout", f"{name}.key", "-out", f"{name}.pem", "-subj", f"/CN={name}")
    (folder / "server.ext").write_text("subjectAltName=IP:127.0.0.1")
    (folder / "device.ext").write_text("subjectAltName=DNS:pump-7.plant")
    for name in ("server", "device"):
        openssl("req", "-new", *key[:5], "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        openssl(
            "x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2",
            "-extfile", f"{name}.ext", "-out", f"{name}.pem",
        )  # fmt: skip
    return folder


def tls_settings(folder: Path, **fields: object) -> dict[str, object]:
    tls = ServerTls(
        cert_file=str(folder / "server.pem"), key_file=str(folder / "server.key"), client_ca_file=str(folder / "ca.pem")
    )
    entry = MqttCertificate(common_name="pump-7.plant", topics=("plant/%u/#",))
    return {"tls": tls, "certificates": (entry,)} | fields


def tls_client(folder: Path, name: str = "") -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(folder / "ca.pem"))
    if name:
        context.load_cert_chain(folder / f"{name}.pem", folder / f"{name}.key")
    return context


async def test_a_certificate_opens_its_topics(mqtt_server, certificates: Path) -> None:
    """By common or alternative name; paho does the talking; a thousand messages arrive."""
    rig = await mqtt_server.start(**tls_settings(certificates))

    def talk() -> None:
        client = paho.Client(CallbackAPIVersion.VERSION2, client_id="p1")
        client.tls_set_context(tls_client(certificates, "device"))
        client.max_inflight_messages_set(500)
        client.connect("127.0.0.1", rig.port)
        with talking(client):
            wait_for_all([client.publish("plant/pump-7.plant/x", b"%d" % k, qos=1) for k in range(1000)])

    await asyncio.to_thread(talk)
    assert sorted(map(int, rig.door.payloads)) == list(range(1000))
    assert rig.source.status()["tls"] is True


async def greet(port: int, context: ssl.SSLContext) -> bytes:
    """Connect with TLS; return the CONNACK."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    try:
        writer.write(connect_bytes(b"d1"))
        return await reader.readexactly(4)
    finally:
        writer.transport.abort()


async def test_a_tls_connection_has_a_small_buffer(mqtt_server, certificates: Path, monkeypatch) -> None:
    """A quarter of a megabyte for each, as asyncio has it, is more than the board has."""
    monkeypatch.setattr(SSLProtocol, "max_size", 256 * 1024)
    rig = await mqtt_server.start(**tls_settings(certificates))
    _, writer = await asyncio.open_connection("127.0.0.1", rig.port, ssl=tls_client(certificates, "device"))
    await rig.until(lambda: rig.source._hub.connections)
    (connection,) = rig.source._hub.connections
    assert len(connection._transport._ssl_protocol._ssl_buffer) == 16 * 1024
    # More than that at a time, and in one message.
    payload = bytes(100_000)
    writer.write(connect_bytes(b"d1") + publish_bytes(b"plant/pump-7.plant/x", payload, qos=1, packet_id=1))
    await rig.until(lambda: rig.door.payloads == [payload])
    writer.transport.abort()


async def test_no_certificate_or_a_strangers_is_refused(mqtt_server, certificates: Path) -> None:
    """The handshake fails and is counted; nobody else is disturbed."""
    rig = await mqtt_server.start(**tls_settings(certificates))
    for name in ("", "stranger"):
        with pytest.raises((ssl.SSLError, ConnectionError, asyncio.IncompleteReadError)):
            await greet(rig.port, tls_client(certificates, name))
    plain = await rig.open()
    await plain.send(connect_bytes(b"d1"))
    await plain.rest()
    await rig.until(lambda: rig.refused.get("tls_failed") == 3)


async def test_handshakes_that_do_not_end_make_room(mqtt_server, certificates: Path) -> None:
    """They count as connections, and a client that shakes hands is let in among them."""
    rig = await mqtt_server.start(**tls_settings(certificates, connections_max=20))
    sockets = []
    try:
        sockets += await open_sockets(rig.port, 100)
        await rig.until(lambda: rig.refused.get("connecting_max") == 100 - 16)
        assert len(rig.source._welcoming) == 16
        assert await greet(rig.port, tls_client(certificates, "device")) == b"\x20\2\0\0"
    finally:
        for one in sockets:
            one.close()


async def test_a_handshake_takes_no_longer_than_a_connect_may(mqtt_server, certificates: Path) -> None:
    """Whoever connects to a TLS port and says nothing is sent away after connect_timeout, and counted."""
    rig = await mqtt_server.start(**tls_settings(certificates, connect_timeout=Duration(0.2)))
    reader, writer = await asyncio.open_connection("127.0.0.1", rig.port)
    async with asyncio.timeout(60):
        assert await reader.read() == b""
    await rig.until(lambda: rig.refused == {"tls_failed": 1})
    writer.close()


async def test_who_shakes_hands_and_says_nothing_makes_room_too(mqtt_server, certificates: Path) -> None:
    """Also where the handshake ended just before: whoever is through it cannot be called off, and must not add up."""
    rig = await mqtt_server.start(**tls_settings(certificates, connections_max=20))
    context = tls_client(certificates, "device")
    writers = []
    hub = rig.source._hub
    for number in range(40):
        _, writer = await asyncio.open_connection("127.0.0.1", rig.port, ssl=context)
        writers.append(writer)
        wanted = min(number + 1, 16)
        await rig.until(lambda wanted=wanted: len(hub.connecting) == wanted and not rig.source._welcoming)
    assert rig.refused == {"connecting_max": 40 - 16}
    through = asyncio.create_task(asyncio.sleep(0))
    await through
    rig.source._welcoming[through] = None
    assert rig.source._make_room()
    assert len(hub.connecting) == 15
    del rig.source._welcoming[through]
    for writer in writers:
        writer.transport.abort()


async def test_a_tls_connection_that_is_gone_takes_no_memory(mqtt_server, certificates: Path) -> None:
    """At once: whoever connects again and again would otherwise be faster than the garbage collector."""
    rig = await mqtt_server.start(**tls_settings(certificates))
    gc.collect()
    gc.disable()
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", rig.port, ssl=tls_client(certificates, "device"))
        await rig.until(lambda: rig.source._hub.connections)
        (connection,) = rig.source._hub.connections
        gone = weakref.ref(connection._transport._ssl_protocol)
        del connection
        writer.transport.abort()
        await rig.until(lambda: not rig.source._hub.connections and gone() is None)
    finally:
        gc.enable()


async def test_a_certificate_is_optional_beside_passwords(mqtt_server, certificates: Path, users) -> None:
    """A name and a password over TLS, with a certificate that is not listed or with none."""
    rig = await mqtt_server.start(**tls_settings(certificates, users=users, certificates=()))
    for name in ("", "device"):
        reader, writer = await asyncio.open_connection("127.0.0.1", rig.port, ssl=tls_client(certificates, name))
        half = publish_bytes(b"common/a", b"1", qos=1, packet_id=1)
        writer.write(connect_bytes(b"d1", username=b"pump", password=b"right") + half[:3])
        assert await reader.readexactly(4) == b"\x20\2\0\0"
        writer.write(half[3:] + b"\xe0\x00")
        assert await reader.read() == b"\x40\x02\0\1"
        writer.close()
        await writer.wait_closed()


# Clients that others wrote.


@pytest.mark.parametrize("version", [MQTTProtocolVersion.MQTTv311, MQTTProtocolVersion.MQTTv5])
@pytest.mark.parametrize("qos", [0, 1, 2])
async def test_paho_publishes(mqtt_server, version: MQTTProtocolVersion, qos: int) -> None:
    """All that it sends arrives, in order, once."""
    rig = await mqtt_server.start()
    connected: list[str] = []

    def talk() -> None:
        client = paho.Client(CallbackAPIVersion.VERSION2, client_id="p1", protocol=version)
        client.on_connect = lambda *a: connected.append(str(a[3]))
        client.will_set("state", b"offline")
        client.connect("127.0.0.1", rig.port, keepalive=30)
        with talking(client):
            wait_for_all([client.publish(f"t/{k % 7}", b"%d" % k + b" " * (k * 3), qos=qos) for k in range(300)])

    await asyncio.to_thread(talk)
    await rig.until(lambda: len(rig.door.payloads) >= 300)
    assert connected == ["Success"]
    assert [int(payload) for payload in rig.door.payloads] == list(range(300))
    assert rig.refused == {}


async def test_paho_resumes_its_session(mqtt_server) -> None:
    """With MQTT 5, a session expiry and properties on each message; the second time the session is there."""
    rig = await mqtt_server.start()
    flags: list[bool] = []

    def talk() -> None:
        properties = Properties(PacketTypes.CONNECT)
        properties.SessionExpiryInterval = 100
        extra = Properties(PacketTypes.PUBLISH)
        extra.ContentType = "application/json"
        extra.UserProperty = ("k", "v")
        extra.TopicAlias = 3
        for _ in range(2):
            client = paho.Client(CallbackAPIVersion.VERSION2, client_id="p1", protocol=MQTTProtocolVersion.MQTTv5)
            client.on_connect = lambda *a: flags.append(a[2].session_present)
            client.connect("127.0.0.1", rig.port, clean_start=False, properties=properties)
            with talking(client):
                wait_for_all([client.publish("t", b"1", qos=2, properties=extra)])

    await asyncio.to_thread(talk)
    assert flags == [False, True]
    assert rig.door.messages == [(b"t", b"1")] * 2


@pytest.mark.skipif(shutil.which("mosquitto_pub") is None, reason="mosquitto_pub is not installed")
@pytest.mark.parametrize("version", ["mqttv311", "mqttv5"])
@pytest.mark.parametrize("qos", ["0", "1", "2"])
async def test_mosquitto_pub_publishes(mqtt_server, version: str, qos: str) -> None:
    """The C client agrees with us about the protocol."""
    rig = await mqtt_server.start()
    command = ["mosquitto_pub", "-p", str(rig.port), "-V", version, "-q", qos, "-t", "plant/d1", "-l", "-i", "c1"]
    process = await asyncio.create_subprocess_exec(*command, stdin=-1, stdout=-1, stderr=-1)
    async with asyncio.timeout(60):
        out, err = await process.communicate(b"".join(b"%d\n" % k for k in range(50)))
    assert (process.returncode, out, err) == (0, b"", b"")
    await rig.until(lambda: len(rig.door.payloads) == 50)
    assert rig.door.messages == [(b"plant/d1", b"%d" % k) for k in range(50)]


@pytest.mark.skipif(shutil.which("mosquitto_pub") is None, reason="mosquitto_pub is not installed")
@pytest.mark.parametrize(("version", "code"), [("mqttv31", 1), ("mqttv311", 0)])
async def test_mosquitto_pub_hears_why(mqtt_server, version: str, code: int) -> None:
    """MQTT 3.1 is refused in words that a client of then understands."""
    rig = await mqtt_server.start()
    command = ["mosquitto_pub", "-p", str(rig.port), "-V", version, "-q", "1", "-t", "t", "-m", "1"]
    process = await asyncio.create_subprocess_exec(*command, stdout=-1, stderr=-1)
    async with asyncio.timeout(60):
        _, err = await process.communicate()
    assert process.returncode == code
    assert (b"protocol version" in err) == bool(code)
