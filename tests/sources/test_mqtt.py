"""The subscriber against a real broker: nothing acknowledged is lost, nothing is acknowledged too early."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import random
import socket
from typing import TYPE_CHECKING, Any

import pytest
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from gateway.core.clock import FakeClock
from gateway.core.contracts import Accepted, Arrivals, FullError
from gateway.core.telemetry import Telemetry
from gateway.core.units import Duration, Size
from gateway.net.mqtt_packets import publish_bytes, read_connect
from gateway.net.secrets import Secret
from gateway.sources import mqtt
from gateway.sources.mqtt import MqttSettings, MqttSource, MqttTlsSettings, TopicSettings
from hil.link_proxy import Mode
from hil.paho_device import talking, wait_for_all
from hil.virtual_time import run
from hil.window_broker import WindowBroker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    from hil.broker import Broker

QUICK = {"reconnect_min": Duration(0.05), "reconnect_max": Duration(0.2), "connect_timeout": Duration(30)}


class Shelf:
    """Stands for the pipeline: keeps what it is given once `gate` is open, or has no room."""

    def __init__(self) -> None:
        self.kept: list[tuple[bytes, bytes]] = []
        self.lost: list[tuple[bytes, str]] = []
        self.dropped: list[dict[str, int]] = []
        self.offered = 0
        self.full_times = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.error: Exception | None = None
        self._came = asyncio.Event()

    async def __call__(self, arrivals: Arrivals, /) -> Accepted:
        self.offered += len(arrivals.payloads)
        if self.error is not None:
            raise self.error
        if self.full_times:
            self.full_times -= 1
            raise FullError("no room", after_s=0.05)
        await self.gate.wait()
        self.kept += zip(arrivals.topics, arrivals.payloads, strict=True)
        self.lost += [(arrivals.topics[one.at], one.reason) for one in arrivals.lost]
        self.dropped += [dict(arrivals.dropped)] if arrivals.dropped else []
        self._came.set()
        return Accepted(len(arrivals.payloads))

    @property
    def payloads(self) -> list[bytes]:
        return [payload for _, payload in self.kept]

    async def has(self, payloads: list[bytes]) -> None:
        """Return when all of `payloads` are kept, however long that takes."""
        while not set(payloads) <= set(self.payloads):
            self._came.clear()
            await self._came.wait()


class Publisher:
    """A plain paho client in its own thread."""

    def __init__(self, port: int, **options: Any) -> None:
        self.client = Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5)
        if "user" in options:
            self.client.username_pw_set(options["user"], options["password"])
        self.client.max_inflight_messages_set(1000)
        self.client.connect("127.0.0.1", port)
        self.client.loop_start()

    def publish(self, topic: str, *payloads: bytes, qos: int = 1, retain: bool = False) -> None:
        """Return when the broker has taken all of them."""
        wait_for_all([self.client.publish(topic, payload, qos, retain) for payload in payloads])

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


@pytest.fixture
def publish_to() -> Iterator[Callable[..., Publisher]]:
    """Make publishers that are closed at the end."""
    with contextlib.ExitStack() as stack:

        def make(port: int, **options: Any) -> Publisher:
            publisher = Publisher(port, **options)
            stack.callback(publisher.close)
            return publisher

        yield make


def source_for(port: int, shelf: Shelf, *, url: str = "", state_dir: Path | None = None, **options: Any) -> MqttSource:
    settings = MqttSettings(
        **{
            "name": "plant",
            "url": url or f"mqtt://127.0.0.1:{port}",
            "topics": ("plant/#",),
            **QUICK,
            **options,
        }
    )
    return MqttSource(
        settings,
        gateway_id="g1",
        accept=shelf,
        clock=FakeClock(),
        telemetry=Telemetry(),
        state_dir=state_dir,
        dice=random.Random(1),
    )


async def until(condition: Callable[[], object], what: str = "", *, within_s: float = 60) -> None:
    """Poll until `condition()`; the message has `what`."""
    for _ in range(int(within_s / 0.005)):
        if condition():
            return
        await asyncio.sleep(0.005)
    raise AssertionError(f"not within {within_s} s: {what or condition}")


@contextlib.contextmanager
def saying(text: str) -> Iterator[asyncio.Event]:
    """Give an event that is set when the source says `text` in its log, which it does in the event loop."""

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if text in record.getMessage():
                said.set()

    said, listener, source_log = asyncio.Event(), Listener(), logging.getLogger("tidegate.mqtt")
    level = source_log.level
    source_log.setLevel(logging.INFO)
    source_log.addHandler(listener)
    try:
        yield said
    finally:
        source_log.removeHandler(listener)
        source_log.setLevel(level)


@contextlib.asynccontextmanager
async def running(source: MqttSource, *, state: str = "connected") -> AsyncIterator[asyncio.Task[None]]:
    """Run `source` until the block ends, entered when it is in `state`."""
    task = asyncio.create_task(source.run())
    try:
        await until(lambda: source.status()["state"] == state or task.done(), f"{state}: {source.status()}")
        yield task
    finally:
        task.cancel()
        await asyncio.wait({task})
    assert source.status()["state"] == "stopped"


def numbered(count: int, start: int = 0) -> list[bytes]:
    return [b"%06d" % number for number in range(start, start + count)]


async def in_thread(act: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    return await asyncio.to_thread(act, *arguments, **options)


def waiting(broker: Broker, publisher_port: int | None = None) -> int:
    """Return how many messages the broker holds for clients, by its own count."""
    found: list[int] = []
    client = Client(CallbackAPIVersion.VERSION2)
    client.on_message = lambda _c, _d, message: found.append(int(message.payload))
    client.on_connect = lambda *_: client.subscribe("$SYS/broker/store/messages/count")
    client.connect("127.0.0.1", broker.port)
    while not found:
        client.loop(0.1)
    client.disconnect()
    client.loop(0.1)
    return found[-1]


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
@pytest.mark.parametrize("qos", [0, 1, 2])
async def test_every_message_arrives_once_in_order(broker, publish_to, qos: int, protocol: str) -> None:
    """Each QoS, each version: topics and payloads as they were sent."""
    shelf = Shelf()
    source = source_for(broker.port, shelf, qos=qos, protocol=protocol)
    async with running(source):
        publisher = publish_to(broker.port)
        await in_thread(publisher.publish, "plant/d1", *numbered(500), qos=qos)
        await until(lambda: len(shelf.kept) >= 500, f"{len(shelf.kept)} of 500")
    assert shelf.kept == [(b"plant/d1", payload) for payload in numbered(500)]
    status = source.status()
    assert (status["received"], status["acknowledged"], status["protocol"]) == (500, 500, protocol)


async def test_mixed_qos_in_one_stream(broker, publish_to) -> None:
    """0, 1 and 2 side by side, retained ones too."""
    shelf = Shelf()
    publisher = publish_to(broker.port)
    await in_thread(publisher.publish, "plant/kept", b"retained", retain=True)
    source = source_for(broker.port, shelf, qos=2)
    async with running(source):
        for qos in (0, 1, 2, 1, 0, 2):
            await in_thread(publisher.publish, "plant/d", b"%d" % qos, qos=qos)
        await until(lambda: len(shelf.kept) >= 7)
    assert sorted(shelf.payloads) == sorted([b"retained", b"0", b"1", b"2", b"1", b"0", b"2"])


async def test_topics_have_a_qos_of_their_own(broker, publish_to) -> None:
    """A table says it; the broker's answer stands in the status."""
    shelf = Shelf()
    topics = (TopicSettings(topic="a/+", qos=0), TopicSettings(topic="b/#", qos=2), "c")
    source = source_for(broker.port, shelf, topics=topics)
    async with running(source):
        assert source.status()["topics"] == {"a/+": "QoS 0", "b/#": "QoS 2", "c": "QoS 1"}
        publisher = publish_to(broker.port)
        for topic in ("a/1", "b/x/y", "c", "d"):
            await in_thread(publisher.publish, topic, topic.encode())
        await until(lambda: len(shelf.kept) >= 3)
    assert sorted(shelf.payloads) == [b"a/1", b"b/x/y", b"c"]


