"""The demo's collector: it counts what it is sent, and its link can go."""

from __future__ import annotations

import contextlib
import gzip
import socket
import urllib.error
import urllib.request
from typing import TYPE_CHECKING

import numpy as np
import pytest

from gateway.codecs import zstd
from gateway.codecs.otlp import Marks, MetricsEncoder, encode_log_record, encode_logs_request
from gateway.core.batch import Batch, LogRecords, Series
from gateway.simulator.collector import Collector

if TYPE_CHECKING:
    from collections.abc import Iterator

SERIES = {
    1: Series((("device.id", "d1"),), "n"),
    2: Series((("device.id", "d1"),), "temperature"),
    3: Series((("device.id", "d1"),), "", kind="log"),
}


@pytest.fixture
def collector() -> Iterator[Collector]:
    one = Collector()
    yield one
    one.close()


def metrics(numbers: list[int], *, backfill: bool = False) -> bytes:
    encoder = MetricsEncoder(series=SERIES.__getitem__, gateway_attributes=(), version="0")
    count = len(numbers)
    batch = Batch.join(
        [Batch.of(1, range(1, count + 1), np.array(numbers)), Batch.of(2, range(1, count + 1), np.full(count, 20.5))]
    )
    return encoder.encode([(batch, Marks(backfill=backfill))])


def post(url: str, body: bytes, encoding: str = "") -> int:
    headers = {"content-encoding": encoding} if encoding else {}
    with urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=60) as answer:
        return int(answer.status)


@pytest.mark.parametrize(
    ("encoding", "pack"), [("", bytes), ("gzip", gzip.compress), ("zstd", lambda body: zstd.compress(body, level=1))]
)
def test_readings_are_counted(collector: Collector, encoding: str, pack) -> None:
    """However they are packed; each counter of a device by how often it came."""
    body = pack(metrics([1, 2]))
    assert post(f"{collector.endpoint}/v1/metrics", body, encoding) == 200
    assert post(f"{collector.endpoint}/v1/metrics", pack(metrics([2, 3], backfill=True)), encoding) == 200
    assert collector.seen("d1") == {1: 1, 2: 2, 3: 1}
    assert (collector.points, collector.backfill_points) == (8, 4)
    assert collector.wire_bytes >= len(body)
    assert collector.first_after_open is not None
    assert collector.first_after_open[1:] == (4, 2)


def test_findings_are_kept(collector: Collector) -> None:
    """Device and text."""
    body = encode_log_record(
        time_ns=1, observed_ns=1, severity_number=13, severity_text="WARN", body="too hot", attributes=()
    )
    records = LogRecords(np.array([3], np.uint32), np.array([1], np.int64), (body,))
    request = encode_logs_request(records, series=SERIES.__getitem__, gateway_attributes=(), version="0")
    assert post(f"{collector.endpoint}/v1/logs", request) == 200
    assert collector.findings == [("d1", "too hot")]


def test_an_empty_probe_is_no_reading(collector: Collector) -> None:
    """What only asks for the time is not the first fresh data."""
    assert post(f"{collector.endpoint}/v1/metrics", b"") == 200
    assert collector.first_after_open is None


def test_the_link_goes_and_comes_back_on_the_same_port(collector: Collector) -> None:
    """Away: connections are refused and open ones are cut. Back: what was counted is still there."""
    post(f"{collector.endpoint}/v1/metrics", metrics([1]))
    with socket.create_connection(("127.0.0.1", collector.port), timeout=60) as kept_open:
        kept_open.sendall(b"POST /v1/metrics HTTP/1.1\r\ncontent-length: 5\r\n\r\n")
        collector.close()
        collector.close()
        with contextlib.suppress(ConnectionResetError):
            assert kept_open.recv(100) == b""
    with pytest.raises(urllib.error.URLError):
        post(f"{collector.endpoint}/v1/metrics", metrics([2]))
    collector.open()
    assert collector.first_after_open is None
    post(f"{collector.endpoint}/v1/metrics", metrics([3]))
    assert set(collector.seen("d1")) == {1, 3}
    assert collector.first_after_open is not None
