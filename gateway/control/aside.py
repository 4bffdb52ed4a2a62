"""`tidegate quarantine`: what was set aside, for people and for programs. Must not change anything.

Payloads of which not all could be used, each with the `tidegate explain` line that tries it again, and segments that an
uplink refused for good. Whatever the world sent is shown so that it cannot leave its line (core/text.py).
"""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from gateway.codecs import protobuf
from gateway.codecs.explain import iso_text
from gateway.codecs.otlp import read_log_body
from gateway.codecs.otlp_messages import first_items
from gateway.core.batch import KIND_MASK, MONOTONIC, Batch, ResourceRecords, ValueKind
from gateway.core.clock import Quality
from gateway.core.contracts import OVERSIZE, Signal
from gateway.core.text import printable
from gateway.core.words import plural
from gateway.store.drawer import SET_ASIDE_BYTES_MAX
from gateway.store.peeking import newest_quarantined, newest_refused, one_quarantined, peek
from gateway.store.records import StoreError
from gateway.store.segments import SegmentError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from gateway.core.batch import LogRecords, Series
    from gateway.core.clock import Timeline
    from gateway.core.contracts import BootId
    from gateway.store.peeking import Refused, Tables
    from gateway.store.records import Quarantined, SetAside

NAME_CHARS_MAX: Final = 200
SENTENCE_CHARS_MAX: Final = 500
PAYLOAD_CHARS_MAX: Final = 160
READINGS_SHOWN: Final = 5
# Longer ones are fetched from the shelf by their number: nobody wants to paste them.
COMMAND_BYTES_MAX: Final = 1000


def quarantine(state_dir: Path, *, limit: int, config: str) -> dict[str, Any]:
    """Return how many payloads there are and the last `limit`, the newest first; raise StoreError.

    `config` is what `explain` is given with -c in the line that tries a payload again, "" for its default.
    """
    total, rows = peek(state_dir, lambda tables: (tables.count("quarantine"), newest_quarantined(tables, limit=limit)))
    return {"total": total, "payloads": [_payload(number, row, config) for number, row in rows]}


def find_quarantined(state_dir: Path, number: int) -> SetAside:
    """Return the payload with this number; raise StoreError."""
    row = peek(state_dir, lambda tables: one_quarantined(tables, number))
    if row is None:
        raise StoreError(f"there is no payload {number} in the quarantine; `tidegate quarantine` lists those there are")
    if row.what.reason == OVERSIZE:
        raise StoreError(f"of payload {number} only the beginning was kept, so it cannot be tried: {row.what.message}")
    return row.what


def _payload(number: int, row: Quarantined, config: str) -> dict[str, Any]:
    what = row.what
    text = _as_text(what.payload)
    return {
        "number": number,
        "time": _moment(row.at_ns or None),
        "source": what.source,
        "topic": what.topic.decode(errors="replace"),
        "reason": what.reason,
        "message": what.message,
        "payload_bytes": len(what.payload),
        "is_cut": len(what.payload) >= SET_ASIDE_BYTES_MAX or what.reason == OVERSIZE,
        "payload_text": text,
        "payload_hex": what.payload.hex(),
        # Nothing can be tried again of which there is only a piece, and the source's limit is no mapping's affair.
        "explain": "" if what.reason == OVERSIZE else _explain_line(number, what, text, config),
    }


def _as_text(payload: bytes) -> str | None:
    """Return a payload that a person can read, None for any other."""
    try:
        text = payload.decode()
    except UnicodeDecodeError:
        return None
    return text if text.replace("\n", " ").replace("\t", " ").isprintable() else None


def _explain_line(number: int, what: SetAside, text: str | None, config: str) -> str:
    """Return the command that tries a payload again, ready for a shell."""
    words = ["tidegate explain", *(["-c", shlex.quote(config)] if config else [])]
    if len(what.payload) > COMMAND_BYTES_MAX or len(what.topic) > COMMAND_BYTES_MAX:
        return " ".join([*words, f"--quarantined {number}"])
    is_plain = text is not None and text.isprintable()
    payload = _option("--payload", what.payload) if is_plain else _option("--hex", what.payload.hex().encode())
    return " ".join([*words, _option("--source", what.source.encode()), _option("--topic", what.topic), payload])


def _option(name: str, value: bytes) -> str:
    return f"{name}{'=' if value.startswith(b'-') else ' '}{shell_word(value)}"