@pytest.mark.parametrize("qos", [1, 2])
async def test_nothing_is_acknowledged_before_it_is_kept(broker, publish_to, qos: int) -> None:
    """A gateway that dies before its commit gets the messages again in its next life."""
    first, second = Shelf(), Shelf()
    first.gate.clear()
    source = source_for(broker.port, first, qos=qos)
    task = asyncio.create_task(source.run())
    await until(lambda: source.status()["state"] == "connected")
    publisher = publish_to(broker.port)
    await in_thread(publisher.publish, "plant/d", *numbered(50), qos=qos)
    await until(lambda: first.offered == 50)
    assert source.status()["acknowledged"] == 0
    # As a kill would do it: no drain, no goodbye.
    assert source._link is not None
    source._link.drop("killed")
    task.cancel()
    first.gate.set()
    await asyncio.wait({task})
    async with running(source_for(broker.port, second, qos=qos)):
        await until(lambda: len(second.kept) >= 50)
    assert second.payloads == numbered(50)


async def test_what_was_acknowledged_does_not_come_again(broker, publish_to) -> None:
    """A second life with the same session starts behind it, and finds what came meanwhile."""
    first, second = Shelf(), Shelf()
    publisher = publish_to(broker.port)
    async with running(source_for(broker.port, first)):
        await in_thread(publisher.publish, "plant/d", *numbered(50))
        await until(lambda: len(first.kept) == 50)
    await in_thread(publisher.publish, "plant/d", *numbered(50, 50))
    source = source_for(broker.port, second)
    async with running(source):
        await until(lambda: len(second.kept) == 50)
        assert source.status()["session_present"] is True
    assert second.payloads == numbered(50, 50)


async def test_a_clean_session_starts_from_nothing(broker, publish_to) -> None:
    """With `clean` the broker keeps nothing for us."""
    shelf = Shelf()
    publisher = publish_to(broker.port)
    async with running(source_for(broker.port, shelf, clean=True)):
        pass
    await in_thread(publisher.publish, "plant/d", b"missed")
    source = source_for(broker.port, shelf, clean=True)
    async with running(source):
        await in_thread(publisher.publish, "plant/d", b"seen")
        await until(lambda: shelf.kept)
    assert shelf.payloads == [b"seen"]


@pytest.mark.parametrize(("is_clean", "expiry_s"), [(False, 4321), (True, 0)])
async def test_the_broker_is_told_how_long_to_keep_the_session(fake_broker, is_clean: bool, expiry_s: int) -> None:
    """In the CONNECT (MQTT 5.0 section 3.1.2.11.2); not at all where it is not to be kept."""
    port, heard = await fake_broker([CONNACK_5, SUBACK_5])
    source = source_for(port, Shelf(), clean=is_clean, session_expiry=Duration(4321))
    async with running(source):
        told = read_connect(heard[0][2:])
    assert (told.session_expiry_s, told.clean_start) == (expiry_s, is_clean)


@pytest.mark.parametrize(("client_id", "told"), [("site-7-inlet", "site-7-inlet"), ("", "tidegate-g1-plant")])
async def test_the_session_has_the_name_that_is_configured(fake_broker, client_id: str, told: str) -> None:
    """Brokers let in, and keep messages, by this name; without one it is made from the gateway's and the source's."""
    port, heard = await fake_broker([CONNACK_5, SUBACK_5])
    source = source_for(port, Shelf(), client_id=client_id)
    async with running(source):
        assert read_connect(heard[0][2:]).client_id == told.encode()
        assert source.status()["client_id"] == told


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
async def test_a_topic_that_is_no_longer_configured_does_not_come_any_more(
    broker, publish_to, tmp_path, caplog, protocol: str
) -> None:
    """The old session is told, once; what the broker had queued of it before still comes."""
    first, second, third = Shelf(), Shelf(), Shelf()
    publisher = publish_to(broker.port)
    told = {"protocol": protocol, "state_dir": tmp_path}
    async with running(source_for(broker.port, first, topics=("plant/#", "old/#", "older"), **told)):
        pass
    await in_thread(publisher.publish, "old/d", b"queued")
    with caplog.at_level(logging.INFO):
        async with running(source_for(broker.port, second, topics=("plant/#", "new"), **told)):
            await until(lambda: "unsubscribed: old/#, older" in caplog.text)
            await in_thread(publisher.publish, "old/d", b"unwanted")
            await in_thread(publisher.publish, "new", b"wanted")
            await until(lambda: b"wanted" in second.payloads)
    assert second.payloads == [b"queued", b"wanted"]
    caplog.clear()
    await in_thread(publisher.publish, "old/d", b"unwanted")
    await in_thread(publisher.publish, "plant/d", b"wanted")
    async with running(source_for(broker.port, third, topics=("plant/#", "new"), **told)):
        await until(lambda: third.payloads)
    assert third.payloads == [b"wanted"]
    assert "unsubscribed" not in caplog.text


@pytest.mark.parametrize(("qos", "again"), [(1, []), (2, []), (0, [b"retained"])])
async def test_what_is_retained_comes_once_and_not_at_each_reconnect(broker, publish_to, qos: int, again) -> None:
    """A session that has it is not told again; of QoS 0 the broker keeps nothing else, so it is."""
    shelf = Shelf()
    publisher = publish_to(broker.port)
    await in_thread(publisher.publish, "plant/d", b"retained", retain=True)
    for turn in (b"1", b"2"):
        async with running(source_for(broker.port, shelf, qos=qos)):
            await in_thread(publisher.publish, "plant/e", turn)
            await until(lambda turn=turn: turn in shelf.payloads)
    assert shelf.payloads == [b"retained", b"1", *again, b"2"]


async def test_a_topic_that_was_never_remembered_goes_on_coming(broker, publish_to, tmp_path) -> None:
    """Why there is a file: MQTT has no other way to know what a session is subscribed to."""
    shelf = Shelf()
    publisher = publish_to(broker.port)
    async with running(source_for(broker.port, Shelf(), topics=("plant/#", "old/#"))):
        pass
    async with running(source_for(broker.port, shelf, topics=("plant/#",), state_dir=tmp_path)):
        await in_thread(publisher.publish, "old/d", b"unwanted")
        await until(lambda: shelf.payloads == [b"unwanted"])


