"""What arrives in virtual time is read without the gateway's codecs, and what the shelf holds is added to it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from gateway.bench import virtual_time
from gateway.bench.line import Received, Receiver
from gateway.bench.plant import METRICS, Arrived, Plant, Taken
from gateway.bench.simulated import NAME, Columns, FarEnd, Rig, add_held
from gateway.codecs.otlp import NO_MARKS, MetricsEncoder
from gateway.core.clock import NS_PER_S
from gateway.core.contracts import Priority
from gateway.uplinks.settings import OtlpUplinkSettings
from hil.otlp_readings import parse_metrics

if TYPE_CHECKING:
    from pathlib import Path

STARTED_NS = 1_788_220_800 * NS_PER_S


def encode(plant: Plant, second: int, seconds: int) -> bytes:
    encoder = MetricsEncoder(
        series=plant.series.__getitem__, gateway_attributes=(("tidegate.gateway.id", "x"),), version="0"
    )
    numbers = np.arange(len(plant.series), dtype=np.uint32)
    return encoder.encode([(batch, NO_MARKS) for _, batch in plant.readings(second, seconds, numbers=numbers)])


def test_columns_are_what_the_official_classes_read() -> None:
    """Device, metric, time and bits of each reading."""
    plant = Plant({Priority.NORMAL: 3}, started_ns=STARTED_NS)
    body = encode(plant, 100, 7)
    found = [
        (device, metric, time_ns, bits)
        for device, metric, times, column in Columns(body)
        for time_ns, bits in zip(times.tolist(), column.tolist(), strict=True)
    ]
    expected = []
    for reading in parse_metrics(body):
        value = reading.value
        bits = int(np.float64(value).view(np.int64)) if isinstance(value, float) else value
        expected.append((reading.device, reading.metric, reading.time_ns, bits))
    assert found == expected
    assert len(found) == 3 * len(METRICS) * 7


def test_a_far_end_counts_bytes_by_window_and_readings_by_one(tmp_path: Path) -> None:
    """The same request twice is no news."""
    plant = Plant({Priority.NORMAL: 1}, started_ns=STARTED_NS)
    far = FarEnd(Arrived(plant, seconds=100, path=tmp_path / "arrived"), window_s=3600)
    request = Received("/v1/metrics", encode(plant, 10, 20), 1234)
    for at_s in (10.0, 3599.9, 3600.1):
        far.take(request, at_s)
    assert sorted(far.per_window.values()) == [1234, 2468]
    assert far.sums == Taken(100, 200, 0)
    assert (far.requests, far.diluted) == (3, 0)


def test_points_of_another_form_are_not_taken_for_plain_ones() -> None:
    """An answer to them would be a guess."""
    plant = Plant({Priority.NORMAL: 1}, started_ns=STARTED_NS)
    body = encode(plant, 10, 20).replace(b"\x0a\x12\x19", b"\x0a\x12\x11", 1)
    with pytest.raises(AssertionError, match="another form"):
        list(Columns(body))


def test_a_rig_delivers_and_what_it_holds_is_found_on_the_shelf(tmp_path: Path) -> None:
    """Over a line that is there for the second half; in the end each reading is in one place at least."""
    plant = Plant({Priority.CRITICAL: 1, Priority.NORMAL: 4}, started_ns=STARTED_NS)
    arrived = Arrived(plant, seconds=600, path=tmp_path / "arrived")
    far = FarEnd(arrived)

    async def main() -> dict[str, object]:
        with Receiver() as receiver:
            settings = OtlpUplinkSettings(name=NAME, endpoint=receiver.endpoint)
            async with Rig.open(
                plant, settings, receiver=receiver, far=far, rate=1e5, folder=tmp_path / "state"
            ) as rig:
                rig.start()
                for k in range(10):
                    await rig.append(60)
                    if k == 4:
                        receiver.open()
            return rig.account()

    account = virtual_time.run(main())
    there = arrived.count()
    assert 0 < there <= 600 * 25
    held = add_held(tmp_path / "state", arrived)
    assert (far.sums.wrong, held.wrong) == (0, 0)
    assert arrived.count() == account["accepted"] == 600 * 25
    assert held.new == 600 * 25 - there
