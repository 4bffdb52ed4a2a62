"""The load generator's blocks are valid MQTT, and its arrays are what they say."""

from __future__ import annotations

import cbor2
import numpy as np

from gateway.bench.load import READINGS_PER_BATCH, build_block, slice_of
from gateway.net.mqtt import Publishes, PublishScanner


def scan(data: bytes) -> Publishes:
    (publishes,) = PublishScanner(packet_bytes_max=1 << 20).feed(data)
    assert isinstance(publishes, Publishes)
    return publishes


def test_a_block_of_json_messages_is_whole() -> None:
    """As many messages as asked for, ids counting up, cut at whole messages."""
    block = build_block(100, connection=3)
    publishes = scan(block.data)
    assert len(publishes) == block.messages == 100
    assert [int.from_bytes(i, "big") for i in publishes.packet_ids] == list(range(1, 101))
    assert block.cuts[-1] == len(block.data)
    assert len(scan(block.data[: block.cuts[1]])) == slice_of(100)


def test_a_batch_holds_eight_hundred_readings() -> None:
    """Little-endian doubles in steps of 0.01 under tag 86."""
    document = cbor2.loads(scan(build_block(2, kind="cbor").data).payloads[0])
    values = np.frombuffer(document["v"].value, "<f8")
    assert document["v"].tag == 86
    assert len(values) == READINGS_PER_BATCH
    assert np.array_equal(np.round(values, 2), values)