async def test_a_narrower_filter_loses_nothing_in_the_change(broker, publish_to, tmp_path) -> None:
    """The new one is asked for before the old one is let go, while messages flow."""
    shelf = Shelf()
    publisher = publish_to(broker.port)
    async with running(source_for(broker.port, shelf, topics=("#",), state_dir=tmp_path)):
        pass
    sending = asyncio.create_task(in_thread(publisher.publish, "plant/d", *numbered(3000)))
    async with running(source_for(broker.port, shelf, topics=("plant/#",), state_dir=tmp_path)):
        await sending
        await until(lambda: len(set(shelf.payloads)) == 3000)


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
async def test_a_qos_that_was_changed_is_the_new_one(broker, publish_to, tmp_path, protocol: str) -> None:
    """In the session that was there before: a lower one is granted, a higher one brings what comes meanwhile."""
    shelf = Shelf()
    publisher = publish_to(broker.port)
    for qos in (1, 0, 2):
        source = source_for(broker.port, shelf, qos=qos, protocol=protocol, state_dir=tmp_path)
        async with running(source):
            assert source.status()["session_present"] is (qos != 1)
            assert source.status()["topics"] == {"plant/#": f"QoS {qos}"}
        await in_thread(publisher.publish, "plant/d", b"while away, %d" % qos, qos=2)
    async with running(source_for(broker.port, shelf, qos=2, protocol=protocol, state_dir=tmp_path)):
        await until(lambda: b"while away, 2" in shelf.payloads)
    # mosquitto keeps nothing of QoS 0 for a client that is away.
    assert shelf.payloads == [b"while away, 1", b"while away, 2"]


async def test_a_broker_that_lets_nothing_go_is_named(fake_broker, tmp_path, caplog) -> None:
    """UNSUBACK with a refusal: said, remembered, tried again at the next connect."""
    unsuback = b"\xb0\x04\x00\x02\x00\x87"
    present = b"\x20\x03\x01\x00\x00"
    port, heard = await fake_broker([present, SUBACK_5, unsuback])
    async with running(source_for(port, Shelf(), topics=("old",), state_dir=tmp_path)):
        pass
    for _ in range(2):
        async with running(source_for(port, Shelf(), topics=("new",), state_dir=tmp_path)):
            await until(lambda: "goes on sending old" in caplog.text)
        caplog.clear()
    assert sum(b"\x00\x03old" in data for data in heard) == 3


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
async def test_the_session_outlives_the_broker(broker, publish_to, protocol: str) -> None:
    """The broker restarts with its sessions; we come back by ourselves and go on."""
    shelf = Shelf()
    source = source_for(broker.port, shelf, protocol=protocol)
    async with running(source):
        publisher = publish_to(broker.port)
        await in_thread(publisher.publish, "plant/d", *numbered(10))
        await shelf.has(numbered(10))
        # Who knocks while the broker is away may be given its port by the kernel.
        publisher.close()
        with saying("connected to") as is_back:
            await in_thread(broker.restart)
            await is_back.wait()
        assert source.status()["session_present"] is True
        await in_thread(publish_to(broker.port).publish, "plant/d", *numbered(10, 10))
        await shelf.has(numbered(20))
        assert source.status()["protocol"] == protocol
    # What the broker had not read of our answers when it ended comes again.
    assert list(dict.fromkeys(shelf.payloads)) == numbered(20)


@pytest.mark.parametrize("qos", [1, 2])
async def test_a_link_cut_in_mid_stream_loses_nothing(broker, make_link, publish_to, qos: int) -> None:
    """Cut again and again while messages flow and commits are slow: all arrive; QoS 2 ones exactly once."""
    link = make_link(broker.address)
    shelf = Shelf()
    source = source_for(link.port, shelf, qos=qos, receive_maximum=50)
    everything = numbered(2000)
    async with running(source):
        publisher = publish_to(broker.port)
        sending = asyncio.create_task(in_thread(publisher.publish, "plant/d", *everything, qos=qos))
        for cut in range(6):
            # A cut that is noticed late would be one with the next.
            await until(lambda cut=cut: source.status()["connects"] > cut and len(shelf.kept) > cut * 150)
            shelf.gate.clear()
            await asyncio.sleep(0.01)
            link.cut()
            shelf.gate.set()
        await sending
        await until(lambda: set(shelf.payloads) == set(everything), f"{len(set(shelf.payloads))} of 2000")
        await until(lambda: source.status()["bytes_pending"] == 0)
    assert source.status()["connects"] >= 6
    if qos == 2:
        assert sorted(shelf.payloads) == everything


async def test_a_killed_broker_loses_nothing_that_we_acknowledged(broker, publish_to) -> None:
    """SIGKILL in mid-stream: what the shelf has stays, the source finds the broker again."""
    shelf = Shelf()
    source = source_for(broker.port, shelf)
    async with running(source):
        publisher = publish_to(broker.port)
        await in_thread(publisher.publish, "plant/d", *numbered(300))
        await until(lambda: len(shelf.kept) >= 100)
        await in_thread(broker.kill)
        await until(lambda: source.status()["state"] == "disconnected")
        before = len(shelf.kept)
        await in_thread(broker.start)
        await until(lambda: source.status()["state"] == "connected")
        await in_thread(publish_to(broker.port).publish, "plant/d", b"after")
        await until(lambda: b"after" in shelf.payloads)
    assert before >= 100
    assert set(shelf.payloads) <= {*numbered(300), b"after"}


async def test_answers_never_go_to_another_connection(broker, make_link, publish_to) -> None:
    """Kept after the connection has gone: not acknowledged on the next one, so the broker delivers again."""
    link = make_link(broker.address)
    shelf = Shelf()
    source = source_for(link.port, shelf)
    async with running(source):
        shelf.gate.clear()
        await in_thread(publish_to(broker.port).publish, "plant/d", b"one")
        await until(lambda: shelf.offered == 1)
        link.cut()
        await until(lambda: shelf.offered == 2, "delivered again")
        assert source.status()["acknowledged"] == 0
        shelf.gate.set()
        await until(lambda: source.status()["acknowledged"] == 1)
    assert shelf.payloads == [b"one", b"one"]


async def test_a_full_shelf_holds_and_nothing_is_lost(broker, publish_to) -> None:
    """FullError: held unacknowledged, reading stops, offered again, acknowledged at last."""
    shelf = Shelf()
    shelf.full_times = 3
    source = source_for(broker.port, shelf)
    async with running(source):
        await in_thread(publish_to(broker.port).publish, "plant/d", *numbered(20))
        await until(lambda: source.status()["held_back"])
        await until(lambda: len(shelf.kept) == 20)
        await until(lambda: source.status()["acknowledged"] == 20)
        assert not source.status()["held_back"]
    assert sorted(shelf.payloads) == numbered(20)


@pytest.mark.parametrize(("clean", "lost"), [(False, 3), (True, 8)])
async def test_what_no_broker_delivers_again_stands_in_the_ledger_at_the_stop(
    broker, publish_to, monkeypatch, caplog, clean: bool, lost: int
) -> None:
    """QoS 0 comes once, and a session that is forgotten brings nothing again."""
    monkeypatch.setattr("gateway.sources.mqtt.STOP_S", 0.1)

    class ShelfForLosses(Shelf):
        """Has room for what is said to be lost, and then for all."""

        async def __call__(self, arrivals: Arrivals, /) -> Accepted:
            if arrivals.dropped:
                self.gate.set()
            return await super().__call__(arrivals)

    shelf = ShelfForLosses()
    shelf.gate.clear()
    source = source_for(broker.port, shelf, clean=clean)
    async with running(source) as task:
        publisher = publish_to(broker.port)
        await in_thread(publisher.publish, "plant/d", *numbered(5))
        await in_thread(publisher.publish, "plant/d", *numbered(3), qos=0)
        await until(lambda: shelf.offered == 8)
        task.cancel()
        await asyncio.wait({task})
    assert (shelf.kept, shelf.dropped) == ([], [{"no_room": lost}])
    assert f"{lost} messages found no room before the stop" in caplog.text


