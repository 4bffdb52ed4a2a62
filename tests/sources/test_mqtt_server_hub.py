"""Checks for what connections share."""

from __future__ import annotations

from dataclasses import replace

from gateway.net.mqtt import ALIAS_BYTES
from gateway.net.mqtt_fields import PacketType, Property, read_properties
from gateway.net.mqtt_packets import PINGREQ_BYTES, PINGRESP_BYTES, Will, answer_bytes, connect_bytes, publish_bytes
from gateway.sources.mqtt_server_connection import Connection
from gateway.sources.mqtt_server_hub import LOOK_GROWTH, LOOK_S_MAX, State
from gateway.sources.mqtt_server_intake import MESSAGE_BYTES
from gateway.sources.mqtt_server_line import READ_BYTES, READ_BYTES_FIRST, READ_BYTES_MIN, Pause
from gateway.sources.mqtt_server_session import PAGE_BYTES, Session
from gateway.sources.mqtt_server_talk import TALK_MAX


async def test_a_will_is_said_once(mqtt_server) -> None:
    """Whoever wakes it first."""
    rig = await mqtt_server.start()
    hub = rig.source._hub
    session = Session(("u", b"d"), will=Will(b"state", b"offline", 0))
    hub.wake_will(session)
    hub.wake_will(session)
    await rig.until(lambda: rig.door.messages == [(b"state", b"offline")])
    assert rig.source.status()["received"] == 1


async def test_the_last_connection_to_go_is_noticed(mqtt_server) -> None:
    """Stopping waits for that and nothing else."""
    rig = await mqtt_server.start()
    hub = rig.source._hub
    client = await rig.connect()
    hub.all_gone.clear()
    client.writer.transport.abort()
    await hub.all_gone.wait()
    assert not hub.connections


async def test_a_will_that_fails_disturbs_nobody(mqtt_server, caplog) -> None:
    """It has no connection to end."""
    rig = await mqtt_server.start()
    rig.door.failure = RuntimeError("a mistake")
    hub = rig.source._hub
    hub.publish_will(Will(b"state", b"offline", 0), user="")
    await rig.until(lambda: "a mistake" in caplog.text)
    assert rig.source.status()["in_flight_bytes"] == 0
    assert (hub.wills_offered, hub.will_bytes_offered) == (0, 0)
    rig.door.failure = None
    hub.publish_will(Will(b"state", b"gone", 0), user="")
    await rig.until(lambda: rig.door.arrivals)
    assert [(a.payloads, a.dropped) for a in rig.door.arrivals] == [([b"gone"], {"will_dropped": 1})]


async def leave_wills(rig, count: int) -> None:
    """Connect and vanish, each with a will that may wait for a day."""
    for k in range(count):
        client = await rig.connect(
            b"d%d" % k,
            version=5,
            will=Will(b"state", b"%d" % k, 0, delay_s=86400),
            properties=[(Property.SESSION_EXPIRY, 86400)],
        )
        client.writer.transport.abort()
        await rig.until(lambda: rig.source.status()["clients"] == 0)


async def test_a_session_that_is_evicted_says_its_will(mqtt_server) -> None:
    """Its end is the end of the delay, and nothing of it stays."""
    rig = await mqtt_server.start(sessions_max=2)
    await leave_wills(rig, 4)
    await rig.until(lambda: rig.door.payloads == [b"0", b"1"])
    assert rig.refused == {"sessions_max": 2}
    hub = rig.source._hub
    size = hub.will_bytes
    assert size > 0
    for session in hub.sessions.expire(now_s=hub.now_s() + 86401):
        hub.wake_will(session)
    await rig.until(lambda: rig.door.payloads == [b"0", b"1", b"2", b"3"])
    assert hub.will_bytes == 0


