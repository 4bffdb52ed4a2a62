"""`tidegate export`: what is held comes out as OTLP JSON, once, with right times, and nothing pretends to be whole."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import stat
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from opentelemetry.proto.logs.v1.logs_pb2 import ResourceLogs
from opentelemetry.proto.metrics.v1.metrics_pb2 import ResourceMetrics
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans

from gateway.codecs.otlp import encode_log_record
from gateway.codecs.otlp_json import JsonEncoder
from gateway.control import export as export_module
from gateway.control.export import Exported, export
from gateway.core.batch import MONOTONIC, Batch, LogRecords, ResourceRecords, Series
from gateway.core.clock import NS_PER_S, FakeClock
from gateway.core.contracts import Priority, Signal
from gateway.core.progress import no_progress
from gateway.core.telemetry import Telemetry
from gateway.store.database import Store, StoreError, StoreSettings
from gateway.store.reading import DamagedShelfError
from gateway.store.records import STATE_ID

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

WALL = 1_790_000_000 * NS_PER_S


async def open_store(folder: Path, clock: FakeClock) -> Store:
    return await Store.open(
        state_dir=folder,
        settings=StoreSettings(),
        clock=clock,
        uplinks=["cloud"],
        max_series=1000,
        telemetry=Telemetry(),
        commit_interval_s=0.001,
    )


def climate(device: str, name: str = "temperature") -> Series:
    return Series((("device.id", device),), name, "Cel")


async def put(store: Store, series: Series, times: list[int], values: Any, *, flags: int = 0) -> None:
    number = store.resolve(series)
    assert number is not None
    await store.append([(Priority.NORMAL, Batch.of(number, times, np.array(values), flags=flags))])


async def put_log(store: Store, text: str, *, time_ns: int = WALL) -> None:
    number = store.resolve(Series((("device.id", "d1"),), "", kind="log"))
    assert number is not None
    body = encode_log_record(
        time_ns=time_ns, observed_ns=time_ns, severity_number=13, severity_text="WARN", body=text, attributes=()
    )
    await store.append([], logs=LogRecords(np.array([number], np.uint32), np.array([time_ns], np.int64), (body,)))


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def points(path: Path) -> list[tuple[str, str, int, float, dict[str, Any]]]:
    """Return (device, metric, time, value, scope attributes) of every point."""
    found = []
    for line in lines(path):
        for resource in line.get("resourceMetrics", []):
            attributes = {item["key"]: item["value"] for item in resource["resource"]["attributes"]}
            for scope in resource["scopeMetrics"]:
                marks = {
                    item["key"]: next(iter(item["value"].values())) for item in scope["scope"].get("attributes", [])
                }
                for metric in scope["metrics"]:
                    for point in metric["gauge"]["dataPoints"]:
                        value = point["asDouble"] if "asDouble" in point else int(point["asInt"])
                        device = attributes["device.id"]["stringValue"]
                        found.append((device, metric["name"], int(point["timeUnixNano"]), value, marks))
    return found


async def test_everything_held_comes_out_once(tmp_path: Path) -> None:
    """Metrics of every kind and log records, in the order of their arrival, marked as backfill."""
    store = await open_store(tmp_path, FakeClock())
    await put(store, climate("d1"), [WALL, WALL + 1], [20.5, 20.75])
    await put(store, climate("d2", "count"), [WALL + 2], [2**62 + 1])
    await put_log(store, "too hot")
    await store.close()
    out = tmp_path / "out.jsonl"
    result = export(tmp_path, out, attributes=(("tidegate.gateway.id", "site-7"),), progress=no_progress)
    assert (result.lines, result.readings, result.records, result.left_out()) == (3, 3, 1, [])
    marks = {"tidegate.backfill": True}
    assert points(out) == [
        ("d1", "temperature", WALL, 20.5, marks),
        ("d1", "temperature", WALL + 1, 20.75, marks),
        ("d2", "count", WALL + 2, 2**62 + 1, marks),
    ]
    (log,) = lines(out)[-1]["resourceLogs"]
    assert log["scopeLogs"][0]["logRecords"][0]["body"] == {"stringValue": "too hot"}
    assert {"key": "tidegate.gateway.id", "value": {"stringValue": "site-7"}} in log["resource"]["attributes"]
    assert sorted(path.name for path in tmp_path.glob("out*")) == ["out.jsonl"]


async def test_the_store_is_as_it_was(tmp_path: Path) -> None:
    """Exporting is looking; what was exported is still held, and may be exported again."""
    store = await open_store(tmp_path, FakeClock())
    await put(store, climate("d1"), [WALL], [20.5])
    await store.close()
    before = (tmp_path / "tidegate.db").read_bytes()
    for name in ("one", "two"):
        export(tmp_path, tmp_path / name, attributes=(), progress=no_progress)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert (tmp_path / "tidegate.db").read_bytes() == before


async def test_it_works_while_a_gateway_runs(tmp_path: Path) -> None:
    """What has been committed by then is in the file; the gateway goes on."""
    store = await open_store(tmp_path, FakeClock())
    await put(store, climate("d1"), [WALL], [20.5])
    result = export(tmp_path, tmp_path / "out", attributes=(), progress=no_progress)
    assert result.readings == 1
    await put(store, climate("d1"), [WALL + 1], [21.5])
    assert export(tmp_path, tmp_path / "out2", attributes=(), progress=no_progress).readings == 2
    await store.close()


async def test_what_was_delivered_is_not_in_it(tmp_path: Path) -> None:
    """Only what is still held."""
    store = await open_store(tmp_path, FakeClock())
    await put(store, climate("d1"), [WALL], [20.5])
    lease = await store.lease("cloud", readings_max=100, bytes_max=1 << 20)
    assert lease is not None
    store.ack(lease)
    await put(store, climate("d1"), [WALL + 1], [21.5])
    await store.close()
    export(tmp_path, tmp_path / "out", attributes=(), progress=no_progress)
    assert [value for *_, value, _ in points(tmp_path / "out")] == [21.5]


async def test_times_are_repaired_and_say_so(tmp_path: Path) -> None:
    """Stamped before the clock was right, exported after: right, and marked as repaired."""
    clock = FakeClock(wall=5 * NS_PER_S, synced=False)
    store = await open_store(tmp_path, clock)
    stamp = clock.monotonic_ns()
    await put(store, climate("d1"), [stamp], [20.5], flags=MONOTONIC)
    clock.advance(60 * NS_PER_S)
    clock.wall, clock.synced = WALL, True
    await put(store, climate("d1"), [clock.monotonic_ns()], [21.5], flags=MONOTONIC)
    await store.close()
    export(tmp_path, tmp_path / "out", attributes=(), progress=no_progress)
    found = {
        value: (time_ns, marks.get("tidegate.time.quality")) for *_, time_ns, value, marks in points(tmp_path / "out")
    }
    assert found == {20.5: (WALL - 60 * NS_PER_S, "repaired"), 21.5: (WALL, None)}


async def test_what_has_no_time_yet_stays_out_and_what_has_does_not(tmp_path: Path) -> None:
    """No clock ever: arrival-stamped readings are counted and left on the shelf; devices' own times are good."""
    clock = FakeClock(wall=5 * NS_PER_S, synced=False)
    store = await open_store(tmp_path, clock)
    await put(store, climate("d1"), [clock.monotonic_ns()], [20.5], flags=MONOTONIC)
    await put(store, climate("d2"), [WALL], [21.5])
    await store.close()
    result = export(tmp_path, tmp_path / "out", attributes=(), progress=no_progress)
    assert (result.readings, result.timeless) == (1, 1)
    assert "nobody knows yet what time it was" in result.left_out()[0]
    assert [value for *_, value, _ in points(tmp_path / "out")] == [21.5]