async def test_a_slow_shelf_holds_the_broker_back_at_the_receive_maximum(broker, publish_to) -> None:
    """No more than that many messages are ever under way without an acknowledgement."""
    shelf = Shelf()
    shelf.gate.clear()
    source = source_for(broker.port, shelf, receive_maximum=37)
    async with running(source):
        await in_thread(publish_to(broker.port).publish, "plant/d", *numbered(500))
        await until(lambda: shelf.offered == 37)
        await asyncio.sleep(0.1)
        assert shelf.offered == 37
        shelf.gate.set()
        await until(lambda: len(shelf.kept) == 500)
    assert shelf.payloads == numbered(500)


async def test_the_receive_maximum_outdoes_the_brokers_own_default(make_broker, publish_to) -> None:
    """mosquitto keeps 20 under way by default: at four commits a second, 80 messages a second."""
    broker = make_broker(max_inflight=20)
    shelf = Shelf()
    shelf.gate.clear()
    async with running(source_for(broker.port, shelf)):
        await in_thread(publish_to(broker.port).publish, "plant/d", *numbered(500))
        await until(lambda: shelf.offered == 500, f"{shelf.offered} of 500")
        shelf.gate.set()


async def test_what_takes_long_to_take_in_is_read_in_smaller_portions(broker, publish_to) -> None:
    """Or the other sources would wait for it, and their devices for answers."""

    class LaboriousShelf(Shelf):
        took_s = 1.0

        async def __call__(self, arrivals: Arrivals, /) -> Accepted:
            assert arrivals.on_prepared is not None
            arrivals.on_prepared(self.took_s)
            return await super().__call__(arrivals)

    shelf = LaboriousShelf()
    source = source_for(broker.port, shelf)
    async with running(source):
        link = source._link
        assert link is not None
        assert not link.portion.is_small
        publisher = publish_to(broker.port)
        await in_thread(publisher.publish, "plant/d", *numbered(200))
        await until(lambda: len(shelf.kept) == 200)
        assert link.portion.is_small
        shelf.took_s = 0.0
        await in_thread(publisher.publish, "plant/d", *[b"%0100000d" % number for number in range(20)])
        await until(lambda: len(shelf.kept) == 220 and not link.portion.is_small)


class SlowShelf(Shelf):
    """Commits as the store does: `interval_s` after the first arrival, or `gap_s` after the last commit if asked to."""

    def __init__(self, *, interval_s: float, gap_s: float) -> None:
        super().__init__()
        self.interval_s, self.gap_s = interval_s, gap_s
        self.commits = 0
        self.began_s = float("-inf")
        self.due: asyncio.TimerHandle | None = None
        self.waiters: list[asyncio.Future[None]] = []

    async def __call__(self, arrivals: Arrivals, /) -> Accepted:
        loop = asyncio.get_running_loop()
        due_s = max(loop.time(), self.began_s + self.gap_s) if arrivals.is_last else loop.time() + self.interval_s
        if self.due is None or due_s < self.due.when():
            if self.due is not None:
                self.due.cancel()
            self.due = loop.call_at(due_s, self._commit)
        waiter = loop.create_future()
        self.waiters.append(waiter)
        await waiter
        return await super().__call__(arrivals)

    def _commit(self) -> None:
        self.commits, self.began_s, self.due = self.commits + 1, asyncio.get_running_loop().time(), None
        waiters, self.waiters = self.waiters, []
        for waiter in waiters:
            waiter.set_result(None)


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
async def test_a_brokers_small_window_does_not_wait_for_the_commit_interval(caplog, protocol: str) -> None:
    """What has come is committed early once the window is known, and status and log say what would help."""
    shelf = SlowShelf(interval_s=0.5, gap_s=0.01)
    backlog = numbered(1000)
    async with WindowBroker(backlog, window=20) as broker:
        source = source_for(broker.port, shelf, protocol=protocol)
        async with running(source):
            await until(lambda: len(shelf.kept) == 1000, f"{len(shelf.kept)} kept")
            status = source.status()
        assert shelf.payloads == backlog
        assert broker.most_under_way == 20
    # Fifty windows full, a few of them slow: 25 s otherwise.
    assert shelf.commits >= 50
    assert (status["window"], status["unacknowledged"]) == (20, 0)
    assert "only 20 messages wait for a commit" in str(status["advice"])
    assert ('protocol = "5"' in str(status["advice"])) == (protocol == "3.1.1")
    assert caplog.text.count("max_inflight_messages") == 1


async def test_our_own_receive_maximum_is_named_where_it_is_what_limits(caplog) -> None:
    """Then it is not the broker's setting that has to be raised."""
    shelf = SlowShelf(interval_s=0.05, gap_s=0.0)
    async with WindowBroker(numbered(400), window=10) as broker:
        source = source_for(broker.port, shelf, receive_maximum=10)
        async with running(source):
            await until(lambda: "raise receive_maximum" in str(source.status()["advice"]))
    assert "raise receive_maximum" in caplog.text


async def test_a_new_connection_has_a_window_of_its_own(broker, make_link, publish_to) -> None:
    """What waited on the old one is never answered there, and does not count any more."""
    link = make_link(broker.address)
    shelf = Shelf()
    shelf.gate.clear()
    source = source_for(link.port, shelf)
    async with running(source):
        await in_thread(publish_to(broker.port).publish, "plant/d", *numbered(10))
        await until(lambda: source.status()["unacknowledged"] == 10)
        link.cut()
        await until(lambda: source.status()["connects"] == 2 and source.status()["unacknowledged"] == 10)
        shelf.gate.set()
        await until(lambda: source.status()["unacknowledged"] == 0)
    assert len(shelf.kept) == 20


async def test_memory_is_bounded_and_tcp_holds_the_broker_back(broker, publish_to) -> None:
    """QoS 0 has no receive maximum: past `buffer_max` we stop reading."""
    shelf = Shelf()
    shelf.gate.clear()
    source = source_for(broker.port, shelf, qos=0, buffer_max=Size(64 << 10))
    async with running(source):
        publisher = publish_to(broker.port)
        await in_thread(publisher.publish, "plant/d", *[bytes(10_000)] * 400, qos=0)
        await until(lambda: source.status()["held_back"])
        held = source.status()["bytes_pending"]
        await asyncio.sleep(0.1)
        assert source.status()["bytes_pending"] == held
        assert held < (64 << 10) + (512 << 10)
        shelf.gate.set()
        await until(lambda: len(shelf.kept) == 400)


