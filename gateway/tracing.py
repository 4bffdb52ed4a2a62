"""Follows single messages through a running gateway, for who asks. Must cost nothing while nobody does.

A trace notes the next messages whose topic matches an MQTT filter: what was mapped and what came out, in which segment
it was committed, and what each uplink has done with that since. Bounded in messages, bytes and seconds, and given up
when nobody asks for it any more.
"""

from __future__ import annotations

import asyncio
import codecs
import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from gateway.codecs.apart import cut_lost, cut_users
from gateway.codecs.explain import DROPPED, iso_text, problem_text, render_readings, rows_of
from gateway.codecs.topics import Pattern
from gateway.core.clock import NS_PER_S
from gateway.core.contracts import Arrivals, Signal
from gateway.core.text import harmless, sentence
from gateway.store.records import where_from

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import TypeAlias

    from gateway.codecs.mapping import Mapper
    from gateway.core.clock import Clock
    from gateway.store.database import Lease, Store

    Fates: TypeAlias = dict[int, dict[str, tuple[str, int]]]  # by segment and uplink: what became of it, and when

TRACES_MAX: Final = 4
COUNT_MAX: Final = 100
SECONDS_MAX: Final = 600.0
FILTER_CHARS_MAX: Final = 1024
# Of all messages of one trace together, as they are shown.
BYTES_MAX: Final = 256 << 10
# Whoever asked and went away is not worth more.
UNASKED_S_MAX: Final = 15.0
CHECK_S: Final = 1.0

READINGS_SHOWN: Final = 8
PROBLEMS_SHOWN: Final = 4
SKIPPED_SHOWN: Final = 4
PAYLOAD_CHARS_MAX: Final = 160
TOPICS_KNOWN_MAX: Final = 4096
# A longer topic is looked at each time: a broker's may have 64 KB.
KNOWN_BYTES_MAX: Final = 256


@dataclass(slots=True)
class Note:
    """What is known of one message. `shown` is what `Tracer.answer` says of it; `segments` are row ids."""

    shown: dict[str, Any]
    arrived_ns: int
    made: set[tuple[int, int]]  # of which priorities and origins its readings are
    segments: list[int] = field(default_factory=list)


class Trace:
    """One trace that somebody asked for."""

    def __init__(self, topic_filter: str, *, count: int, until_s: float, now_s: float) -> None:
        self.notes: list[Note] = []
        self.until_s = until_s
        self.asked_s = now_s
        self._left = count
        self._bytes_left = BYTES_MAX
        self._pattern = Pattern(topic_filter)
        self._known: dict[bytes, bool] = {}

    @property
    def is_full(self) -> bool:
        """Whether it takes no more messages."""
        return self._left <= 0 or self._bytes_left <= 0

    def wants(self, topic: bytes) -> bool:
        """Whether a topic matches."""
        known = self._known.get(topic)
        if known is None:
            known = self._pattern.match(topic.decode(errors="replace")) is not None
            if len(topic) > KNOWN_BYTES_MAX:
                return known
            if len(self._known) >= TOPICS_KNOWN_MAX:
                self._known.clear()
            self._known[topic] = known
        return known

    def add(self, note: Note) -> None:
        """Keep what is known of a message."""
        self.notes.append(note)
        self._left -= 1
        self._bytes_left -= len(repr(note.shown))


class Noted:
    """The messages of one buffer that somebody wants to follow."""

    def __init__(self, notes: list[Note], *, store: Store, clock: Clock, fates: Fates) -> None:
        self._notes = notes
        self._store = store
        self._clock = clock
        self._fates = fates

    def kept(self) -> None:
        """Take note that the commit that holds them is on disk. Called at once when `append` returns."""
        now_ns = self._clock.monotonic_ns()
        newest = self._store.newest_segments
        written = [(segment_id, *where_from(segment_id)) for segment_id in newest]
        for note in self._notes:
            mine = [row for row in written if (row[1], newest[row[0]]) in note.made and row[2] is Signal.METRICS]
            note.segments = [segment_id for segment_id, *_ in mine]
            self._fates.update({segment_id: {} for segment_id in note.segments if segment_id not in self._fates})
            note.shown["state"] = "on disk" if mine else "nothing to keep"
            note.shown["on_disk_after_s"] = _seconds(now_ns - note.arrived_ns)
            note.shown["segments"] = [
                {"sequence": sequence, "class": priority.name.lower()} for _, priority, _, sequence in mine
            ]

    def put_off(self, why: str) -> None:
        """Take note that there was no room; they may be offered again."""
        for note in self._notes:
            note.shown["state"] = f"no room now: {why}"


