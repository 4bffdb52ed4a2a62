"""What was set aside is shown, on lines that nobody else can write on, and can be tried again."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from gateway.codecs import protobuf
from gateway.codecs.mapping import Mapper
from gateway.codecs.otlp import encode_log_record
from gateway.control import aside
from gateway.control.config import parse_config
from gateway.core.batch import MONOTONIC, Batch, LogRecords, ResourceRecords, Series
from gateway.core.clock import FakeClock
from gateway.core.contracts import OVERSIZE, Arrivals, Lost, Priority, Signal
from gateway.core.telemetry import Telemetry
from gateway.pipeline import Pipeline
from gateway.store.database import SetAside, Store, StoreError, StoreSettings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

NASTY = "\x1b[2J\u202e\nfake line\x00"


class Box:
    """A shelf and the pipeline before it, in a directory with a configuration."""

    def __init__(self, folder: Path) -> None:
        self.config = folder / "tide gate.toml"
        self.state_dir = folder / "state"
        self.config.write_text(
            f"[gateway]\nid = 'x'\nstate_dir = {json.dumps(str(self.state_dir))}\n"
            '[[sources]]\ntype = "mqtt_server"\nname = "direct"\nlisten = "127.0.0.1:1884"\n'
            '[[sources]]\ntype = "serial"\nname = "line1"\nport = "/dev/ttyNONE"\nframing = "lines"\n'
            '[[mappings]]\nmatch = "only/line1"\nsource = "line1"\npayload = "csv"\ncolumns = ["a"]\n'
            '[[mappings]]\nmatch = "#"\npayload = "auto"\nfields = "*"\n',
            encoding="utf-8",
        )
        self.clock = FakeClock()
        self.store: Store

    async def start(self) -> None:
        self.store = await Store.open(
            state_dir=self.state_dir, settings=StoreSettings(), clock=self.clock, uplinks=["cloud"], max_series=99,
            telemetry=Telemetry(), commit_interval_s=0,
        )  # fmt: skip

    async def arrive(self, topic: bytes, payload: bytes, *, source: str = "direct", lost: Sequence[Lost] = ()) -> None:
        mappings = parse_config(self.config.read_text(encoding="utf-8"), offline=True).mappings
        pipeline = Pipeline(
            mapper=Mapper(mappings, resolve=self.store.resolve), engine=None, store=self.store, clock=self.clock,
            telemetry=Telemetry(),
        )  # fmt: skip
        await pipeline.accept(Arrivals(source, [topic], [payload], self.clock.monotonic_ns(), lost=lost))

    async def refuse_all(self, reason: str, message: str) -> None:
        while (lease := await self.store.lease("cloud", readings_max=10_000, bytes_max=1 << 20)) is not None:
            self.store.refuse(lease, reason, message)
        await self.store.append([])

    def quarantine(self, *, limit: int = 20) -> dict[str, Any]:
        return aside.quarantine(self.state_dir, limit=limit, config=str(self.config))

    def refused(self, *, limit: int = 20) -> dict[str, Any]:
        return aside.refused(self.state_dir, limit=limit)


@pytest.fixture
async def box(tmp_path: Path) -> AsyncIterator[Box]:
    found = Box(tmp_path)
    await found.start()
    yield found
    await found.store.close()


async def test_a_payload_that_was_too_large_is_shown_and_not_tried(box: Box) -> None:
    """There is only its beginning, and no mapping can mend it."""
    await box.arrive(b"t", b'{"a": "xxx', lost=[Lost(0, OVERSIZE, "a packet of 2000 bytes; at most 1000 are taken")])
    (row,) = box.quarantine()["payloads"]
    assert (row["is_cut"], row["explain"]) == (True, "")
    shown = aside.render_quarantine(box.quarantine())
    assert "oversize: a packet of 2000 bytes; at most 1000 are taken" in shown
    assert shown.endswith('  10 bytes (the rest was not kept): {"a": "xxx')
    with pytest.raises(StoreError, match="of payload 1 only the beginning was kept, .*: a packet of 2000 bytes"):
        aside.find_quarantined(box.state_dir, row["number"])


async def test_a_payload_that_nobody_understood(box: Box) -> None:
    """When, from whom, what was wrong with it, and what it was; the newest first."""
    await box.arrive(b"plant/d1", b'{"temp": ')
    await box.arrive(b"plant/d2", b"\xa1\x61")
    found = box.quarantine()
    assert found["total"] == 2
    newest, oldest = found["payloads"]
    assert (newest["topic"], newest["payload_text"], newest["payload_hex"]) == ("plant/d2", None, "a161")
    assert (oldest["source"], oldest["reason"], oldest["payload_text"]) == ("direct", "malformed_json", '{"temp": ')
    assert oldest["time"] == "2026-09-21T14:13:20Z"
    text = aside.render_quarantine(found)
    assert text.startswith(
        "2 payloads of which not all could be used are set aside\n\n2  2026-09-21T14:13:20Z  source direct"
    )
    assert "malformed_json: " in text
    assert '9 bytes: {"temp": ' in text
    assert "2 bytes: hex a161" in text
    assert "the newest 1 of them here" in aside.render_quarantine(box.quarantine(limit=1))


PAYLOADS: list[tuple[bytes, bytes]] = [
    (b"plant/d1", b'{"temp": '),
    (b"plant/it's $HOME `id`", b'it\'s; $(reboot) `id` \\ "q"'),
    (NASTY.replace("\0", "").encode(), b'{"a"\n'),
    ("größe/\u202e".encode(), "größe".encode()),
    (b"t/\xff\xfe'\\", b"\x00\x01"),
    (b"only/line1", b"b,c"),
    (b"plant/long", b'{"a": [' + b"9, " * 20_000),
    (b"-plant", b"--help"),
    (b"plant/empty", b""),
]


@pytest.mark.parametrize(("topic", "payload"), PAYLOADS, ids=range(len(PAYLOADS)))
async def test_the_line_that_is_printed_explains_it_again(box: Box, topic: bytes, payload: bytes) -> None:
    """Pasted into a shell it says the same sentence, whatever topic and payload are made of, and nothing else runs."""
    await box.arrive(topic, payload, source="line1" if topic == b"only/line1" else "direct")
    (row,) = box.quarantine()["payloads"]
    line = row["explain"]
    assert line.isprintable()
    assert line.startswith("tidegate explain -c ")
    shell = f'tidegate() {{ {sys.executable} -m gateway "$@"; }}; {line}'
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert f"problem  {row['message']}" in done.stdout


async def test_a_long_payload_is_named_by_its_number(box: Box) -> None:
    """Nobody pastes 60 KB; what was not kept is said."""
    await box.arrive(b"t", b'{"a": [' + b"9, " * 30_000)
    found = box.quarantine()
    assert found["payloads"][0]["explain"].endswith("--quarantined 1")
    text = aside.render_quarantine(found)
    assert "  65,536 bytes (the rest was not kept): " in text
    assert max(map(len, text.splitlines())) < 600
    assert aside.find_quarantined(box.state_dir, 1).payload.startswith(b'{"a": [9, ')
    with pytest.raises(StoreError, match="no payload 7 in the quarantine"):
        aside.find_quarantined(box.state_dir, 7)


def set_aside_nastily(store: Store) -> Any:
    name = NASTY + "n" * 10_000
    return store.append([], set_aside=[SetAside(name, name.encode(), name.encode(), name, name)])


async def test_nothing_foreign_leaves_its_line(box: Box) -> None:
    """Escapes, line ends, marks that turn the direction of writing, and names of 10 kB."""
    await set_aside_nastily(box.store)
    number = box.store.resolve(Series((("device.id", NASTY),), NASTY, unit=NASTY))
    assert number is not None
    await box.store.append([(Priority.NORMAL, Batch.of(number, [1], np.ones(1)))])
    await box.refuse_all(NASTY, NASTY + "m" * 10_000)
    for text in (aside.render_quarantine(box.quarantine()), aside.render_refused(box.refused())):
        lines = text.splitlines()
        assert len(lines) < 10
        assert all(line.isprintable() and len(line) < 1200 for line in lines)
        assert not any(line.startswith("fake line") for line in lines)


async def test_what_an_uplink_refused_for_good(box: Box) -> None:
    """Which uplink, why, how many, from when to when, and the first few readings with their times repaired."""
    number = box.store.resolve(Series((("device.id", "d1"),), "temp", unit="Cel"))
    switch = box.store.resolve(Series((("device.id", "d2"),), "open", attributes=(("door", 3),)))
    assert number is not None
    assert switch is not None
    now_ns = box.clock.monotonic_ns()
    batch = Batch.join(
        [
            Batch.of(number, now_ns + np.arange(7) * 10**9, np.arange(7) + 0.5, flags=MONOTONIC),
            Batch.of(switch, [box.clock.wall_ns() - 10**9], np.array([True])),
        ]
    )
    await box.store.append([(Priority.NORMAL, batch)])
    await box.refuse_all("refused", "400: bad name")
    found = box.refused()
    (row,) = found["segments"]
    assert (found["total"], row["uplink"], row["reason"], row["message"]) == (1, "cloud", "refused", "400: bad name")
    assert (row["readings"], row["first"], row["last"]) == (8, "2026-09-21T14:13:19Z", "2026-09-21T14:13:26Z")
    assert row["examples"][1] == {
        "time": "2026-09-21T14:13:21Z", "metric": "temp", "value": 1.5, "unit": "Cel", "attributes": {"device.id": "d1"},
    }  # fmt: skip
    text = aside.render_refused(found)
    assert text.startswith("1 segment that an uplink refused for good is set aside\n\n1  2026-09-21T14:13:20Z  uplink")
    assert "  2026-09-21T14:13:20Z  temp = 0.5 Cel  (device.id=d1)\n" in text
    assert "8 readings from 2026-09-21T14:13:19Z to 2026-09-21T14:13:26Z" in text
    assert text.endswith("  … and 3 more")


async def test_refused_log_records_are_shown_by_their_text(box: Box) -> None:
    """As a person would have read them upstream."""
    number = box.store.resolve(Series((("device.id", "d1"),), "", kind="log"))
    body = encode_log_record(
        time_ns=1, observed_ns=1, severity_number=9, severity_text="INFO", body="door open", attributes=()
    )
    await box.store.append([], logs=LogRecords(np.array([number], np.uint32), np.array([10**18]), (body,)))
    await box.refuse_all("refused", "no logs here")
    assert "  2001-09-09T01:46:40Z  door open  (device.id=d1)" in aside.render_refused(box.refused())


async def test_refused_otlp_messages_are_shown_by_what_they_say(box: Box) -> None:
    """Log records by their text, spans and metrics by their names; those that cannot be read by nothing."""
    scope = {
        Signal.LOGS: protobuf.delimited(5, protobuf.text(1, "door open")),
        Signal.TRACES: protobuf.text(5, "GET /"),
        Signal.METRICS: protobuf.text(1, "temp"),
    }
    for signal, item in scope.items():
        body = protobuf.delimited(2, protobuf.delimited(2, item) + protobuf.delimited(2, b"\x0a\x09"))
        bodies = (body, b"\x0a\x09")
        records = ResourceRecords(signal, np.array([2, 1]), np.array([10**18, 0]), bodies)
        await box.store.append([], records=[(Priority.NORMAL, records)])
    await box.refuse_all("refused", "no")
    shown = aside.render_refused(box.refused())
    for what in ("door open", "GET /", "temp"):
        assert f"  2001-09-09T01:46:40Z  {what}\n  2001-09-09T01:46:40Z  \n  … and 1 more" in shown
    assert shown.count("3 readings from 2001-09-09T01:46:40Z to 2001-09-09T01:46:40Z") == 3


async def test_no_more_otlp_messages_are_shown_than_of_all_else(box: Box) -> None:
    """However many there are."""
    bodies = tuple(protobuf.delimited(2, protobuf.delimited(2, protobuf.text(5, f"span {k}")) * 2) for k in range(9))
    records = ResourceRecords(Signal.TRACES, np.full(9, 2), np.zeros(9, np.int64), bodies)
    await box.store.append([], records=[(Priority.NORMAL, records)])
    await box.refuse_all("refused", "no")
    (segment,) = box.refused()["segments"]
    assert [example["span"] for example in segment["examples"]] == ["span 0", "span 0", "span 1", "span 1", "span 2"]
    assert "18 readings, nobody knows from when" in aside.render_refused(box.refused())


async def test_without_a_clock_nobody_knows_from_when(box: Box) -> None:
    """Readings of a boot whose clock was never set."""
    await box.store.close()
    box.clock = FakeClock(wall=0, synced=False, boot="dark")
    await box.start()
    number = box.store.resolve(Series((), "t"))
    assert number is not None
    await box.store.append(
        [(Priority.NORMAL, Batch.of(number, [box.clock.monotonic_ns()], np.ones(1), flags=MONOTONIC))]
    )
    await box.arrive(b"t", b"{")
    await box.refuse_all("refused", "no")
    text = aside.render_refused(box.refused())
    assert "no clock then  uplink cloud" in text
    assert "1 reading, nobody knows from when" in text
    assert "  at an unknown time  t = 1.0" in text
    assert "1  no clock then  source direct" in aside.render_quarantine(box.quarantine())


async def test_a_refused_segment_that_is_damaged_says_so(box: Box) -> None:
    """The rest of the drawer is shown all the same."""
    await box.store._connection.execute_fetchall(
        "INSERT INTO refused VALUES (NULL, 1, 'cloud', 'refused', 'no', 5, x'00112233')"
    )
    assert "it cannot be read any more" in aside.render_refused(box.refused())


async def test_an_empty_drawer_is_said(box: Box) -> None:
    """In words, not by silence."""
    assert aside.render_quarantine(box.quarantine()) == "no payload of which not all could be used is set aside"
    assert aside.render_refused(box.refused()) == "no segment that an uplink refused for good is set aside"
