"""What a device sends, the gateway's mappings understand, with the configuration that the manuals show."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from firmware_shims.uplink import Uplink
from gateway.codecs import framing
from gateway.codecs.framing import Data, FrameReader
from gateway.codecs.mapping import Mapper, default_mappings
from gateway.codecs.mapping_settings import MappingSettings, TimeSettings
from gateway.control.reading import decode_hook
from gateway.core.batch import Batch, Series
from gateway.core.contracts import Arrivals
from gateway.sources.serial import SerialSettings

ROOT = Path(__file__).parents[2]
MANUALS = ("docs/SERIAL_PROTOCOL.md", "firmware_shims/README.md")
ARRIVED_NS = 5_000_000_000_000


def shown_config(page: str) -> dict[str, Any]:
    """Return the configuration that a manual shows."""
    (text,) = re.findall(r"```toml\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)
    return tomllib.loads(text)


class Gateway:
    """A mapper that remembers which series it was asked for."""

    def __init__(self, mappings: list[MappingSettings] | None = None) -> None:
        self.series: list[Series] = []
        self._mapper = Mapper(mappings or default_mappings(), resolve=self._resolve)

    def _resolve(self, series: Series, _: str) -> int:
        if series not in self.series:
            self.series.append(series)
        return self.series.index(series)

    def read(self, payload: bytes, topic: bytes = b"line1/chip") -> dict[str, list[tuple[float, float]]]:
        """Return (age in ms, value) of each reading by metric; nothing may be lost."""
        mapped = self._mapper.map(Arrivals("line1", [topic], [payload], ARRIVED_NS), wall_ns=None)
        assert mapped.malformed == []
        readings = Batch.join([batch for _, batch in mapped.pieces])
        ages_ms = (ARRIVED_NS - readings.time_ns) / 1e6
        found: dict[str, list[tuple[float, float]]] = {}
        for number, age_ms, value in zip(readings.series, ages_ms, readings.values(), strict=True):
            found.setdefault(self.series[number].name, []).append((float(age_ms), float(value)))
        return found


class Port:
    """A port that remembers what was written."""

    def __init__(self) -> None:
        self.sent = bytearray()

    def any(self) -> int:
        return 0

    def write(self, data: bytes) -> int:
        self.sent += data
        return len(data)


def batches(fields: list[tuple[str, str]], *, samples: int, records: int) -> list[Data]:
    """Return what a device sends that took a sample each 100 ms and then waited two seconds."""
    clock = [1000]
    port = Port()
    uplink = Uplink(port, fields, topic="chip", records=records, ticks=lambda: clock[0])
    for n in range(samples):
        uplink.sample([20 + n] * len(fields))
        clock[0] += 100
    clock[0] += 2000
    for _ in range(5):
        uplink.poll()
    messages = [framing.read_message(body) for body in FrameReader(4096).feed(bytes(port.sent))]
    return [message for message in messages if isinstance(message, Data)]


@pytest.mark.parametrize("page", MANUALS)
def test_the_mapping_in_the_manual_understands_the_batches(page: str) -> None:
    """Every value with its own age, and the device's name; a loss is told as a sum that counts up."""
    config = shown_config(page)
    mapping = msgspec.convert(config["mappings"][0], MappingSettings, dec_hook=decode_hook)
    metric = mapping.metrics[0]
    gateway = Gateway([mapping])
    fields = [
        (item.field, "i" if item.type == "int" else "f")
        for item in mapping.metrics
        if not item.field.startswith("tidegate.")
    ]
    (calm,) = batches(fields, samples=3, records=10)
    found = gateway.read(calm.payload)
    assert found[metric.name] == [(2300, 20), (2200, 21), (2100, 22)]
    assert set(found) == {item.name for item in mapping.metrics[: len(fields)]}
    assert gateway.series[0].resource == (("device.id", "chip"),)
    (full,) = batches(fields, samples=10, records=4)
    found = gateway.read(full.payload)
    assert [age for age, _ in found[metric.name]] == [2400, 2300, 2200, 2100]
    assert [value for _, value in found["tidegate.device.dropped"]] == [6] * 4
    (loss,) = [series for series in gateway.series if series.name == "tidegate.device.dropped"]
    assert loss.kind == "sum"


def test_the_source_in_the_manual_is_one() -> None:
    """As it stands there."""
    (source,) = shown_config("firmware_shims/README.md")["sources"]
    settings = msgspec.convert(source, SerialSettings, dec_hook=decode_hook)
    assert (settings.name, settings.framing) == ("line1", "cobs")


@pytest.mark.parametrize("code", "bBhHiIqQfd")
def test_every_kind_of_column_is_understood(code: str) -> None:
    """The gateway reads each typed array that a device can send."""
    mapping = MappingSettings(
        match="#",
        payload="cbor",
        time=TimeSettings(ticks="t", now="now", unit="ms"),
        fields="",
    )
    clock = [0]
    port = Port()
    uplink = Uplink(port, [("v", code)], ticks=lambda: clock[0], flush_ms=0)
    uplink.sample([7])
    for _ in range(3):
        uplink.poll()
    bodies = FrameReader(4096).feed(bytes(port.sent))
    (data,) = [message for body in bodies if isinstance(message := framing.read_message(body), Data)]
    assert np.array(Gateway([mapping]).read(data.payload)["v"])[:, 1].tolist() == [7]