class Tracer:
    """All traces. `attach` is told when there is something to note, and with None when there is not."""

    def __init__(self, *, store: Store, clock: Clock, attach: Callable[[Tracer | None], None]) -> None:
        self._store = store
        self._clock = clock
        self._attach = attach
        self._traces: dict[str, Trace] = {}
        self._fates: Fates = {}
        self._check: asyncio.TimerHandle | None = None

    async def answer(self, asked: Mapping[str, str]) -> dict[str, Any]:
        """Begin a trace (`topic`, `count`, `seconds`) or show one (`id`); raise ValueError that says what is wrong."""
        if "id" in asked:
            return await self._show(asked["id"])
        if "topic" in asked:
            return await self._show(self._begin(asked["topic"], asked.get("count", "10"), asked.get("seconds", "30")))
        return {"traces": len(self._traces)}

    def _begin(self, topic_filter: str, count: str, seconds: str) -> str:
        if len(topic_filter) > FILTER_CHARS_MAX:
            raise ValueError(f"the topic filter is longer than {FILTER_CHARS_MAX} letters")
        most, long_s = _number(count, "count", COUNT_MAX), _number(seconds, "seconds", SECONDS_MAX)
        if len(self._traces) >= TRACES_MAX:
            raise ValueError(f"{TRACES_MAX} traces run already; wait until one of them is over")
        now_s = asyncio.get_running_loop().time()
        name = secrets.token_hex(8)
        self._traces[name] = Trace(topic_filter, count=int(most), until_s=now_s + long_s, now_s=now_s)
        self._attach(self)
        self._store.settling.on_settled = self._settled
        if self._check is None:
            self._check = asyncio.get_running_loop().call_later(CHECK_S, self._look_who_is_gone)
        return name

    def _look_who_is_gone(self) -> None:
        loop = asyncio.get_running_loop()
        now_s = loop.time()
        for name, trace in list(self._traces.items()):
            if now_s > trace.until_s + UNASKED_S_MAX or now_s > trace.asked_s + UNASKED_S_MAX:
                del self._traces[name]
        watched = {
            segment_id for trace in self._traces.values() for note in trace.notes for segment_id in note.segments
        }
        for segment_id in self._fates.keys() - watched:
            del self._fates[segment_id]
        self._check = None
        if self._traces:
            self._check = loop.call_later(CHECK_S, self._look_who_is_gone)
        else:
            self._attach(None)
            self._store.settling.on_settled = None

    # What the data path says.

    def note(self, arrivals: Arrivals, *, mapper: Mapper, wall_ns: int | None) -> Noted | None:
        """Note the messages that somebody wants; None where nobody wants any."""
        now_s = asyncio.get_running_loop().time()
        notes: list[Note] = []
        open_traces = [trace for trace in self._traces.values() if now_s <= trace.until_s and not trace.is_full]
        if not open_traces:
            self._attach(None)
        for trace in open_traces:
            for index, topic in enumerate(arrivals.topics):
                if trace.is_full:
                    break
                if trace.wants(topic):
                    note = self._look(arrivals, index, mapper, wall_ns)
                    trace.add(note)
                    notes.append(note)
        return Noted(notes, store=self._store, clock=self._clock, fates=self._fates) if notes else None

    def _look(self, arrivals: Arrivals, index: int, mapper: Mapper, wall_ns: int | None) -> Note:
        """Map one message again, alone, by the mapper that mapped it: that says the same and changes nothing."""
        topic, payload, arrived_ns = arrivals.topics[index], arrivals.payloads[index], arrivals.arrived_ns
        name = topic.decode(errors="replace")
        number, tried = mapper.find(name, arrivals.source)
        taken = None if number is None else mapper.mappings[number]
        users = list(cut_users(arrivals.users, index, index + 1))
        lost = cut_lost(arrivals.lost, index, index + 1)
        alone = Arrivals(arrivals.source, [topic], [payload], arrived_ns, users=users, lost=lost)
        mapped = mapper.map(alone, wall_ns=wall_ns)
        lines: list[str] = []
        shown = 0
        arrived_wall_ns = self._store.timeline.wall_from(arrived_ns)
        for priority, batch in mapped.pieces:
            some = batch.take(slice(READINGS_SHOWN - shown))
            shown += len(some)
            series = {one: self._store.series(one) for one in some.series.tolist()}
            rows = rows_of(some, series, taken, priority, wall_ns=arrived_wall_ns, arrived_ns=arrived_ns)
            lines += render_readings(rows) if rows else []
        is_dropped = taken is not None and taken.drop and not lost
        if is_dropped:
            lines.append(DROPPED)
        malformed = [] if is_dropped else mapped.malformed
        problems = [sentence(problem_text(lost)) for lost in malformed[:PROBLEMS_SHOWN]]
        note = {
            "arrived": "" if arrived_wall_ns is None else iso_text(arrived_wall_ns - arrived_wall_ns % 1_000_000),
            "source": arrivals.source,
            "topic": name,
            "payload_bytes": len(payload),
            "payload": _payload_text(payload),
            "mapping": None if taken is None else {"index": number, "match": taken.match},
            "skipped": [
                {"match": mapper.mappings[before].match, "why": sentence(why)} for before, why in tried[:SKIPPED_SHOWN]
            ],
            "readings": mapped.readings,
            "readings_shown": shown,
            "lines": lines,
            "lost": sum(lost.readings for lost in malformed),
            "problems": problems,
            "state": "waiting for the disk",
            "segments": [],
        }
        found: dict[str, Any] = harmless(note)
        return Note(found, arrived_ns, {(int(priority), batch.origin) for priority, batch in mapped.pieces})

    def _settled(self, lease: Lease, lost: int, reason: str) -> None:
        """Hear of a lease that is settled; part of it may have been lost."""
        if not lost:
            word = "delivered"
        elif lost >= lease.readings:
            word = f"lost: {reason}"
        else:
            word = f"delivered but for {lost} of the {lease.readings} readings beside it: {reason}"
        fate = sentence(word), self._clock.monotonic_ns()
        for segment_id in lease.ids():
            if segment_id in self._fates:
                self._fates[segment_id][lease.uplink] = fate

    # What is asked.

    async def _show(self, name: str) -> dict[str, Any]:
        trace = self._traces.get(name)
        if trace is None:
            raise ValueError("there is no such trace, or it is over")
        now_s = trace.asked_s = asyncio.get_running_loop().time()
        left_s = trace.until_s - now_s
        ids = sorted({segment_id for note in trace.notes for segment_id in note.segments})
        places = await self._store.whereabouts(ids) if ids else {}
        return {
            "id": name,
            "left_s": round(max(left_s, 0.0), 1),
            "is_over": trace.is_full or left_s <= 0,
            "messages": [note.shown | {"uplinks": self._uplinks(note, places)} for note in trace.notes],
        }

    def _uplinks(self, note: Note, places: Mapping[int, Mapping[str, str]]) -> dict[str, dict[str, Any]]:
        """Return for each uplink where a message is; of several segments (it was large) the one that is least far."""
        found: dict[str, dict[str, Any]] = {}
        for segment_id in note.segments:
            for uplink, word in places.get(segment_id, {}).items():
                state: dict[str, Any] = {"state": word, "is_settled": word in {"settled", "gone", "left_out"}}
                if (fate := self._fates.get(segment_id, {}).get(uplink)) is not None:
                    after_s = _seconds(fate[1] - note.arrived_ns)
                    state = {"state": fate[0], "is_settled": True, "after_s": after_s}
                if uplink not in found or not state["is_settled"]:
                    found[uplink] = state
        return found


def _seconds(ns: int) -> float:
    return round(ns / NS_PER_S, 3)


def _number(text: str, what: str, most: float) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 1 <= number <= most:
        raise ValueError(f"{what} is a number from 1 to {most:g}")
    return number


def _payload_text(payload: bytes) -> str:
    cut = payload[: PAYLOAD_CHARS_MAX + 1]
    try:
        # The cut may go through a letter.
        text = codecs.getincrementaldecoder("utf-8")().decode(cut)
    except UnicodeDecodeError:
        text = "\0"
    if not text.replace("\n", " ").replace("\t", " ").isprintable():
        text = f"hex {cut.hex()}"
    return sentence(text, PAYLOAD_CHARS_MAX)