async def test_wills_that_wait_are_bounded(mqtt_server, monkeypatch) -> None:
    """One more is said before its time, and counted."""
    monkeypatch.setattr("gateway.sources.mqtt_server_hub.WILL_BYTES_MAX", 1000)
    rig = await mqtt_server.start()
    await leave_wills(rig, 30)
    hub = rig.source._hub
    assert 0 < hub.will_bytes <= 1000
    early = rig.refused["wills_waiting"]
    assert 0 < early < 30
    await rig.until(lambda: len(rig.door.payloads) == early)
    assert len(hub.sessions.waiting_wills()) == 30 - early


async def test_wills_of_open_connections_are_bounded(mqtt_server) -> None:
    """Whoever keeps most has to go, told why; its will is said, and what it kept is free."""
    rig = await mqtt_server.start()
    hub = rig.source._hub
    hub.limits = replace(hub.limits, kept_bytes_max=20_000)
    for number in range(2):
        await rig.connect(b"d%d" % number, version=5, will=Will(b"state", bytes(8000 + number), 0))
    assert hub.kept.total == 2 * (8000 + len(b"state") + MESSAGE_BYTES) + 1
    small = await rig.connect(b"small", version=5, will=Will(b"state", b"x" * 5000, 0))
    await rig.until(lambda: rig.refused == {"kept": 1})
    await rig.until(lambda: rig.door.payloads == [bytes(8001)])
    assert hub.kept.total == 8000 + 5000 + 2 * (len(b"state") + MESSAGE_BYTES)
    await small.send(PINGREQ_BYTES)
    assert await small.packet() == PINGRESP_BYTES
    small.writer.transport.abort()
    await rig.until(lambda: hub.kept.total == 8000 + len(b"state") + MESSAGE_BYTES)


def aliased(topic: bytes, alias: int) -> bytes:
    return publish_bytes(topic, b"1", version=5, properties=[(Property.TOPIC_ALIAS, alias)])


async def test_topic_aliases_of_all_connections_are_bounded(mqtt_server) -> None:
    """Where others keep much, newcomers are promised none; whoever fills the rest has to go."""
    rig = await mqtt_server.start()
    hub = rig.source._hub
    hub.limits = replace(hub.limits, kept_bytes_max=4 * (1000 + ALIAS_BYTES))
    first = await rig.connect(b"first", version=5)
    await first.send(*(aliased(bytes([65 + k]) * 1000, k) for k in range(1, 4)))
    await rig.until(lambda: hub.kept.total == 3 * (1000 + ALIAS_BYTES))
    late = await rig.open()
    await late.send(connect_bytes(b"late", version=5))
    connack = await late.packet()
    assert connack[3] == 0
    properties, _ = read_properties(connack, 4, len(connack), frozenset(Property))
    assert properties[Property.TOPIC_ALIAS_MAXIMUM] == 0
    await late.send(aliased(b"t", 1))
    assert (await late.packet())[:3] == b"\xe0\x01\x94"
    await first.send(*(aliased(bytes([65 + k]) * 1000, k) for k in range(4, 6)))
    assert (await first.packet())[:3] == b"\xe0\x01\x97"
    assert rig.refused == {"topic_alias_invalid": 1, "kept": 1}
    assert hub.kept.total == 0
    await rig.until(lambda: len(rig.door.payloads) == 5)


async def test_open_qos_2_messages_count_until_they_are_released(mqtt_server) -> None:
    """Their ids take memory from the commit to the PUBREL."""
    rig = await mqtt_server.start()
    hub = rig.source._hub
    client = await rig.connect(b"two", version=5)
    ids = (1, 2000, 40_000)
    for number in ids:
        await client.send(publish_bytes(b"t", b"x", qos=2, packet_id=number, version=5))
        assert (await client.packet())[0] == PacketType.PUBREC << 4
    assert hub.kept.total == 4 * PAGE_BYTES
    for number in ids:
        await client.send(answer_bytes(PacketType.PUBREL, number.to_bytes(2, "big")))
        assert (await client.packet())[0] == PacketType.PUBCOMP << 4
    assert hub.kept.total == 0
    hub.limits = replace(hub.limits, kept_bytes_max=PAGE_BYTES)
    await client.send(publish_bytes(b"t", b"x", qos=2, packet_id=1, version=5))
    assert await client.packet() == bytes.fromhex("50020001"), "it is kept, so it is answered first"
    assert (await client.packet())[:3] == b"\xe0\x01\x97"


