"""The wire to a broker: what real brokers and scripted ones answer, and what each comes to."""

from __future__ import annotations

import contextlib
import random
import socket
import threading
import time
from typing import Any

import msgspec
import numpy as np
import pytest
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion

from gateway.codecs import zstd
from gateway.codecs.otlp import NO_MARKS
from gateway.control.reading import decode_hook
from gateway.core.batch import Batch, Series
from gateway.core.clock import SystemClock
from gateway.core.contracts import Signal, TryLaterError
from gateway.net.deadline import Deadline
from gateway.net.mqtt_fields import Property
from gateway.net.paho_client import BulkClient
from gateway.uplinks.bridge import MqttWire, seams_of
from gateway.uplinks.bridge_settings import MqttUplinkSettings
from gateway.uplinks.guards import (
    HoldError,
    InTransitError,
    NotYetError,
    Packed,
    StatusRefusedError,
    TooLargeError,
    UnreachableError,
)
from gateway.uplinks.partly import PartlyTakenError
from hil.children import wait_until
from hil.link_proxy import Mode
from hil.otlp_readings import parse_metrics
from hil.scripted_broker import Script, ScriptedBroker

SERIES = [Series((("device.id", f"d{number}"),), "temp", "Cel") for number in range(50)]
GATEWAY = (("tidegate.gateway.id", "site/7"),)
NOW_NS = 1_790_000_000 * 10**9


class Bridge:
    """A wire with its encoder, as an uplink has them."""

    def __init__(self, port: int, **table: Any) -> None:
        full = {"type": "mqtt", "name": "broker", "url": f"mqtt://127.0.0.1:{port}", "timeout": "20s", **table}
        self.settings = msgspec.convert(full, MqttUplinkSettings, dec_hook=decode_hook)
        self.seams = seams_of(
            self.settings,
            series=SERIES.__getitem__,
            gateway_attributes=GATEWAY,
            version="1",
            clock=SystemClock(),
            random=random.Random(1),
        )
        self.brokers: Any = self.seams.wire
        self.brokers.open()
        self.wire: MqttWire = self.brokers._all[0].wire

    def pack(self, count: int, *, devices: int = len(SERIES)) -> Packed:
        numbers = np.arange(count)
        batch = Batch.of(numbers % devices, NOW_NS + numbers * 10**6, numbers * 1.0).sorted()
        return Packed(Signal.METRICS, self.seams.encoder.metrics([(batch, NO_MARKS)]), "")

    def send(self, count: int = 1, **more: Any) -> Any:
        devices = more.pop("devices", len(SERIES))
        return self.wire.send(self.pack(count, devices=devices), **more)

    def close(self) -> None:
        self.brokers.stop()
        self.brokers.close()


@pytest.fixture
def make_bridge(rigs):
    """Make one that is closed with the test."""

    def make(port: int, **table: Any) -> Bridge:
        made = Bridge(port, **table)
        rigs.callback(made.close)
        return made

    return make


@pytest.fixture
def make_scripted(rigs):
    """Make a scripted broker."""
    return lambda **script: rigs.enter_context(ScriptedBroker(Script(**script)))


class Ear:
    """A paho subscriber that keeps what it hears, QoS 1."""

    def __init__(self, port: int, topic: str = "#", **options: Any) -> None:
        self.heard: list[tuple[str, bytes]] = []
        self.properties: list[Any] = []
        self._subscribed = threading.Event()
        self.client = Client(CallbackAPIVersion.VERSION2, protocol=5, **options)
        self.client.on_message = self._hear
        self.client.on_subscribe = lambda *_: self._subscribed.set()
        self.client.connect("127.0.0.1", port)
        self.client.subscribe(topic, qos=1)
        self.client.loop_start()
        assert self._subscribed.wait(60)

    def _hear(self, _client: Any, _data: Any, message: Any) -> None:
        self.heard.append((message.topic, message.payload))
        self.properties.append(message.properties)

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