def shell_word(data: bytes) -> str:
    r"""Return `data` as one word of a shell's command line, on one line whatever it holds.

    What cannot be printed stands in $'…', which POSIX has since 2024 and bash, zsh and busybox for long.

    >>> shell_word(b"plant/d 1"), shell_word(b"a\x1b'\xff")
    ("'plant/d 1'", "$'a\\x1b\\'\\xff'")
    """
    text = data.decode(errors="surrogateescape")
    if text.isprintable():
        return shlex.quote(text)
    plain = set(range(0x20, 0x7F)) - set(b"'\\")
    return "$'" + "".join(chr(c) if c in plain else f"\\{chr(c)}" if c in b"'\\" else f"\\x{c:02x}" for c in data) + "'"


def render_quarantine(found: dict[str, Any]) -> str:
    """Return it for people."""
    payloads: list[dict[str, Any]] = found["payloads"]
    lines = [_head(found["total"], len(payloads), "payload", "of which not all could be used")]
    for row in payloads:
        payload = row["payload_text"] if row["payload_text"] is not None else f"hex {row['payload_hex']}"
        size = plural(row["payload_bytes"], "byte")
        lines += [
            "",
            f"{_number_and_time(row)}  source {_name(row['source'])}  topic {_name(row['topic'])}",
            f"  {_name(row['reason'])}: {printable(row['message'], SENTENCE_CHARS_MAX)}",
            f"  {size}{' (the rest was not kept)' if row['is_cut'] else ''}: {_cut(payload)}",
            *([f"  {row['explain']}"] if row["explain"] else []),
        ]
    return "\n".join(lines)


def _number_and_time(row: dict[str, Any]) -> str:
    return f"{row['number']}  {row['time'] or 'no clock then'}"


def _name(text: str) -> str:
    return printable(text, NAME_CHARS_MAX)


def _cut(text: str) -> str:
    shown = printable(text, PAYLOAD_CHARS_MAX)
    return f"{shown} …" if len(text) > PAYLOAD_CHARS_MAX else shown


def _head(total: int, shown: int, noun: str, what: str) -> str:
    if not total:
        return f"no {noun} {what} is set aside"
    one = total == 1
    rest = "" if shown == total else f", the newest {shown} of them here; --limit N shows more"
    return f"{total:,} {noun if one else f'{noun}s'} {what} {'is' if one else 'are'} set aside{rest}"


# What uplinks refused.


def refused(state_dir: Path, *, limit: int) -> dict[str, Any]:
    """Return how many refused segments there are and the last `limit`, the newest first; raise StoreError."""

    def look(tables: Tables) -> dict[str, Any]:
        timeline = tables.timeline()
        rows = newest_refused(tables, limit=limit)
        segments = [_segment(number, row, tables, timeline) for number, row in rows]
        return {"total": tables.count("refused"), "segments": segments}

    return peek(state_dir, look)


def _segment(number: int, row: Refused, tables: Tables, timeline: Timeline) -> dict[str, Any]:
    found: dict[str, Any] = {
        "number": number,
        "time": _moment(row.at_ns or None),
        "uplink": row.uplink,
        "reason": row.reason,
        "message": row.message,
        "readings": row.readings,
        "first": "",
        "last": "",
        "time_quality": "",
        "examples": [],
        "problem": "",
    }
    try:
        content, boot = row.open()
    except SegmentError as error:
        return found | {"problem": f"it cannot be read any more: {error}"}
    if isinstance(content, ResourceRecords):
        return found | _messages(content)
    series = [tables.series(one) for one in content.series[:READINGS_SHOWN].tolist()]
    quality = ""
    if isinstance(content, Batch):
        times, quality = _repaired(content, boot, timeline)
        examples = _readings(content, series)
    else:
        times, examples = [ns or None for ns in content.time_ns.tolist()], _logs(content, series)
    known = [ns for ns in times if ns is not None]
    return found | {
        "first": _moment(min(known, default=None)),
        "last": _moment(max(known, default=None)),
        "time_quality": quality,
        "examples": [{"time": _moment(ns), **example} for ns, example in zip(times, examples, strict=False)],
    }