async def test_a_stop_lets_what_is_under_way_be_kept_and_acknowledged(broker, publish_to) -> None:
    """Cancelled in the middle of a commit: the commit is awaited, its answer is sent."""
    shelf, later = Shelf(), Shelf()
    shelf.gate.clear()
    source = source_for(broker.port, shelf)
    async with running(source) as task:
        await in_thread(publish_to(broker.port).publish, "plant/d", *numbered(5))
        await until(lambda: shelf.offered == 5)
        task.cancel()
        await asyncio.sleep(0.02)
        assert not task.done()
        shelf.gate.set()
        await asyncio.wait({task})
        assert task.cancelled()
    assert (len(shelf.kept), source.status()["acknowledged"]) == (5, 5)
    # Of answers that it has not read yet the broker would know nothing when the next one takes the session.
    await until(lambda: any("tidegate-g1-plant disconnected" in line for line in broker.log), "the broker to hear it")
    async with running(source_for(broker.port, later)):
        await in_thread(publish_to(broker.port).publish, "plant/d", b"new")
        await until(lambda: later.kept)
    assert later.payloads == [b"new"]


async def test_what_accept_raises_ends_the_source_unacknowledged(broker, publish_to) -> None:
    """A fault of ours is raised to whoever supervises; the broker keeps the message."""
    shelf, later = Shelf(), Shelf()
    source = source_for(broker.port, shelf)
    async with running(source) as task:
        shelf.error = OSError("disk gone")
        await in_thread(publish_to(broker.port).publish, "plant/d", b"precious")
        await asyncio.wait({task}, timeout=60)
        assert isinstance(task.exception(), OSError)
    async with running(source_for(broker.port, later)):
        await until(lambda: later.kept)
    assert later.payloads == [b"precious"]


async def test_several_sources_side_by_side(make_broker, publish_to) -> None:
    """Two brokers and two sessions on one of them: each gets its own."""
    brokers = [make_broker(), make_broker()]
    shelves = [Shelf(), Shelf(), Shelf()]
    sources = [
        source_for(brokers[0].port, shelves[0], name="a"),
        source_for(brokers[0].port, shelves[1], name="b"),
        source_for(brokers[1].port, shelves[2], name="a"),
    ]
    async with contextlib.AsyncExitStack() as stack:
        for source in sources:
            await stack.enter_async_context(running(source))
        for broker, payload in zip(brokers, (b"first", b"second"), strict=True):
            await in_thread(publish_to(broker.port).publish, "plant/d", payload)
        await until(lambda: all(shelf.kept for shelf in shelves))
    assert [shelf.payloads for shelf in shelves] == [[b"first"], [b"first"], [b"second"]]


async def test_a_wrong_password_is_said_loudly_and_tried_slowly(make_broker, make_link, monkeypatch, caplog) -> None:
    """Status and log say who refuses; no password in either."""
    broker = make_broker(users={"gateway": "right"})
    slow_link, quick_link = make_link(broker.address), make_link(broker.address)
    monkeypatch.setenv("MQTT_PASSWORD", "wrong-secret")
    options = {"username": "gateway", "password": Secret(env="MQTT_PASSWORD")}
    source = source_for(slow_link.port, Shelf(), reconnect_max=Duration(60), **options)
    quick = source_for(quick_link.port, Shelf(), name="quick", reconnect_max=Duration(0.05), **options)
    with caplog.at_level(logging.ERROR):
        async with running(source, state="refused"):
            assert "the broker refuses tidegate-g1-plant: not authorized" in str(source.status()["last_error"])
            # As long as it takes another, which may, to be refused five times; counted where each must pass.
            async with running(quick, state="refused"):
                for _ in range(5):
                    with saying("quick: the broker refuses") as is_refused:
                        await is_refused.wait()
            assert quick_link.connections >= 5
            assert slow_link.connections == 1
    assert "trying again slowly" in caplog.text
    assert "wrong-secret" not in caplog.text + str(source.status())


async def test_the_right_password_and_a_missing_one(make_broker, monkeypatch) -> None:
    """A secret is read at each connect; one that is not there is named."""
    broker = make_broker(users={"gateway": "right"})
    secret = Secret(env="MQTT_PASSWORD_OF_TEST")
    source = source_for(broker.port, Shelf(), username="gateway", password=secret)
    async with running(source, state="refused"):
        assert "MQTT_PASSWORD_OF_TEST is not set" in str(source.status()["last_error"])
        monkeypatch.setenv("MQTT_PASSWORD_OF_TEST", "right")
        await until(lambda: source.status()["state"] == "connected")


async def test_an_untrusted_certificate_is_refused(make_broker, authority, tmp_path, caplog) -> None:
    """Nothing is sent to a broker that cannot prove who it is."""
    broker = make_broker(identity=authority.issue())
    source = source_for(0, Shelf(), url=f"mqtts://127.0.0.1:{broker.port}")
    with caplog.at_level(logging.ERROR):
        async with running(source, state="refused"):
            pass
    assert "the broker's certificate is not trusted" in str(source.status()["last_error"])
    assert not any("New client connected" in line for line in broker.log)


async def test_a_certificate_for_another_host_is_refused(make_broker, authority) -> None:
    """The right CA is not enough."""
    broker = make_broker(identity=authority.issue("elsewhere", alternatives="DNS:elsewhere.example"))
    tls = MqttTlsSettings(ca_file=str(authority.certificate))
    source = source_for(0, Shelf(), url=f"mqtts://127.0.0.1:{broker.port}", tls=tls)
    async with running(source, state="refused"):
        assert "IP address mismatch" in str(source.status()["last_error"])


async def test_tls_carries_everything(make_broker, authority, publish_to) -> None:
    """Large and small messages through TLS records, with a client certificate."""
    identity = authority.issue()
    broker = make_broker(identity=identity, client_ca=authority.certificate)
    ours = authority.issue("gateway")
    tls = MqttTlsSettings(ca_file=str(authority.certificate), cert_file=str(ours.certificate), key_file=str(ours.key))
    shelf = Shelf()
    source = source_for(0, shelf, url=f"mqtts://localhost:{broker.port}", tls=tls)
    sender = Shelf()
    async with running(source):
        client = Client(CallbackAPIVersion.VERSION2)
        client.tls_set(str(authority.certificate), str(ours.certificate), str(ours.key))
        await in_thread(client.connect, "localhost", broker.port)
        payloads = [*numbered(300), bytes(200_000), *numbered(300, 300)]
        with talking(client):
            await in_thread(wait_for_all, [client.publish("plant/d", payload, 1) for payload in payloads])
            await until(lambda: len(shelf.kept) == 601, f"{len(shelf.kept)}")
    assert shelf.payloads == payloads
    assert not sender.kept


async def test_a_missing_client_certificate_is_refused(make_broker, authority) -> None:
    """The broker's alert comes after the handshake; it is understood all the same."""
    broker = make_broker(identity=authority.issue(), client_ca=authority.certificate)
    tls = MqttTlsSettings(ca_file=str(authority.certificate))
    source = source_for(0, Shelf(), url=f"mqtts://localhost:{broker.port}", tls=tls)
    task = asyncio.create_task(source.run())
    await until(lambda: source.status()["state"] in {"refused", "disconnected"})
    assert "certificate" in str(source.status()["last_error"])
    task.cancel()
    await asyncio.wait({task})