@pytest.fixture
def listen(rigs):
    """Make a subscriber."""

    def make(port: int, topic: str = "#", **options: Any) -> Ear:
        ear = Ear(port, topic, **options)
        rigs.callback(ear.close)
        return ear

    return make


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
@pytest.mark.parametrize("qos", [0, 1])
def test_each_reading_arrives_once_with_its_topic(make_bridge, make_broker, listen, protocol: str, qos: int) -> None:
    """Through a real broker that takes 20 at a time where it can say so."""
    broker = make_broker(max_inflight=20)
    ear = listen(broker.port, "tidegate/#")
    bridge = make_bridge(broker.port, payload="json", protocol=protocol, qos=qos)
    answer = bridge.send(500)
    assert (answer.rejected, answer.message) == (0, "")
    wait_until(lambda: len(ear.heard) >= 500, "all messages")
    values = sorted((topic, msgspec.json.decode(payload)["value"]) for topic, payload in ear.heard)
    assert values == sorted((f"tidegate/site%2F7/d{n % 50}/temp", float(n)) for n in range(500))
    told = bridge.brokers.told()
    assert (told["protocol"], told["qos"], told["unheard"], told["advice"]) == (protocol, qos, 0, "")
    assert told["inflight_max"] == (20 if protocol == "5" else 1000)
    assert told["endpoint"] == f"mqtt://127.0.0.1:{broker.port}"
    assert told["client_id"] == "tidegate-site/7-uplink-broker"
    assert bridge.wire.requests == 1
    assert bridge.wire.is_connected


@pytest.mark.parametrize("encoding", ["", "zstd"])
def test_a_request_is_one_message(make_bridge, broker, listen, encoding: str) -> None:
    """What an OTLP receiver would get, on a topic for each signal; MQTT 5 says how it is packed."""
    ear = listen(broker.port)
    bridge = make_bridge(broker.port)
    body = bridge.pack(500).body
    packed = zstd.compress(body, level=3) if encoding else body
    bridge.wire.send(Packed(Signal.METRICS, packed, encoding))
    bridge.wire.send(Packed(Signal.TRACES, b"x", ""))
    wait_until(lambda: len(ear.heard) == 2, "both messages")
    assert [topic for topic, _ in ear.heard] == ["tidegate/site%2F7/metrics", "tidegate/site%2F7/traces"]
    payload = ear.heard[0][1]
    readings = parse_metrics(zstd.decompress(payload, bytes_max=1 << 24) if encoding else payload)
    assert sorted(reading.value for reading in readings) == list(range(500))
    properties = ear.properties[0]
    assert properties.ContentType == "application/x-protobuf"
    assert getattr(properties, "UserProperty", []) == ([("content-encoding", "zstd")] if encoding else [])


def test_a_large_request_goes_whole(make_bridge, broker, listen) -> None:
    """Some megabytes, in pieces that the line takes."""
    ear = listen(broker.port)
    bridge = make_bridge(broker.port)
    body = random.Random(3).randbytes(3 << 20)
    bridge.wire.send(Packed(Signal.LOGS, body, ""))
    wait_until(lambda: ear.heard, "the message")
    assert ear.heard == [("tidegate/site%2F7/logs", body)]


def test_what_nobody_subscribes_to_is_taken_and_said(make_bridge, broker, listen, caplog) -> None:
    """The broker throws it away: once in the log, as a count, and as advice until somebody hears."""
    bridge = make_bridge(broker.port, payload="json")
    for _ in range(2):
        bridge.send(30)
    told = bridge.brokers.told()
    assert told["unheard"] == 60
    assert "nobody subscribes" in told["advice"]
    assert sum("nobody subscribes" in record.message for record in caplog.records) == 1
    listen(broker.port)
    bridge.send(30)
    assert bridge.brokers.told()["unheard"] == 60
    assert bridge.brokers.told()["advice"] == ""