def damage_second(folder: Path) -> None:
    """Flip the last byte of the second segment."""
    connection = sqlite3.connect(folder / "tidegate.db")
    with connection:
        rows = connection.execute("SELECT id, body FROM shelf WHERE id < ? ORDER BY id", (STATE_ID,)).fetchall()
        body = rows[1][1][:-1] + bytes([rows[1][1][-1] ^ 1])
        connection.execute("UPDATE shelf SET body = ? WHERE id = ?", (body, rows[1][0]))
    connection.close()


async def test_a_damaged_segment_is_counted_and_left_out(tmp_path: Path) -> None:
    """The others come out."""
    store = await open_store(tmp_path, FakeClock())
    for k in range(3):
        await put(store, climate("d1"), [WALL + k], [20.5 + k])
    await store.close()
    damage_second(tmp_path)
    result = export(tmp_path, tmp_path / "out", attributes=(), progress=no_progress)
    assert (result.readings, result.damaged) == (2, 1)
    assert "left out: 1 damaged segment, which" in result.left_out()[0]
    assert [value for *_, value, _ in points(tmp_path / "out")] == [20.5, 22.5]


async def test_a_log_record_that_is_none_comes_out_as_its_bytes(tmp_path: Path) -> None:
    """And keeps nobody else back."""
    store = await open_store(tmp_path, FakeClock())
    number = store.resolve(Series((("device.id", "d1"),), "", kind="log"))
    await store.append([], logs=LogRecords(np.array([number], np.uint32), np.array([WALL], np.int64), (b"\x0a\xff",)))
    await put_log(store, "good")
    await store.close()
    result = export(tmp_path, tmp_path / "out", attributes=(), progress=no_progress)
    assert (result.lines, result.records, result.damaged) == (2, 2, 0)
    assert b'{"body":{"bytesValue":"Cv8="}}' in (tmp_path / "out").read_bytes()