def _messages(records: ResourceRecords) -> dict[str, Any]:
    """Return when OTLP messages arrived, and what the first log records say or metrics and spans are called."""
    known = [ns for ns in records.time_ns.tolist() if ns]
    examples: list[dict[str, Any]] = []
    for ns, body in zip(records.time_ns.tolist(), records.bodies, strict=True):
        left = READINGS_SHOWN - len(examples)
        examples += [
            {"time": _moment(ns or None), **_item(item, records.signal), "attributes": {}}
            for item in (_items(body, left) if left else [])
        ]
    return {
        "first": _moment(min(known, default=None)),
        "last": _moment(max(known, default=None)),
        "examples": examples,
    }


def _items(body: bytes, limit: int) -> list[bytes]:
    try:
        return first_items(body, limit)
    except ValueError:
        return []


def _item(item: bytes, signal: Signal) -> dict[str, Any]:
    if signal is Signal.LOGS:
        return {"log": read_log_body(item)}
    # Span.name and Metric.name.
    field = 5 if signal is Signal.TRACES else 1
    try:
        name = next(protobuf.messages(item, field), b"").decode(errors="replace")
    except ValueError:
        name = ""
    return {"span" if signal is Signal.TRACES else "metric": name}


def _moment(ns: int | None) -> str:
    """Return a time for people, to the millisecond; "" where it is not known."""
    return "" if ns is None else iso_text(ns - ns % 1_000_000)


def _repaired(batch: Batch, boot: BootId, timeline: Timeline) -> tuple[list[int | None], str]:
    """Return Unix ns of each reading, None where nobody knows, and how good those are that the gateway gave."""
    monotonic = (batch.flags & MONOTONIC) != 0
    times, quality = timeline.repair(batch.time_ns[monotonic], boot)
    whole = batch.time_ns.copy()
    whole[monotonic] = times
    lost = monotonic & np.bool_(quality is Quality.UNKNOWN)
    known = [None if is_lost else ns for ns, is_lost in zip(whole.tolist(), lost.tolist(), strict=True)]
    return known, quality.name.lower() if monotonic.any() else ""


def _readings(batch: Batch, series: Sequence[Series]) -> Iterator[dict[str, Any]]:
    doubles = batch.bits.view(np.float64)
    for k, about in enumerate(series):
        kind = ValueKind(int(batch.flags[k]) & KIND_MASK)
        value: object = float(doubles[k]) if kind is ValueKind.DOUBLE else int(batch.bits[k])
        yield {
            "metric": about.name,
            "value": bool(value) if kind is ValueKind.BOOL else value,
            "unit": about.unit,
            "attributes": dict((*about.resource, *about.attributes)),
        }


def _logs(records: LogRecords, series: Sequence[Series]) -> Iterator[dict[str, Any]]:
    for body, about in zip(records.bodies, series, strict=False):
        yield {"log": read_log_body(body), "attributes": dict(about.resource)}


def render_refused(found: dict[str, Any]) -> str:
    """Return it for people."""
    segments: list[dict[str, Any]] = found["segments"]
    lines = [_head(found["total"], len(segments), "segment", "that an uplink refused for good")]
    for row in segments:
        span = f" from {row['first']} to {row['last']}" if row["first"] else ", nobody knows from when"
        span += " (estimated)" if row["time_quality"] == "estimated" else ""
        lines += [
            "",
            f"{_number_and_time(row)}  uplink {_name(row['uplink'])}",
            f"  {_name(row['reason'])}: {printable(row['message'], SENTENCE_CHARS_MAX)}",
            f"  {plural(row['readings'], 'reading')}{span}",
            *([f"  {printable(row['problem'], SENTENCE_CHARS_MAX)}"] if row["problem"] else []),
            *(f"  {printable(_example(example), SENTENCE_CHARS_MAX)}" for example in row["examples"]),
        ]
        if (rest := row["readings"] - len(row["examples"])) > 0 and row["examples"]:
            lines.append(f"  … and {rest:,} more")
    return "\n".join(lines)


def _example(example: dict[str, Any]) -> str:
    unit = f" {example['unit']}" if example.get("unit") else ""
    value = f" = {example['value']}{unit}" if "value" in example else ""
    what = next(example[kind] for kind in ("log", "span", "metric") if kind in example) + value
    whose = ", ".join(f"{key}={value}" for key, value in example["attributes"].items())
    return f"{example['time'] or 'at an unknown time'}  {what}{f'  ({whose})' if whose else ''}"