def test_what_nobody_subscribes_to_is_held_where_that_is_wanted(make_bridge, make_broker, listen) -> None:
    """As after a restart of a broker that has forgotten shared subscriptions: it goes when their client is back."""
    broker = make_broker()
    ear = listen(broker.port, "$share/group/tidegate/#")
    bridge = make_bridge(broker.port, unheard="hold")
    assert bridge.send(30).rejected == 0
    wait_until(lambda: len(ear.heard) == 1, "what somebody hears")
    ear.close()

    def is_held() -> bool:
        with contextlib.suppress(HoldError):
            return bridge.send(30).rejected > 0
        return True

    wait_until(is_held, "the broker to know that nobody is there")
    for _ in range(2):
        with pytest.raises(HoldError, match="nobody subscribes to tidegate/site%2F7/metrics; it is held") as caught:
            bridge.send(30)
        assert caught.value.after_s == 0
    assert (bridge.brokers.told()["unheard"], bridge.brokers.told()["advice"]) == (0, "")
    ear = listen(broker.port, "$share/group/tidegate/#")
    assert bridge.send(30).rejected == 0
    wait_until(lambda: len(ear.heard) == 1, "what was held")


ACCESS = "topic readwrite tidegate/+/d1/#\ntopic readwrite tidegate/+/d2/#\n"


def test_what_an_access_list_refuses_is_rejected_beside_what_it_takes(make_bridge, make_broker, listen) -> None:
    """A device that may not publish does not hold up the others, and is counted."""
    broker = make_broker(access=ACCESS)
    ear = listen(broker.port)
    bridge = make_bridge(broker.port, payload="json")
    answer = bridge.send(100, devices=5)
    assert answer.rejected == 60
    assert answer.message.startswith("the broker refuses 60 messages: not authorized; the last one to tidegate/")
    wait_until(lambda: len(ear.heard) >= 40, "the others")
    assert {topic.split("/")[2] for topic, _ in ear.heard} == {"d1", "d2"}
    # A broker that hangs up when it refuses has perhaps what was behind that.
    assert 40 <= len(ear.heard) <= 40 + answer.maybe_twice


def test_where_an_access_list_refuses_all_it_is_held(make_bridge, make_broker) -> None:
    """It says nothing of the data: whoever wrote the list mends it."""
    broker = make_broker(access="topic readwrite other/#\n")
    bridge = make_bridge(broker.port, payload="json")
    for devices in (1, 3, 50):
        with pytest.raises(
            (HoldError, PartlyTakenError), match="not authorized; give it the right to publish there"
        ) as caught:
            bridge.send(500, devices=devices)
        if isinstance(caught.value, PartlyTakenError):
            assert (caught.value.taken, caught.value.rejected) == (0, 0)
            with pytest.raises(HoldError, match="not authorized; give it the right to publish there"):
                bridge.send(500)
    with pytest.raises(HoldError, match="refuses tidegate/site%2F7/metrics: not authorized"):
        make_bridge(broker.port).send(5)
    assert not bridge.wire.is_connected


def test_the_brokers_own_limits_are_kept(make_bridge, make_broker, listen) -> None:
    """What is over its packet size is split before a byte of it leaves; one reading that is, is rejected."""
    broker = make_broker(options=("max_packet_size 300",))
    ear = listen(broker.port, "tidegate/#")
    bridge = make_bridge(broker.port)
    with pytest.raises(TooLargeError, match="packet too large"):
        bridge.send(50)
    assert bridge.wire.is_connected
    assert bridge.send(2).rejected == 0
    json = make_bridge(broker.port, payload="json", topic="tidegate/{device}/{metric}/" + "x" * 500)
    with pytest.raises(TooLargeError):
        json.send(1)
    wait_until(lambda: len(ear.heard) == 1, "the small one alone")


def test_a_broker_with_qos_0_alone_is_not_believed_to_keep(make_bridge, make_broker, listen) -> None:
    """Unless that is what was asked for."""
    broker = make_broker(listener_options=("max_qos 0",))
    ear = listen(broker.port)
    with pytest.raises(HoldError, match="the broker takes QoS 0 only"):
        make_bridge(broker.port).send()
    assert make_bridge(broker.port, qos=0, client_id="other").send().rejected == 0
    wait_until(lambda: len(ear.heard) == 1, "the message")


def test_a_broker_that_is_restarted_is_found_again(make_bridge, broker) -> None:
    """The idle connection's end is noticed before anything is lost to it."""
    bridge = make_bridge(broker.port, payload="json")
    bridge.send(5)
    broker.stop()
    with pytest.raises(UnreachableError, match="no connection to 127.0.0.1"):
        bridge.send(5)
    broker.start()
    assert bridge.send(5).rejected == 0
    assert bridge.wire.requests == 2