async def test_otlp_messages_leave_as_they_came(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All three signals, counted each by its name; large ones take several lines."""
    monkeypatch.setattr(JsonEncoder, "messages_bytes_max", 400)
    store = await open_store(tmp_path, FakeClock())
    spans = ResourceSpans()
    for k in range(30):
        spans.scope_spans.add().spans.add(name=f"span {k}", span_id=bytes([k] * 8))
    metrics, logs = ResourceMetrics(), ResourceLogs()
    metrics.scope_metrics.add().metrics.add(name="m").gauge.data_points.add(as_int=1)
    logs.scope_logs.add().log_records.add(severity_text="x" * 999)
    for signal, count, message in ((Signal.TRACES, 30, spans), (Signal.METRICS, 1, metrics), (Signal.LOGS, 1, logs)):
        body = message.SerializeToString()
        records = ResourceRecords(signal, np.array([count]), np.array([WALL]), (body,))
        await store.append([], records=[(Priority.NORMAL, records)])
    await store.close()
    result = export(tmp_path, tmp_path / "out", attributes=(("id", 1),), progress=no_progress)
    assert (result.readings, result.records, result.spans) == (1, 1, 30)
    assert result.lines == len(lines(tmp_path / "out")) > 3
    found = [
        span
        for line in lines(tmp_path / "out")
        for resource in line.get("resourceSpans", [])
        for scope in resource["scopeSpans"]
        for span in scope["spans"]
    ]
    assert [(span["name"], span["spanId"]) for span in found] == [(f"span {k}", f"{k:02x}" * 8) for k in range(30)]


async def test_a_large_segment_takes_several_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory stays small; nothing is lost at the cuts and the order stays."""
    monkeypatch.setattr(export_module, "LINE_READINGS_MAX", 100)
    store = await open_store(tmp_path, FakeClock())
    await put(store, climate("d1"), [WALL + k for k in range(1050)], np.arange(1050.0))
    await store.close()
    result = export(tmp_path, tmp_path / "out", attributes=(), progress=no_progress)
    assert result.readings == 1050
    assert result.lines >= 11
    assert [value for *_, value, _ in points(tmp_path / "out")] == list(np.arange(1050.0))


async def test_an_empty_shelf_is_an_empty_file(tmp_path: Path) -> None:
    """Not an error."""
    await (await open_store(tmp_path, FakeClock())).close()
    assert export(tmp_path, tmp_path / "out", attributes=(), progress=no_progress) == Exported()
    assert (tmp_path / "out").read_bytes() == b""


async def test_what_is_said_to_be_in_the_file_is_on_the_stick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file before it has its name, then the name: whoever pulls the stick out has both."""
    clock = FakeClock(wall=WALL)
    store = await open_store(tmp_path / "state", clock)
    await put(store, climate("d1"), [WALL], [20.5])
    await store.close()
    stick, synced = tmp_path / "stick", []
    stick.mkdir()
    monkeypatch.setattr(os, "fsync", lambda _: synced.append([path.name for path in stick.iterdir()]))
    export(tmp_path / "state", stick / "held.jsonl", attributes=(), progress=no_progress)
    assert synced == [["held.jsonl.part"], ["held.jsonl"]]


async def test_half_a_file_is_no_file(tmp_path: Path) -> None:
    """Interrupted, it leaves nothing; while it works the name has .part behind it."""
    store = await open_store(tmp_path, FakeClock())
    await put(store, climate("d1"), [WALL], [20.5])
    await put(store, climate("d1"), [WALL + 1], [21.5])
    await store.close()

    def interrupted(items: Iterable[Any], *, total: int, what: str) -> Iterator[Any]:
        assert total == 2
        for item in items:
            yield item
            assert [path.name for path in tmp_path.glob("out*")] == ["out.part"]
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export(tmp_path, tmp_path / "out", attributes=(), progress=interrupted)
    assert list(tmp_path.glob("out*")) == []


@pytest.mark.parametrize("what", ["link", "pipe", "open to all", "hard link"])
async def test_what_lies_on_the_stick_does_not_lead_elsewhere(tmp_path: Path, what: str) -> None:
    """Whoever prepared it has its owner's files overwritten, has it wait for ever, or reads along."""
    store = await open_store(tmp_path / "state", FakeClock())
    await put(store, climate("d1"), [WALL], [20.5])
    await store.close()
    precious, part, out = tmp_path / "precious", tmp_path / "out.part", tmp_path / "out"
    precious.write_text("precious")
    precious.chmod(0o666)
    if what == "link":
        part.symlink_to(precious)
    elif what == "hard link":
        part.hardlink_to(precious)
    elif what == "pipe":
        os.mkfifo(part)
    else:
        part.touch(0o666)
        part.chmod(0o666)
    result = export(tmp_path / "state", out, attributes=(), progress=no_progress)
    assert result.readings == 1
    assert precious.read_text() == "precious"
    assert len(lines(out)) == 1
    assert out.lstat().st_mode & 0o177137 == stat.S_IFREG
    assert out.lstat().st_nlink == 1


async def test_a_shelf_that_breaks_off_is_exported_as_far_as_it_goes(tmp_path: Path) -> None:
    """What could be read is worth carrying; that it is not all is said."""
    store = await open_store(tmp_path, FakeClock())
    await put(store, climate("d1"), [WALL], [20.5])
    await store.close()

    def broken(items: Iterable[Any], *, total: int, what: str) -> Iterator[Any]:
        yield from items
        raise StoreError("tidegate.db cannot be read to its end")

    result = export(tmp_path, tmp_path / "out", attributes=(), progress=broken)
    assert result.readings == 1
    assert result.left_out() == ["the rest of the store was left out: tidegate.db cannot be read to its end"]


def test_where_there_is_no_shelf_nothing_is_written(tmp_path: Path) -> None:
    """A StoreError that says so."""
    with pytest.raises(StoreError, match="there is no"):
        export(tmp_path, tmp_path / "out", attributes=(), progress=no_progress)
    assert list(tmp_path.iterdir()) == []


async def test_a_stick_that_is_not_there_is_an_os_error(tmp_path: Path) -> None:
    """The caller says it in a sentence."""
    await (await open_store(tmp_path, FakeClock())).close()
    with pytest.raises(FileNotFoundError):
        export(tmp_path, tmp_path / "stick" / "out", attributes=(), progress=no_progress)


async def test_a_gateway_that_comes_and_goes_meanwhile(tmp_path: Path) -> None:
    """The file holds what the shelf holds afterwards, and no more than that."""
    store = await open_store(tmp_path, FakeClock())
    for second in range(40):
        await put(store, climate("d1"), [WALL + second], [float(second)])
    await store.close()
    lives = 1

    async def live() -> None:
        store = await open_store(tmp_path, FakeClock())
        while (lease := await store.lease("cloud", readings_max=1000, bytes_max=1 << 20)) is not None:
            store.ack(lease)
        for second in range(100, 130):
            await put(store, climate("d1"), [WALL + second], [float(second)])
        await store.close()

    def progress(items, *, total, what):
        nonlocal lives
        for item in items:
            yield item
            if lives:
                lives -= 1
                thread = threading.Thread(target=lambda: asyncio.run(live()))
                thread.start()
                thread.join()

    out = tmp_path / "out.jsonl"
    result = export(tmp_path, out, attributes=(), progress=progress)
    assert (result.readings, result.left_out()) == (30, [])
    assert [value for _, _, _, value, _ in points(out)] == [float(second) for second in range(100, 130)]


async def test_what_can_be_salvaged_of_a_damaged_shelf_is_exported(tmp_path: Path) -> None:
    """The box may be dead and its card all there is: what the gateway would salvage is in the file, and that it is not
    all is said."""
    store = await open_store(tmp_path, FakeClock())
    await put(store, climate("d1"), [WALL], [20.5])
    await store.close()
    path = tmp_path / "tidegate.db"
    path.write_bytes(b"\0" * 100 + path.read_bytes()[100:])
    result = export(tmp_path, tmp_path / "out", attributes=(), progress=no_progress)
    assert result.readings == 1
    (said,) = result.left_out()
    assert said.startswith(
        "tidegate.db is damaged (this is no SQLite database): 1 segment with 1 reading can be salvaged"
    )
    assert [value for *_, value, _ in points(tmp_path / "out")] == [20.5]


async def test_damage_that_shows_while_it_is_read_begins_anew(tmp_path: Path) -> None:
    """Nothing is in the file twice."""
    store = await open_store(tmp_path, FakeClock())
    await put(store, climate("d1"), [WALL], [20.5])
    await store.close()
    looks = 0

    def broken(items: Iterable[Any], *, total: int, what: str) -> Iterator[Any]:
        nonlocal looks
        looks += 1
        yield from items
        if looks == 1:
            raise DamagedShelfError(tmp_path / "tidegate.db", "malformed")

    result = export(tmp_path, tmp_path / "out", attributes=(), progress=broken)
    assert (looks, result.readings) == (2, 1)
    assert "is damaged (malformed)" in result.left_out()[0]