async def test_a_session_that_is_resumed_brings_what_it_keeps(mqtt_server) -> None:
    """The ids that it left count for the new connection."""
    rig = await mqtt_server.start()
    hub = rig.source._hub
    for _ in range(2):
        client = await rig.connect(b"two", clean_start=False)
        await rig.until(lambda: len(hub.connections) == 1)
        await client.send(publish_bytes(b"t", b"x", qos=2, packet_id=1))
        assert (await client.packet())[0] == PacketType.PUBREC << 4
        assert hub.kept.total == 2 * PAGE_BYTES
        client.writer.transport.abort()
        await rig.until(lambda: not hub.connections)
        assert hub.kept.total == 0
    assert rig.door.payloads == [b"x"]


def publish(number: int, *, size: int = 1) -> bytes:
    return publish_bytes(b"t", b"x" * size, qos=1, packet_id=number, version=4)


async def test_who_sends_little_rests_and_is_read_again(mqtt_server) -> None:
    """While it waits for a commit anyway; what came meanwhile comes in one look."""
    rig = await mqtt_server.start(coalesce=3600)
    hub = rig.source._hub
    hub.intake.wait_s = 4 * 3600.0
    client = await rig.connect()
    (connection,) = hub.connections
    rig.door.opened.clear()
    await client.send(publish(1))
    await rig.until(lambda: connection._pause == Pause.REST)
    for number in (2, 3, 4):
        await client.send(publish(number))
    rig.door.opened.set()
    assert [(await client.packet())[3] for _ in range(4)] == [1, 2, 3, 4]
    assert [len(arrivals) for arrivals in rig.door.arrivals] == [1, 3]


async def test_a_rest_ends_by_itself(mqtt_server) -> None:
    """However long the commit takes."""
    rig = await mqtt_server.start(coalesce=0.02)
    rig.source._hub.intake.wait_s = 1.0
    client = await rig.connect()
    rig.door.opened.clear()
    for number in (1, 2, 3):
        await client.send(publish(number))
        await rig.until(lambda number=number: rig.source.status()["received"] == number)
    rig.door.opened.set()


async def test_an_answer_ends_the_rest(mqtt_server) -> None:
    """A client that waits for it before it sends the next message is not held up."""
    rig = await mqtt_server.start(coalesce=3600)
    hub = rig.source._hub
    client = await rig.connect()
    for number in range(1, 4):
        hub.intake.wait_s = 4 * 3600.0
        await client.send(publish(number))
        assert (await client.packet())[3] == number


async def test_who_sends_much_and_who_is_answered_soon_does_not_rest(mqtt_server) -> None:
    """Nor does anybody where that is switched off."""
    for wait_s, size, coalesce in ((1.0, 8000, 1), (0.001, 1, 1), (1.0, 1, 0)):
        rig = await mqtt_server.start(coalesce=coalesce)
        hub = rig.source._hub
        hub.intake.wait_s = wait_s
        client = await rig.connect()
        (connection,) = hub.connections
        connection._look_bytes = READ_BYTES
        rig.door.opened.clear()
        await client.send(publish(1, size=size))
        await rig.until(lambda rig=rig: rig.source.status()["received"] == 1)
        assert not connection._pause & Pause.REST
        rig.door.opened.set()


async def test_a_connection_that_ends_while_it_rests(mqtt_server) -> None:
    """Waking it does no harm, and it is acknowledged before it goes."""
    rig = await mqtt_server.start(coalesce=0.02)
    hub = rig.source._hub
    hub.intake.wait_s = 1.0
    client = await rig.connect()
    (connection,) = hub.connections
    rig.door.opened.clear()
    await client.send(publish(1))
    await rig.until(lambda: connection._pause == Pause.REST)
    connection.drop("test", "gone while it rests")
    await rig.until(lambda: not hub.resting)
    rig.door.opened.set()
    await rig.until(lambda: not hub.connections)