def test_who_is_not_let_in_is_told_what_to_do(make_bridge, make_broker, monkeypatch) -> None:
    """User and password; the password is read anew at each try, and never shown."""
    broker = make_broker(users={"gateway": "secret"})
    monkeypatch.setenv("BROKER_PASSWORD", "hunter2")
    bridge = make_bridge(broker.port, username="gateway", password={"env": "BROKER_PASSWORD"})
    with pytest.raises(HoldError, match="the broker refuses tidegate-site/7-uplink-broker: not authorized") as caught:
        bridge.send()
    assert "hunter2" not in str(caught.value)
    monkeypatch.delenv("BROKER_PASSWORD")
    with pytest.raises(HoldError, match="password: "):
        bridge.send()
    monkeypatch.setenv("BROKER_PASSWORD", "secret")
    assert bridge.send().rejected == 0


def test_tls_is_verified(make_bridge, make_broker, authority, tmp_path) -> None:
    """By the authority that is named, for the host that is named; else held, with what to do."""
    broker = make_broker(identity=authority.issue("localhost"))
    url = f"mqtts://localhost:{broker.port}"
    bridge = make_bridge(0, url=url, tls={"ca_file": str(authority.certificate)})
    assert bridge.send().rejected == 0
    assert bridge.wire.is_encrypted
    assert bridge.wire.wire_bytes > 2000
    with pytest.raises(HoldError, match="name the authority that signed it with tls.ca_file of this uplink"):
        make_bridge(0, url=url).send()
    other = make_broker(identity=authority.issue("other", alternatives="DNS:other"))
    with pytest.raises(HoldError, match="name the broker in url as its certificate does"):
        wrong = f"mqtts://localhost:{other.port}"
        make_bridge(0, url=wrong, tls={"ca_file": str(authority.certificate)}).send()
    with pytest.raises(HoldError, match="cannot read the certificates in /nowhere"):
        make_bridge(0, url=url, tls={"ca_file": "/nowhere"}).send()


def test_tls_where_there_is_none(make_bridge, broker) -> None:
    """It is tried again."""
    with pytest.raises(TryLaterError, match="TLS with 127.0.0.1|hung up|no connection") as caught:
        make_bridge(0, url=f"mqtts://127.0.0.1:{broker.port}").send()
    assert not isinstance(caught.value, HoldError)


def test_websockets(make_bridge, make_broker, listen) -> None:
    """The same messages; large ones too."""
    broker = make_broker(websockets=True)
    ear = listen(broker.port)
    bridge = make_bridge(0, url=f"ws://127.0.0.1:{broker.websocket_port}", payload="json")
    assert bridge.send(200).rejected == 0
    body = random.Random(3).randbytes(300_000)
    bridge.wire.send(Packed(Signal.LOGS, body, ""))
    wait_until(lambda: len(ear.heard) == 201, "all messages")
    assert ear.heard[-1][1] == body


@pytest.mark.alone
def test_bytes_on_the_wire_are_the_kernels(make_bridge, make_broker, make_link) -> None:
    """Both directions, with headers: what a proxy in between passes on, and some packets for each message."""
    broker = make_broker()
    link = make_link(broker.address)
    bridge = make_bridge(link.port, payload="json")
    bridge.send(2000)
    counts = link.counts()
    # How much goes into one packet is the kernel's to decide: a publication, its answer, and an ack of either at most.
    assert counts.up + counts.down < bridge.wire.wire_bytes < counts.up + counts.down + 2000 * 4 * 80
    assert bridge.wire.bytes_sent > 2000 * 60
    before = bridge.wire.wire_bytes
    bridge.wire.close()
    assert bridge.wire.wire_bytes > before


def test_each_piece_is_asked_for_and_one_that_is_not_granted_ends_it(make_bridge, make_scripted) -> None:
    """What a budget refuses has not left; what had left has its answers."""
    broker = make_scripted()
    bridge = make_bridge(broker.port, payload="json", inflight_max=100)
    asked: list[int] = []

    def grant(size_bytes: int) -> None:
        asked.append(size_bytes)
        if len(asked) == 3:
            raise NotYetError("over budget", 60.0)

    bridge.wire.before_piece = grant
    bridge.wire.piece_bytes_max = 4000
    with pytest.raises(PartlyTakenError, match="over budget") as caught:
        bridge.send(500)
    assert caught.value.maybe == 0
    assert caught.value.taken == len(broker.messages) > 50
    assert all(size <= 4000 + 100 * 57 for size in asked)