async def test_a_plain_port_is_not_mistaken_for_tls(fake_broker) -> None:
    """mqtts:// to something that does not speak TLS is a sentence, not a riddle."""
    port, _ = await fake_broker([b"HTTP/1.1 400 Bad Request\r\n\r\n"])
    source = source_for(0, Shelf(), url=f"mqtts://127.0.0.1:{port}")
    async with running(source, state="refused"):
        assert "TLS with the broker failed: " in str(source.status()["last_error"])


async def test_a_tls_handshake_that_is_cut_may_pass(fake_broker) -> None:
    """That is the link's trouble, not the certificate's."""
    port, _ = await fake_broker([b"close"])
    source = source_for(0, Shelf(), url=f"mqtts://127.0.0.1:{port}")
    async with running(source, state="disconnected"):
        assert source.status()["last_error"]


async def test_a_connect_that_nobody_waits_for_is_not_finished(make_broker, make_link) -> None:
    """Cancelled while it dials: the broker never hears of it."""
    broker = make_broker()
    link = make_link(broker.address)
    link.mode = Mode.STALL
    source = source_for(link.port, Shelf(), url=f"ws://127.0.0.1:{link.port}", connect_timeout=Duration(0.5))
    task = asyncio.create_task(source.run())
    await until(lambda: link.connections == 1)
    task.cancel()
    await asyncio.wait({task})
    assert source.status()["state"] == "stopped"


@pytest.mark.parametrize(("path", "wanted"), [("", "/mqtt"), ("/site/7?a=b", "/site/7?a=b")])
async def test_a_websocket_is_asked_for_at_its_path(fake_broker, path: str, wanted: str) -> None:
    """As the URL has it; /mqtt where it has none, as brokers do."""
    port, heard = await fake_broker([b"close"])
    async with running(source_for(0, Shelf(), url=f"ws://127.0.0.1:{port}{path}"), state="disconnected"):
        assert heard[0].startswith(f"GET {wanted} HTTP/1.1\r\n".encode())


@pytest.mark.parametrize("qos", [0, 1, 2])
async def test_websockets(make_broker, publish_to, qos: int) -> None:
    """The same through WebSocket frames."""
    broker = make_broker(websockets=True)
    shelf = Shelf()
    source = source_for(0, shelf, url=f"ws://127.0.0.1:{broker.websocket_port}", qos=qos)
    payloads = [*numbered(200), bytes(100_000), *numbered(200, 200)]
    async with running(source):
        await in_thread(publish_to(broker.port).publish, "plant/d", *payloads, qos=qos)
        await until(lambda: len(shelf.kept) == 401, f"{len(shelf.kept)}")
        await until(lambda: source.status()["acknowledged"] == 401)
    assert shelf.payloads == payloads


async def test_websockets_through_tls(make_broker, authority, publish_to) -> None:
    """wss:// with a CA of our own."""
    broker = make_broker(websockets=True, identity=authority.issue())
    shelf = Shelf()
    tls = MqttTlsSettings(ca_file=str(authority.certificate))
    source = source_for(0, shelf, url=f"wss://localhost:{broker.websocket_port}/mqtt", tls=tls)
    payloads = [*numbered(200), bytes(100_000), *numbered(200, 200)]
    async with running(source):
        await in_thread(publish_to(broker.port).publish, "plant/d", *payloads)
        await until(lambda: len(shelf.kept) == 401, f"{len(shelf.kept)}")
    assert shelf.payloads == payloads


async def test_a_dead_link_is_noticed_by_the_keepalive(broker, make_link) -> None:
    """Half-open: no answer to the ping, so the connection is given up and tried anew."""
    link = make_link(broker.address)
    source = source_for(link.port, Shelf(), keepalive=Duration(1))
    async with running(source):
        link.mode = Mode.STALL
        await until(lambda: source.status()["state"] != "connected")
        link.cut()
        link.mode = Mode.UP
        await until(lambda: source.status()["state"] == "connected")


@pytest.mark.slow
async def test_a_long_back_pressure_is_not_mistaken_for_a_dead_link(broker, publish_to) -> None:
    """While we don't read we don't hear the ping's answer either: that must not end the connection."""
    shelf = Shelf()
    shelf.gate.clear()
    source = source_for(broker.port, shelf, keepalive=Duration(2), buffer_max=Size(64 << 10))
    async with running(source):
        await in_thread(publish_to(broker.port).publish, "plant/d", *[bytes(10_000)] * 100)
        await until(lambda: source.status()["held_back"])
        await asyncio.sleep(6)
        assert source.status()["connects"] == 1
        assert source.status()["state"] == "connected"
        shelf.gate.set()
        await until(lambda: len(shelf.kept) == 100)


async def test_a_broker_that_is_not_there_is_tried_again(make_broker, make_link) -> None:
    """Refused connections are said, waited out with growing pauses, and end when the broker comes."""
    broker = make_broker()
    link = make_link(broker.address)
    link.mode = Mode.REFUSE
    source = source_for(link.port, Shelf())
    async with running(source, state="disconnected"):
        assert f"cannot connect to 127.0.0.1:{link.port}: Connection refused" in str(source.status()["last_error"])
        link.mode = Mode.UP
        await until(lambda: source.status()["state"] == "connected")


@pytest.mark.parametrize(
    ("needs_a_person", "longest_s"), [(False, [3, 6, 12, 20, 20, 20, 20]), (True, [20, 20, 20, 20, 20, 20, 20])]
)
def test_the_waits_between_connects_have_an_end(
    monkeypatch: pytest.MonkeyPatch, needs_a_person: bool, longest_s: list[float]
) -> None:
    """From `reconnect_min` doubling to `reconnect_max`, half of it by chance; the longest at once where a person has to
    mend something."""
    tried_s: list[float] = []

    async def fail(_: object) -> bool:
        tried_s.append(asyncio.get_running_loop().time())
        return needs_a_person

    async def main() -> None:
        source = source_for(1, Shelf(), reconnect_min=Duration(3), reconnect_max=Duration(20))
        monkeypatch.setattr(source, "_serve_once", fail)
        async with running(source, state="stopped"):
            while len(tried_s) <= len(longest_s):
                await asyncio.sleep(1)

    run(main())
    waits_s = [later - earlier for earlier, later in itertools.pairwise(tried_s)]
    assert all(longest / 2 <= wait <= longest for wait, longest in zip(waits_s, longest_s, strict=False))


@pytest.mark.parametrize(("needs_a_person", "tries"), [(False, 2), (True, 1)])
def test_a_network_that_comes_ends_the_wait(monkeypatch: pytest.MonkeyPatch, needs_a_person: bool, tries: int) -> None:
    """But not the one for a person: a password is not right for being said again."""
    tried_s: list[float] = []

    async def fail(_: object) -> bool:
        tried_s.append(asyncio.get_running_loop().time())
        return needs_a_person

    async def main() -> None:
        source = source_for(1, Shelf(), reconnect_min=Duration(600), reconnect_max=Duration(600))
        monkeypatch.setattr(source, "_serve_once", fail)
        async with running(source, state="stopped"):
            await asyncio.sleep(5)
            source.network_up()
            await asyncio.sleep(5)

    run(main())
    assert len(tried_s) == tries