async def test_wills_on_their_way_to_the_disk_are_bounded_in_number(mqtt_server) -> None:
    """Who connects again and again while the gateway is full leaves a will each time; past the bound they are losses."""
    rig = await mqtt_server.start(connections_max=200)
    hub = rig.source._hub
    assert hub.limits.wills_max == 200
    hub.limits = replace(hub.limits, wills_max=8)
    rig.door.full_times = 1_000_000
    hub.publish_will(Will(b"state", b"0", 0), user="")
    await rig.until(lambda: rig.source.status()["state"] == "full")
    for k in range(1, 21):
        await rig.connect(b"restless", will=Will(b"state", b"%d" % k, 0))
    # The last one is still there.
    assert hub.wills_offered == 8
    assert rig.refused["will_dropped"] == 1 + 19 - 8
    assert rig.source.status()["in_flight_bytes"] == hub.will_bytes_offered
    rig.door.full_times = 0
    await rig.until(lambda: hub.wills_offered == 0 and sum(a.dropped.get("will_dropped", 0) for a in rig.door.arrivals))
    assert sorted(rig.door.payloads) == sorted(b"%d" % k for k in range(8))
    assert sum(a.dropped.get("will_dropped", 0) for a in rig.door.arrivals) == 12
    assert (hub.will_bytes_offered, rig.source.status()["in_flight_bytes"]) == (0, 0)


async def test_wills_on_their_way_to_the_disk_are_bounded_in_bytes(mqtt_server, monkeypatch) -> None:
    """However few they are; and there is room again when they are kept."""
    monkeypatch.setattr("gateway.sources.mqtt_server_hub.WILL_BYTES_MAX", 10_000)
    rig = await mqtt_server.start()
    hub = rig.source._hub
    rig.door.opened.clear()
    for _ in range(6):
        hub.publish_will(Will(b"state", bytes(3000), 0), user="")
    assert hub.wills_offered == 3
    assert rig.refused == {"will_dropped": 3}
    rig.door.opened.set()
    await rig.until(lambda: hub.wills_offered == 0)
    hub.publish_will(Will(b"state", bytes(3000), 0), user="")
    await rig.until(lambda: len(rig.door.payloads) == 4)
    assert rig.refused == {"will_dropped": 3}