def test_waiting_for_our_own_turn_is_no_stall_of_the_line(make_bridge, broker, monkeypatch) -> None:
    """A slow rate takes longer between two pieces than a dead line is waited for; and then the line is full a moment."""
    bridge = make_bridge(broker.port)
    full: list[bool] = []
    send = BulkClient.send_some
    monkeypatch.setattr(BulkClient, "send_some", lambda client, data: 0 if full and full.pop() else send(client, data))

    def take_our_time(_: int) -> None:
        bridge.wire._line.moved_ns -= 21 * 10**9
        full.append(True)

    bridge.wire.before_piece = take_our_time
    bridge.wire.piece_bytes_max = 1000
    assert bridge.wire.send(Packed(Signal.LOGS, bytes(2500), "")).rejected == 0


def test_a_pause_is_over_when_it_is_ended(make_bridge) -> None:
    """A slow rate does not keep a gateway from stopping."""
    bridge = make_bridge(1)
    bridge.wire.abort()
    began_s = time.monotonic()
    bridge.wire.pause(30)
    assert time.monotonic() - began_s < 20


# By script.


def test_a_broker_over_its_quota_is_tried_later(make_bridge, make_scripted) -> None:
    """A whole request, and some of many: with what the broker says of it."""
    broker = make_scripted(answer=lambda _: 0x97, reason="come back tomorrow")
    bridge = make_bridge(broker.port)
    for _ in range(2):
        with pytest.raises(TryLaterError, match=r"quota exceeded \(come back tomorrow\)") as caught:
            bridge.send()
        assert not caught.value.answer_lost
    assert broker.connections == 1
    broker.script = Script(answer=lambda message: 0x97 if "/d3/" in message.topic else 0)
    with pytest.raises(PartlyTakenError, match="quota exceeded") as caught:
        make_bridge(broker.port, payload="json", client_id="other").send(50)
    assert (caught.value.taken, caught.value.maybe, caught.value.rejected) == (49, 0, 0)


@pytest.mark.parametrize("code", [0x90, 0x99])
def test_a_request_that_is_not_understood_is_refused(make_bridge, make_scripted, code: int) -> None:
    """As a 400 is: in parts, until it is known what it is about."""
    broker = make_scripted(answer=lambda _: code)
    with pytest.raises(StatusRefusedError) as caught:
        make_bridge(broker.port).send()
    assert caught.value.status == 400


def test_a_connection_that_breaks_took_what_it_took(make_bridge, make_scripted) -> None:
    """30 of 100 are answered when it breaks, the window is 10: ten may be there twice at most, and no more are said."""
    broker = make_scripted(ends_after=30, terms=[(Property.RECEIVE_MAXIMUM, 10)])
    bridge = make_bridge(broker.port, payload="json")
    with pytest.raises(PartlyTakenError) as caught:
        bridge.send(100)
    error = caught.value
    assert error.taken == 30
    assert error.maybe <= 10
    assert int(error._left.sum()) == 70
    assert "the connection to 127.0.0.1" in str(error)
    broker.script = Script()
    assert bridge.send(70).rejected == 0
    assert broker.connections == 2
    assert not any(message.is_duplicate for message in broker.messages)


@pytest.mark.parametrize("payload", ["json", "otlp"])
def test_a_line_that_breaks_before_the_first_byte_took_nothing(make_bridge, make_scripted, payload: str) -> None:
    """It stood when it was looked at: nothing is in doubt, and nothing is held to be taken."""
    broker = make_scripted()
    bridge = make_bridge(broker.port, payload=payload)
    bridge.send(5)
    bridge.wire.before_piece = lambda _: bridge.wire._line.client._sock.shutdown(socket.SHUT_WR)
    with pytest.raises(InTransitError, match="broke") as caught:
        bridge.send(5)
    assert not caught.value.answer_lost
    bridge.wire.before_piece = lambda _: None
    assert bridge.send(5).rejected == 0
    assert len(broker.messages) == (10 if payload == "json" else 2)