@pytest.fixture
async def fake_broker() -> AsyncIterator[Callable[..., Any]]:
    """A server that answers each connection with the next script: a list of (wait for bytes, then send)."""
    servers: list[asyncio.Server] = []

    async def start(*scripts: list[bytes]) -> tuple[int, list[bytes]]:
        heard: list[bytes] = []
        rest = list(scripts)

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            script = rest.pop(0) if len(rest) > 1 else rest[0]
            with contextlib.suppress(ConnectionError):
                for answer in script:
                    heard.append(await reader.read(65536))
                    if answer == b"close":
                        break
                    writer.write(answer)
                    await writer.drain()
                else:
                    while data := await reader.read(65536):
                        heard.append(data)
            writer.close()

        servers.append(await asyncio.start_server(serve, "127.0.0.1", 0))
        return servers[-1].sockets[0].getsockname()[1], heard

    yield start
    for server in servers:
        server.close()


CONNACK_5 = b"\x20\x03\x00\x00\x00"
CONNACK_311 = b"\x20\x02\x00\x00"
SUBACK_5 = b"\x90\x04\x00\x01\x00\x01"
SUBACK_311 = b"\x90\x03\x00\x01\x01"


@pytest.mark.parametrize(
    "first",
    [
        pytest.param([b"\x20\x02\x00\x01"], id="an old broker's CONNACK"),
        pytest.param([b"\x20\x03\x00\x84\x00"], id="unsupported protocol version"),
    ],
)
async def test_a_broker_without_mqtt_5_gets_3_1_1(fake_broker, first: list[bytes], caplog) -> None:
    """It is said in the log, and the status shows the version in use."""
    port, heard = await fake_broker(first, [CONNACK_311, SUBACK_311])
    source = source_for(port, Shelf())
    with caplog.at_level(logging.WARNING):
        async with running(source):
            assert source.status()["protocol"] == "3.1.1"
    assert heard[0][8] == 5
    assert heard[1][8] == 4
    assert "going on with 3.1.1" in caplog.text


async def test_a_broker_that_drops_what_it_does_not_know_gets_3_1_1(fake_broker) -> None:
    """Closed twice without a word: perhaps it was the version."""
    port, _ = await fake_broker([b"close"], [b"close"], [CONNACK_311, SUBACK_311])
    source = source_for(port, Shelf())
    async with running(source):
        assert source.status()["protocol"] == "3.1.1"


async def test_a_broker_that_restarts_keeps_its_version(fake_broker) -> None:
    """It has answered in MQTT 5: that it drops what comes while it stops and starts says nothing else."""
    drops = [[b"close"]] * 5
    port, heard = await fake_broker([CONNACK_5, SUBACK_5, b"close"], *drops, [CONNACK_5, SUBACK_5])
    source = source_for(port, Shelf())
    async with running(source):
        with saying("connected to") as is_back:
            source._link.drop("the broker stops")
            await is_back.wait()
        assert (source.status()["protocol"], source.status()["connects"]) == ("5", 2)
    assert {packet[8] for packet in heard if packet[:1] == b"\x10"} == {5}


async def test_a_broker_that_was_replaced_by_an_older_one_gets_3_1_1(fake_broker, monkeypatch) -> None:
    """Where it drops all that comes, again and again, whatever was there before."""
    monkeypatch.setattr(mqtt, "KNOWN_DROPS_MAX", 4)
    port, _ = await fake_broker([CONNACK_5, SUBACK_5, b"close"], *[[b"close"]] * 4, [CONNACK_311, SUBACK_311])
    source = source_for(port, Shelf())
    async with running(source):
        with saying("connected to") as is_back:
            source._link.drop("the broker stops")
            await is_back.wait()
        assert source.status()["protocol"] == "3.1.1"


@pytest.mark.parametrize(("protocol", "code"), [("5", 0x87), ("3.1.1", 0x80)])
async def test_a_refused_subscription_is_asked_for_again(fake_broker, monkeypatch, caplog, protocol, code) -> None:
    """SUBACK 0x87 or 0x80: loud in status and log; the granted ones go on; asked again later."""
    monkeypatch.setattr("gateway.sources.mqtt.SUBSCRIBE_RETRY_S", 0.05)
    if protocol == "5":
        script = [CONNACK_5, b"\x90\x05\x00\x01\x00\x01" + bytes([code]), b"\x90\x04\x00\x02\x00\x01"]
    else:
        script = [CONNACK_311, b"\x90\x04\x00\x01\x01" + bytes([code]), b"\x90\x03\x00\x02\x01"]
    port, heard = await fake_broker(script)
    source = source_for(port, Shelf(), topics=("a", "secret/#"), protocol=protocol)
    with caplog.at_level(logging.ERROR):
        async with running(source, state="subscription refused"):
            assert source.status()["topics"] == {"a": "QoS 1", "secret/#": "refused"}
            assert "refuses the subscription to secret/#" in str(source.status()["last_error"])
            await until(lambda: source.status()["state"] == "connected")
    assert "asking again" in caplog.text
    assert b"secret/#" in heard[2]
    assert b"\x00\x01a" not in heard[2]


async def test_garbage_from_a_broker_ends_the_connection_with_a_reason(fake_broker) -> None:
    """What came before it is kept; the reason is in the status; the next connection is a new try."""
    good = b"\x32\x10\x00\x07plant/d\x00\x09\x00good"
    garbage = b"\x30\xff\xff\xff\xff\xff"
    port, heard = await fake_broker([CONNACK_5, SUBACK_5 + good + garbage], [CONNACK_5, SUBACK_5])
    shelf = Shelf()
    source = source_for(port, shelf)
    async with running(source):
        await until(lambda: source.status()["connects"] == 2)
        assert "what MQTT does not allow" in str(source.status()["last_error"])
    assert shelf.payloads == [b"good"]
    # The DISCONNECT says why: malformed packet.
    assert any(data.endswith(b"\xe0\x01\x81") for data in heard)


@pytest.mark.parametrize("protocol", ["3.1.1", "5"])
@pytest.mark.parametrize("qos", [0, 1, 2])
async def test_a_message_that_is_too_large_costs_itself(broker: Broker, publish_to, qos: int, protocol: str) -> None:
    """It is handed in as lost, acknowledged when that is kept, named in the status; all others arrive."""
    shelf = Shelf()
    shelf.gate.clear()
    source = source_for(broker.port, shelf, qos=qos, protocol=protocol, packet_max=Size(10_000), client_id="c")
    publisher = publish_to(broker.port)
    async with running(source):
        await in_thread(publisher.publish, "plant/d", b"before", qos=qos)
        await in_thread(publisher.publish, "plant/large", b"x" * 1_500_000, qos=qos)
        await in_thread(publisher.publish, "plant/d", *numbered(20), qos=qos)
        await until(lambda: shelf.offered == 22)
        assert source.status()["acknowledged"] == 0
        shelf.gate.set()
        await until(lambda: source.status()["acknowledged"] == 22)
        assert set(numbered(20)) < set(shelf.payloads)
        assert shelf.lost == [(b"plant/large", "oversize")]
        assert max(map(len, shelf.payloads)) < 1100
        status = source.status()
        assert (status["state"], status["connects"], status["refused"]) == ("connected", 1, {"oversize": 1})
        assert str(status["last_error"]).endswith(
            "bytes; at most 10000 are taken (packet_max), on the topic plant/large"
        )
    # The broker has none of it left.
    async with running(source_for(broker.port, shelf, qos=qos, protocol=protocol, client_id="c")) as task:
        await in_thread(publisher.publish, "plant/d", b"after", qos=qos)
        await until(lambda: b"after" in shelf.payloads or task.done())
    assert shelf.offered == 23