async def test_a_look_that_took_long_makes_the_next_one_shorter(mqtt_server) -> None:
    """So that what one sends costs the others no more than a moment; it grows again as it can."""
    rig = await mqtt_server.start()
    client = await rig.connect()
    hub = rig.source._hub
    (connection,) = hub.connections
    for took_s, portion, following in (
        (0.0, READ_BYTES, READ_BYTES),
        (10 * LOOK_S_MAX, READ_BYTES, READ_BYTES // 10),
        (1e6, READ_BYTES, READ_BYTES_MIN),
        (0.0, READ_BYTES_MIN, LOOK_GROWTH * READ_BYTES_MIN),
    ):
        connection.heard_s = hub.now_s() - took_s
        found = hub.looked(connection, portion, portion=portion, talk=0)
        assert 0.9 * following < found <= following
    connection._look_bytes = 5
    assert len(connection.get_buffer(-1)) == 5
    await client.send(PINGREQ_BYTES)
    assert await client.packet() == PINGRESP_BYTES
    assert connection._look_bytes == 5, "there was not even so much to read"
    await client.send(PINGREQ_BYTES * 3)
    assert [await client.packet() for _ in range(3)] == [PINGRESP_BYTES] * 3
    assert connection._look_bytes > 5


async def test_who_fills_what_is_read_of_him_is_soon_read_in_large_portions(mqtt_server, monkeypatch) -> None:
    """Beginning with a small one, since it might be filled with something else than messages."""
    monkeypatch.setattr("gateway.sources.mqtt_server_hub.LOOK_S_MAX", 60.0)
    rig = await mqtt_server.start()
    client = await rig.connect()
    (connection,) = rig.source._hub.connections
    assert len(connection.get_buffer(-1)) == READ_BYTES_FIRST < READ_BYTES // 16
    for number in range(1, 11):
        await client.send(publish(number, size=READ_BYTES))
        assert (await client.packet())[3] == number
    assert len(connection.get_buffer(-1)) == READ_BYTES


async def test_who_talks_is_read_in_small_portions_and_stands_in_line(mqtt_server, monkeypatch) -> None:
    """Only while the connection is open: of one that ends it must be seen when the client hangs up."""
    monkeypatch.setattr("gateway.sources.mqtt_server_talk.TALK_GAP_S", 3600.0)
    monkeypatch.setattr("gateway.sources.mqtt_server_hub.LOOK_S_MAX", 60.0)
    rig = await mqtt_server.start()
    await rig.connect()
    hub = rig.source._hub
    (connection,) = hub.connections
    connection.heard_s = hub.now_s()
    for state, talk, waiting in (
        (State.OPEN, TALK_MAX, 0),
        (State.CLOSING, TALK_MAX + 1, 0),
        (State.OPEN, TALK_MAX + 1, 1),
    ):
        connection.state = state
        found = hub.looked(connection, READ_BYTES, portion=READ_BYTES, talk=talk)
        assert found == (READ_BYTES_FIRST if waiting else READ_BYTES)
        assert len(hub.talkers) == waiting
    connection.abort()
    await rig.until(lambda: not hub.connections)
    assert len(hub.talkers) == 0


async def test_whoever_was_read_is_last_in_line_after_a_pause(mqtt_server) -> None:
    """The room there is then is not always the same ones'."""
    rig = await mqtt_server.start()
    clients = [await rig.connect(b"d%d" % k) for k in range(3)]
    hub = rig.source._hub
    first, *others = hub.connections
    await clients[0].send(PINGREQ_BYTES)
    assert await clients[0].packet() == PINGRESP_BYTES
    assert [*hub.connections] == [*others, first]


async def test_who_makes_room_does_so_once(mqtt_server) -> None:
    """It is gone only a turn of the loop later, and several may want its place before."""
    rig = await mqtt_server.start()
    await rig.open()
    hub = rig.source._hub
    await rig.until(lambda: hub.connecting)
    (connection,) = hub.connecting
    connection.abort()
    assert not hub.connecting
    assert hub.connections
    await rig.until(lambda: not hub.connections)


class Tap:
    """The part of a transport that reads or does not; notes in `order` who is read again."""

    def __init__(self, name: str, order: list[str]) -> None:
        self.name = name
        self.order = order

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        self.order.append(self.name)


async def test_after_a_pause_owners_take_turns(mqtt_server_rig) -> None:
    """Who has many connections is read no oftener than who has one; whoever was read least recently comes first."""
    rig = mqtt_server_rig().build()
    hub = rig.source._hub
    order: list[str] = []
    of_name = {}
    for name in ("a1", "a2", "a3", "b1", "c1", "a4", "c2"):
        connection = Connection(hub, address={"a": "192.0.2.1", "b": "192.0.2.2", "c": "192.0.2.3"}[name[0]])
        connection._transport = Tap(name, order)
        hub.connections[connection] = None
        of_name[name] = connection

    def pause_and_go_on() -> list[str]:
        order.clear()
        rig.source._press(True)
        rig.source._press(False)
        return list(order)

    assert pause_and_go_on() == ["b1", "a1", "c1", "a2", "c2", "a3", "a4"]
    hub.looked(of_name["b1"], 1, portion=1, talk=0)
    assert pause_and_go_on() == ["a1", "c1", "b1", "a2", "c2", "a3", "a4"]
    hub.looked(of_name["a1"], 1, portion=1, talk=0)
    hub.looked(of_name["c1"], 1, portion=1, talk=0)
    assert pause_and_go_on() == ["b1", "a2", "c2", "a3", "c1", "a4", "a1"]
