"""`tidegate export`: what is held, as OTLP JSON lines in a file. Must not change the store.

A line is one ExportMetricsServiceRequest, ExportLogsServiceRequest or ExportTraceServiceRequest, as the OpenTelemetry
Collector's file exporter writes them and its otlpjsonfile receiver reads them. Segments come in the order in which
they were accepted, one after the other, a large one in several lines, so that memory stays small whatever is held.
Times are repaired as an uplink would do it, and everything says `tidegate.backfill`.

The file appears under its name when it is whole and on the medium; until then it has `.part` behind it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from gateway import __version__
from gateway.codecs.otlp_json import JsonEncoder
from gateway.core.clock import Quality
from gateway.core.contracts import Signal
from gateway.core.words import plural
from gateway.net.files import create_anew, sync_folder
from gateway.store.database import Lease, StoreError
from gateway.store.policy import Lane
from gateway.store.reading import DamagedShelfError, look_at_held
from gateway.uplinks.requests import DAMAGED, TIME_LOST, Hand, RequestBuilder

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from gateway.core.batch import Attributes
    from gateway.core.clock import Timeline
    from gateway.core.progress import Progress
    from gateway.store.reading import Held
    from gateway.store.records import LeasedSegment
    from gateway.uplinks.parts import Part

# About 200 bytes of JSON each: a line of one or two megabytes, and some ten while it is made.
LINE_READINGS_MAX: Final = 10_000


@dataclass(slots=True)
class Exported:
    """What went into the file, and what did not."""

    lines: int = 0
    readings: int = 0
    records: int = 0
    spans: int = 0
    damaged: int = 0  # segments
    timeless: int = 0  # readings
    damage: str = ""
    unreadable: str = ""

    def counted(self) -> str:
        """Return what is in the file."""
        spans = f" and {plural(self.spans, 'span')}" if self.spans else ""
        return f"{plural(self.readings, 'reading')} and {plural(self.records, 'log record')}{spans}"

    def left_out(self) -> list[str]:
        """Return sentences about what is held and not in the file."""
        said: list[str] = []
        if self.damaged:
            said.append(f"left out: {plural(self.damaged, 'damaged segment')}, which `tidegate verify` names")
        if self.timeless:
            said.append(
                f"left out: {plural(self.timeless, 'reading')}, of which nobody knows yet what time it was; "
                "what is left out stays in the store until the gateway learns it"
            )
        if self.damage:
            said.append(self.damage)
        if self.unreadable:
            said.append(f"the rest of the store was left out: {self.unreadable}")
        return said


def export(state_dir: Path, out: Path, *, attributes: Attributes, progress: Progress) -> Exported:
    """Write every held segment of `state_dir` to `out`; raise OSError for the file, StoreError for the shelf.

    `attributes` are the gateway's own, which an uplink would put on every resource.
    """
    part = out.with_name(out.name + ".part")

    def write(held: Held) -> Exported:
        result = Exported()
        with os.fdopen(create_anew(part), "wb") as file:
            for line in _Lines(held, attributes, result).all(progress):
                file.write(line)
                file.write(b"\n")
            file.flush()
            os.fsync(file.fileno())
        return result

    try:
        result = look_at_held(state_dir, write)
        part.replace(out)
    except BaseException:
        # Half a file on a stick would be taken for all of it.
        part.unlink(missing_ok=True)
        raise
    sync_folder(out.parent)
    return result


class _Clock:
    """The shelf's clocks for who cannot wait: where an uplink would wait for the time, readings are left out."""

    quality = Quality.UNSYNCED

    def __init__(self, timeline: Timeline) -> None:
        self.repair = timeline.repair


class _Lines:
    """Turns segments into lines and counts what becomes of them."""

    def __init__(self, held: Held, attributes: Attributes, result: Exported) -> None:
        self._held = held
        self._result = result
        encoder = JsonEncoder(series=held.series, gateway_attributes=attributes, version=__version__)
        self._builder = RequestBuilder(timeline=_Clock(held.timeline), encoder=encoder)

    def all(self, progress: Progress) -> Iterator[bytes]:
        """Return every line, without its end."""
        self._result.damage = self._held.damage
        try:
            for segment in progress(self._held, total=len(self._held), what="exporting"):
                yield from self._of(segment)
        except DamagedShelfError:
            # What can be salvaged is looked at next, from its beginning.
            raise
        except StoreError as error:
            self._result.unreadable = str(error)

    def _of(self, segment: LeasedSegment) -> Iterator[bytes]:
        hand = Hand(Lease("export", Lane.BACKLOG, [segment], segment.signal))
        parts = self._builder.open(hand)
        self._result.damaged += DAMAGED in hand.rejected
        self._result.timeless += hand.rejected.get(TIME_LOST, 0)
        for part in _cut(parts):
            if part.signal is Signal.METRICS:
                self._result.readings += len(part)
            elif part.signal is Signal.TRACES:
                self._result.spans += len(part)
            else:
                self._result.records += len(part)
            self._result.lines += 1
            yield self._builder.encode(part)


def _cut(parts: Iterable[Part]) -> Iterator[Part]:
    """Return the parts in their order, halved until each fits a line."""
    waiting = list(parts)[::-1]
    while waiting:
        part = waiting.pop()
        if len(part) > LINE_READINGS_MAX:
            waiting += reversed(part.halves())
        else:
            yield part