async def test_over_a_websocket_the_broker_is_told_what_is_too_large(make_broker, publish_to) -> None:
    """paho would hold all of it: with MQTT 5 it does not come, with 3.1.1 it is read past."""
    broker = make_broker(websockets=True)
    for protocol, lost in (("5", []), ("3.1.1", [(b"plant/large", "oversize")])):
        shelf = Shelf()
        url = f"ws://127.0.0.1:{broker.websocket_port}"
        source = source_for(0, shelf, url=url, protocol=protocol, packet_max=Size(10_000))
        async with running(source):
            publisher = publish_to(broker.port)
            await in_thread(publisher.publish, "plant/large", b"x" * 100_000)
            await in_thread(publisher.publish, "plant/d", b"good")
            await until(lambda shelf=shelf: b"good" in shelf.payloads)
        assert shelf.lost == lost


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(b"\x20\x00", id="an empty CONNACK"),
        pytest.param(b"\x90\x00", id="an empty SUBACK"),
        pytest.param(b"\xd0\x02ab", id="a PINGRESP with a body"),
        pytest.param(b"\x62\x00", id="an empty PUBREL"),
        pytest.param(b"HTTP/1.1 400 Bad Request\r\n\r\n", id="a web server"),
        pytest.param(b"\x00" * 100, id="zeros"),
    ],
)
async def test_a_broker_that_talks_nonsense_is_survived(fake_broker, answer: bytes) -> None:
    """Whatever comes, the source says something and tries again."""
    port, _ = await fake_broker([answer])
    source = source_for(port, Shelf(), protocol="3.1.1", connect_timeout=Duration(0.3))
    async with running(source, state="disconnected"):
        assert source.status()["last_error"]


async def test_a_broker_that_says_nothing_is_left(fake_broker) -> None:
    """Connected, no CONNACK: given up after the timeout."""
    port, _ = await fake_broker([b""])
    source = source_for(port, Shelf(), connect_timeout=Duration(0.1))
    async with running(source, state="disconnected"):
        assert "said nothing" in str(source.status()["last_error"])


async def test_a_handshake_that_does_not_end_is_left(fake_broker) -> None:
    """Connected, and nobody shakes hands: given up after the timeout too."""
    port, _ = await fake_broker([b""])
    source = source_for(port, Shelf(), url=f"mqtts://127.0.0.1:{port}", connect_timeout=Duration(0.1))
    async with running(source, state="disconnected"):
        assert "timed out" in str(source.status()["last_error"])


@pytest.mark.parametrize(
    ("packet", "words"),
    [
        (b"\xe0\x02\x8e\x00", "session taken over"),
        (b"\xe0\x01\xf0", "reason 0xf0"),
        (b"\xe0\x00", "success"),
    ],
)
async def test_the_brokers_own_reason_is_shown(fake_broker, packet: bytes, words: str) -> None:
    """DISCONNECT from the broker: with session taken over another client has our id."""
    port, _ = await fake_broker([CONNACK_5, SUBACK_5 + packet])
    source = source_for(port, Shelf())
    async with running(source, state="disconnected"):
        assert f"the broker ended the connection: {words}" in str(source.status()["last_error"])


async def test_nobody_at_the_port(tmp_path) -> None:
    """And a name that does not resolve would read the same way."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    source = source_for(port, Shelf())
    async with running(source, state="disconnected"):
        assert "cannot connect" in str(source.status()["last_error"])


@pytest.mark.parametrize("is_kept_before", [True, False])
async def test_qos_2_is_kept_once_across_a_cut(broker, make_link, publish_to, is_kept_before: bool) -> None:
    """Delivered, cut, delivered again: kept once, and confirmed when it is on disk."""
    link = make_link(broker.address)
    shelf = Shelf()
    source = source_for(link.port, shelf, qos=2, reconnect_min=Duration(0.2))
    async with running(source):
        shelf.gate.clear()
        await in_thread(publish_to(broker.port).publish, "plant/d", b"once", qos=2)
        await until(lambda: shelf.offered == 1)
        link.cut()
        await until(lambda: source.status()["state"] == "disconnected")
        if is_kept_before:
            shelf.gate.set()
            await until(lambda: shelf.kept)
        await until(lambda: source.status()["delivered_again"] == 1)
        shelf.gate.set()
        # A packet id is free only after the whole exchange: PUBREC, PUBREL, PUBCOMP.
        await until(lambda: len(source._once) == 0)
        await in_thread(publish_to(broker.port).publish, "plant/d", b"next", qos=2)
        await until(lambda: len(shelf.kept) == 2)
    assert shelf.payloads == [b"once", b"next"]


@pytest.mark.parametrize(("qos", "lost"), [(1, 1), (0, 0)])
async def test_a_broker_that_has_forgotten_the_session_is_said(fake_broker, tmp_path, caplog, qos, lost) -> None:
    """It had acknowledged what was in it, and a mosquitto without persistence loses it at each restart."""
    port, heard = await fake_broker([CONNACK_5, b"close"], [CONNACK_5, SUBACK_5])
    source = source_for(port, Shelf(), qos=qos, state_dir=tmp_path)
    async with running(source):
        await until(lambda: sum(packet.startswith(b"\x82") for packet in heard) == 2, "a second SUBSCRIBE")
        assert source.status()["sessions_lost"] == lost
    assert ("has forgotten our session tidegate-g1-plant" in caplog.text) == bool(lost)


@pytest.mark.parametrize(("session_present", "kept"), [(b"\0", [b"20.5", b"20.5"]), (b"\1", [b"20.5"])])
async def test_a_session_that_is_lost_takes_its_packet_ids_along(fake_broker, session_present, kept) -> None:
    """Under an id that it had not released comes another message then, though it be in the same words."""
    publish = publish_bytes(b"plant/", b"20.5", qos=2, packet_id=7, version=5)
    first = [CONNACK_5, SUBACK_5 + publish, b"close"]
    second = [b"\x20\x03" + session_present + b"\0\0", SUBACK_5 + publish]
    port, heard = await fake_broker(first, second)
    shelf = Shelf()
    source = source_for(port, shelf, qos=2)
    async with running(source):
        await until(lambda: sum(packet.startswith(b"\x50\x02\0\7") for packet in heard) == 2, "both to be received")
        assert shelf.payloads == kept


async def test_a_lesser_qos_is_said(fake_broker, caplog) -> None:
    """The broker grants 0 where 1 was asked for: it works, and the log says so."""
    port, _ = await fake_broker([CONNACK_5, b"\x90\x04\x00\x01\x00\x00"])
    with caplog.at_level(logging.WARNING):
        async with running(source_for(port, Shelf())):
            pass
    assert "delivered with QoS 0, not 1" in caplog.text


async def test_a_busy_broker_is_tried_again_soon(fake_broker) -> None:
    """CONNACK 0x89 is for now, not for ever."""
    port, _ = await fake_broker([b"\x20\x03\x00\x89\x00"], [CONNACK_5, SUBACK_5])
    source = source_for(port, Shelf(), reconnect_max=Duration(60))
    async with running(source):
        assert "the broker refuses: server busy" in str(source.status()["last_error"])