@pytest.mark.parametrize("payload", ["json", "otlp"])
@pytest.mark.parametrize("end_code", [None, 0x8B, 0x8E])
def test_an_end_behind_the_last_answer_is_none_of_this_request(
    make_bridge, make_scripted, payload: str, end_code: int | None
) -> None:
    """All of it was taken, and it is not sent again."""
    count = 20 if payload == "json" else 1
    broker = make_scripted(ends_after=count, end_code=end_code)
    bridge = make_bridge(broker.port, payload=payload)
    assert bridge.send(20).rejected == 0
    wait_until(lambda: broker.ends, "the connection to end")
    broker.script = Script()
    time.sleep(0.05)
    if end_code == 0x8E:
        with pytest.raises(HoldError, match="another client has our client_id"):
            bridge.send(20)
    assert bridge.send(20).rejected == 0
    assert len(broker.messages) == 2 * count
    assert broker.connections == 2


def test_a_broker_that_shuts_down_says_so(make_bridge, make_scripted) -> None:
    """And what was under way goes again."""
    broker = make_scripted(ends_after=1, end_code=0x8B, answer=lambda _: None)
    with pytest.raises(TryLaterError, match="the broker ended the connection: server shutting down") as caught:
        make_bridge(broker.port).send()
    assert caught.value.answer_lost


def test_a_client_id_that_another_has_is_not_fought_for(make_bridge, make_scripted) -> None:
    """Under a request and between two: held, so that two gateways do not throw each other out for ever."""
    broker = make_scripted(ends_after=3, end_code=0x8E)
    bridge = make_bridge(broker.port, payload="json")
    with pytest.raises(PartlyTakenError, match="session taken over"):
        bridge.send(10)
    with pytest.raises(HoldError, match="another client has our client_id"):
        bridge.send(7)
    assert broker.connections == 1
    broker.script = Script()
    bridge.send(7)
    broker.say(bytes.fromhex("e0018e"))
    time.sleep(0.05)
    with pytest.raises(HoldError, match="another client has our client_id"):
        bridge.send(1)
    assert bridge.send(1).rejected == 0


def test_an_idle_connection_that_has_ended_costs_nothing(make_bridge, make_scripted) -> None:
    """A new one is begun, whatever the old one said last."""
    broker = make_scripted()
    bridge = make_bridge(broker.port)
    for number, farewell in enumerate((b"", bytes.fromhex("e0018b"), b"\xff"), 1):
        bridge.send()
        if farewell:
            broker.say(farewell)
        broker.hang_up()
        wait_until(lambda: not broker._open, "the connection to be gone")
        time.sleep(0.02)
        assert bridge.send().rejected == 0
        assert broker.connections == number + 1


def test_a_broker_that_says_nothing_is_given_up(make_bridge, make_scripted) -> None:
    """To CONNECT, and to a message: after `timeout`; only the second may have been taken."""
    broker = make_scripted(connack=None)
    with pytest.raises(UnreachableError, match="accepted the connection and said nothing"):
        make_bridge(broker.port, connect_timeout="200ms").send()
    broker.script = Script(answer=lambda _: None)
    for payload, kind in (("otlp", InTransitError), ("json", PartlyTakenError)):
        with pytest.raises(kind, match=r"does not answer within 0\.2 s") as caught:
            make_bridge(broker.port, timeout="200ms", connect_timeout="20s", payload=payload).send(5)
        assert (caught.value.answer_lost, getattr(caught.value, "maybe", None)) in {(True, None), (False, 5)}
    bridge = make_bridge(broker.port, qos=0)
    assert bridge.send().rejected == 0


def test_an_attempt_has_an_end(make_bridge, make_scripted) -> None:
    """Though the broker answers now and then."""
    broker = make_scripted(answer=lambda _: time.sleep(0.05) or 0, terms=[(Property.RECEIVE_MAXIMUM, 2)])
    bridge = make_bridge(broker.port, payload="json", attempt_timeout="2s")
    with pytest.raises(PartlyTakenError, match="an attempt took longer than it may") as caught:
        bridge.send(100)
    assert 0 < caught.value.taken < 100
    with pytest.raises(TryLaterError):
        make_bridge(broker.port, client_id="other").send(until=Deadline.after(0))


