"""A running gateway on a hostile network: the honest are served, memory stays bounded, every refusal has a reason."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING, Any

import pytest

from hil import attacks
from hil.children import wait_until
from hil.gateway_child import Site
from hil.publisher import Publisher

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from hil.children import Child
    from hil.otlp_sink import OtlpSink

SOURCE = 'connect_timeout = "3s"'
BOMBS = """\
[[mappings]]
match = "bomb/{device}"
payload = "cbor"
resource = { "device.id" = "{device}" }
fields = "*"
"""
RSS_BYTES_MAX = 80 << 20


@pytest.fixture
def site(tmp_path: Path, otlp_sink: OtlpSink, make_child: Callable[..., Child], monkeypatch) -> Site:
    """A gateway's place, with publishers that leave the machine some air."""
    monkeypatch.setattr("hil.publisher.WINDOW", 10)
    return Site(tmp_path, endpoint=otlp_sink.url, make_child=make_child, source=SOURCE, mappings=BOMBS)


def settle(site: Site, child: Child, publisher: Publisher, sink: OtlpSink) -> dict[str, Any]:
    """All that the honest publisher was promised has arrived; the gateway lives, has its reasons, and stops in order."""
    assert child.is_running, child.tail()
    publisher.stop()
    account = site.drain()
    status = site.status()
    assert account.gap == 0
    assert status["restarts"] == {}, child.tail()
    assert child.terminate() == 0
    arrived = {int(reading.value) for reading in sink.readings() if reading.device == "d1"}
    assert publisher.acknowledged <= arrived
    assert publisher.acknowledged
    assert publisher.connections == 1, "the honest were thrown out too"
    assert "Traceback" not in child.output
    return status


@pytest.mark.slow
def test_attackers_on_the_wire_don_t_disturb_the_honest(site: Site, otlp_sink: OtlpSink) -> None:
    """Garbage, halves, huge lengths, five hundred who say nothing, slow ones, deaf ones."""
    dice = random.Random(5)
    child = site.start()
    with Publisher(port=site.mqtt) as publisher:
        silent = attacks.silence(site.mqtt, count=500)
        attacks.random_bytes(site.mqtt, dice)
        attacks.half_packets(site.mqtt, dice)
        attacks.huge_lengths(site.mqtt, dice)
        attacks.odd_topics(site.mqtt, dice)
        attacks.same_name(site.mqtt, count=50)
        attacks.half_of_qos_2(site.mqtt)
        attacks.never_reads(site.mqtt, seconds=1.0)
        before = len(publisher.acknowledged)
        attacks.slow_loris(site.mqtt, count=50, seconds=1.5)
        assert len(publisher.acknowledged) > before, "the honest are kept waiting"
        # Only the honest one is left: who says nothing is shown out.
        wait_until(lambda: site.status()["sources"]["direct"]["connections"] == 1, "the silent ones to be shown out")
        for stream in silent:
            stream.close()
        peak = child.peak_bytes
        status = settle(site, child, publisher, otlp_sink)
    assert peak < RSS_BYTES_MAX, f"{peak / 2**20:.0f} MiB"
    refused = status["sources"]["direct"]["refused"]
    assert {"protocol_error", "malformed_packet", "packet_too_large"} <= refused.keys(), refused
    assert refused["connect_timeout"] + refused["connecting_max"] >= 450, refused


@pytest.mark.slow
def test_bombs_in_payloads_are_acknowledged_counted_and_harmless(site: Site, otlp_sink: OtlpSink) -> None:
    """Deep, endless, huge and lying JSON and CBOR: each is answered, stands in the ledger with a reason, and that's all."""
    child = site.start()
    bombs = attacks.bombs()
    with Publisher(port=site.mqtt) as publisher:
        quickest_s = 60.0
        for number in range(5):
            began_s = time.monotonic()
            assert attacks.publish_all(site.mqtt, bombs, client_id=b"bomber-%d" % number) == len(bombs)
            quickest_s = min(quickest_s, time.monotonic() - began_s)
        peak = child.peak_bytes
        status = settle(site, child, publisher, otlp_sink)
    assert quickest_s < 5
    assert peak < RSS_BYTES_MAX, f"{peak / 2**20:.0f} MiB"
    ledger = status["uplinks"]["cloud"]["ledger"]
    assert sum(ledger.values()) >= 5 * (len(bombs) - 8), ledger
    assert {"too_deep", "malformed_json", "malformed_cbor", "wrong_type"} <= ledger.keys(), ledger