def test_a_request_is_ended_from_another_thread(make_bridge, make_scripted) -> None:
    """By `abort` it is as if the line had broken; after `stop` nothing is begun, until it is opened again."""
    broker = make_scripted(answer=lambda _: None)
    bridge = make_bridge(broker.port, timeout="20s")
    for end, words in ((bridge.brokers.abort, "does not answer"), (bridge.brokers.stop, "the uplink is stopping")):
        before = len(broker.messages)

        def act(end=end, before=before) -> None:
            wait_until(lambda: len(broker.messages) > before, "the message")
            end()

        helper = threading.Thread(target=act)
        helper.start()
        with pytest.raises(TryLaterError, match=words) as caught:
            bridge.send()
        helper.join()
        assert caught.value.answer_lost
    with pytest.raises(TryLaterError, match="the uplink is stopping") as caught:
        bridge.send()
    assert not caught.value.answer_lost
    bridge.brokers.open()
    broker.script = Script()
    assert bridge.send().rejected == 0


def test_a_thread_that_hangs_is_found_overdue(make_bridge, make_scripted) -> None:
    """Only while it sends."""
    broker = make_scripted(answer=lambda _: None)
    bridge = make_bridge(broker.port, timeout="20s")
    assert not bridge.brokers.is_overdue()

    def try_it() -> None:
        with pytest.raises(TryLaterError):
            bridge.send()

    helper = threading.Thread(target=try_it)
    helper.start()
    wait_until(lambda: broker.messages, "the message")
    assert not bridge.brokers.is_overdue()
    bridge.wire._line.moved_ns -= 22 * 10**9
    assert bridge.brokers.is_overdue()
    bridge.brokers.abort()
    helper.join()
    assert not bridge.brokers.is_overdue()


def test_a_probe_publishes_nothing(make_bridge, make_scripted) -> None:
    """The broker is asked whether it is there."""
    broker = make_scripted()
    bridge = make_bridge(broker.port)
    answer = bridge.wire.send(Packed(Signal.METRICS, b"", "", is_probe=True))
    assert answer.server_time_s is None
    assert broker.messages == []
    assert broker.connections == 1


def test_a_broker_that_does_not_know_mqtt_5(make_bridge, make_scripted) -> None:
    """Says so, or hangs up: then it goes on with 3.1.1, and stays there."""
    broker = make_scripted(knows_5=False)
    bridge = make_bridge(broker.port)
    with pytest.raises(TryLaterError, match="does not know MQTT 5; going on with 3.1.1") as caught:
        bridge.send()
    assert caught.value.at_once
    assert bridge.send().rejected == 0
    assert broker.versions == [5, 4]
    broker = make_scripted(hangs_up_on_5=True)
    bridge = make_bridge(broker.port)
    for words in ("hung up before it answered", "going on with 3.1.1"):
        with pytest.raises(TryLaterError, match=words):
            bridge.send()
    assert bridge.send().rejected == 0
    assert bridge.brokers.told()["protocol"] == "3.1.1"


@pytest.mark.parametrize(
    ("code", "kind"), [(0x88, TryLaterError), (0x97, TryLaterError), (0x85, HoldError), (0x9D, HoldError)]
)
def test_a_connection_that_is_refused(make_bridge, make_scripted, code: int, kind: type[Exception]) -> None:
    """By its reason: later, or held."""
    broker = make_scripted(connack=code)
    with pytest.raises(kind) as caught:
        make_bridge(broker.port).send()
    assert type(caught.value) is kind


def test_a_broker_that_makes_mistakes(make_bridge, make_scripted) -> None:
    """Is left: an answer that nobody waits for, a message, a second CONNACK."""
    for mistake in ("40020099", "300300016178", "2003000000", "ffff"):
        broker = make_scripted(after_connack=bytes.fromhex(mistake), answer=lambda _: None)
        with pytest.raises(TryLaterError, match="broke|not MQTT"):
            make_bridge(broker.port).send()


def test_a_name_that_nobody_knows(make_bridge) -> None:
    """No connection, and which name."""
    with pytest.raises(UnreachableError, match="the name nowhere.invalid cannot be resolved"):
        make_bridge(0, url="mqtt://nowhere.invalid").send()


def test_connections_are_recycled(make_bridge, make_scripted) -> None:
    """By age, by idleness, and where the broker wants a sign of life more often than one comes."""
    for table, terms in (
        ({"connection_max_age": "100ms"}, []),
        ({"connection_max_idle": "100ms"}, []),
        ({}, [(Property.SERVER_KEEP_ALIVE, 1)]),
    ):
        broker = make_scripted(terms=terms)
        bridge = make_bridge(broker.port, **table)
        bridge.send()
        bridge.send()
        assert broker.connections == 1
        bridge.wire._opened_ns -= 2 * 10**9
        bridge.wire._used_ns -= 2 * 10**9
        bridge.send()
        assert broker.connections == 2


def test_several_brokers_stand_in_for_each_other(make_bridge, make_scripted) -> None:
    """The second takes what the first cannot; status says how each is."""
    one, other = make_scripted(), make_scripted()
    urls = [f"mqtt://127.0.0.1:{broker.port}" for broker in (one, other)]
    bridge = make_bridge(0, url="", urls=urls)
    bridge.brokers.send(bridge.pack(1))
    one.__exit__(None, None, None)
    for _ in range(2):
        bridge.brokers.send(bridge.pack(1))
    assert (len(one.messages), len(other.messages)) == (1, 2)
    told = bridge.brokers.told()
    assert told["endpoint"] == urls[1]
    assert [each["requests"] for each in told["endpoints"]] == [1, 2]


def test_a_link_that_stalls_is_waited_for_and_then_left(make_bridge, broker, make_link) -> None:
    """What was under way when it stalled is what may be there twice."""
    link = make_link(broker.address)
    bridge = make_bridge(link.port, payload="json", timeout="2s", connect_timeout="20s", inflight_max=50)
    bridge.send(50)
    link.mode = Mode.STALL
    with pytest.raises(PartlyTakenError, match="does not answer within 2 s") as caught:
        bridge.send(500)
    assert (caught.value.taken, caught.value.maybe) == (0, 50)
    assert int(caught.value._left.sum()) == 500
    link.mode = Mode.UP
    assert bridge.send(500).rejected == 0


def test_what_is_waited_for_is_told(make_bridge, broker, make_link) -> None:
    """A broker's word to the connection, then its acknowledgements; nothing before and after."""
    link = make_link(broker.address)
    bridge = make_bridge(link.port, payload="json", timeout="60s", connect_timeout="50s")
    for awaited, most in (("a connection", 50.0), ("an answer", 60.0)):
        assert bridge.brokers.told()["waiting_for"] == ""
        link.mode = Mode.STALL
        thread = threading.Thread(target=bridge.send)
        thread.start()
        wait_until(lambda awaited=awaited: bridge.brokers.told()["waiting_for"] == awaited, "it to say so")
        assert bridge.brokers.told()["waiting_s_max"] == most
        link.mode = Mode.UP
        thread.join(60)
        assert bridge.brokers.told()["waiting_for"] == ""


def test_a_broker_that_gathers_small_packets_does_not_slow_it_down(make_bridge, make_broker) -> None:
    """As mosquitto does where nobody has changed that: 40 ms for each window of 20 would be 4 s here."""
    broker = make_broker(max_inflight=20, options=("set_tcp_nodelay false",))
    bridge = make_bridge(broker.port, payload="json")
    assert any(bridge.send(2000).seconds < 3 for _ in range(4))


def test_a_slow_line_is_no_dead_one(make_bridge, make_scripted) -> None:
    """A request may take much longer than is waited for while nothing moves."""
    broker = make_scripted(pause_s=0.05)
    bridge = make_bridge(broker.port, timeout="1500ms", connect_timeout="20s")
    answer = bridge.wire.send(Packed(Signal.LOGS, bytes(4 << 20), ""))
    assert answer.seconds > 2
    assert [len(message.payload) for message in broker.messages] == [4 << 20]
