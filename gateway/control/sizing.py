"""How long a disk and a link last: the arithmetic behind `tidegate size`. Must not read anything of this machine."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Final

from gateway.core.units import SIZE_UNITS, Duration, Rate, Size
from gateway.core.words import amount, span

if TYPE_CHECKING:
    from gateway.control.settings import Config
    from gateway.control.ways import Way

# Measured by `tidegate bench`: a decimal reading on the wire in minute batches with zstd.
WIRE_BYTES_PER_READING: Final = 2.5
# A commit of many readings keeps each in so much. Times, series and widths that few readings share cost more each, and
# a segment has a header, a row and its part of pages that are not full.
SHELF_BYTES_PER_READING: Final = 2.0
SHELF_BYTES_SHARED: Final = 20.0
SHELF_BYTES_PER_SEGMENT: Final = 450.0
# That of every board.
COMMIT_INTERVAL_S: Final = 1.0
DISK: Final = "512MiB"

DAY_S: Final = 86400.0
_RATE: Final = re.compile(r"\s*(\d{1,12}(?:\.\d{1,6})?)\s*(?:/|per\s+)(s|m|min|h|d)\s*")
_RATE_S: Final = {"s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": DAY_S}
_LINK: Final = re.compile(r"\s*(\d{1,12}(?:\.\d{1,6})?)\s*(bit|kbit|Mbit|Gbit)/s\s*")


def parse_rate(text: str) -> float:
    """Return readings per second from "200/s", "12/min" or "5000/h".

    >>> parse_rate("120/min")
    2.0
    """
    match = _RATE.fullmatch(text)
    if match is None:
        raise ValueError(f'{text!r} is not a rate of readings; write a number per time, like "200/s" or "12/min"')
    return _some(text, float(match[1]) / _RATE_S[match[2]])


def parse_link(text: str) -> float:
    """Return bytes per second from "64kbit/s" or a daily allowance like "20MiB/d".

    >>> parse_link("64kbit/s")
    8000.0
    """
    if _LINK.fullmatch(text):
        return _some(text, float(Rate.parse(text)))
    amount, _, per = text.rpartition("/")
    if amount and per.strip() in _RATE_S:
        return _some(text, Size.parse(amount) / _RATE_S[per.strip()])
    units = ", ".join(SIZE_UNITS)
    raise ValueError(f'{text!r} is not a link; write "64kbit/s" or an allowance like "20MiB/d" (sizes in {units})')


def _some(text: str, per_s: float) -> float:
    if not per_s:
        raise ValueError(f"{text!r} is nothing; give more than that")
    return per_s


@dataclass(frozen=True, slots=True)
class Sizing:
    """What was asked and what follows; bytes, seconds, readings per second.

    `ways` are those of each uplink of a configuration: it fits where each of them has one that is wide enough.
    """

    rate: float
    outage_s: float
    disk_bytes: int
    link_bytes_per_s: float
    commit_interval_s: float = COMMIT_INTERVAL_S
    wire_bytes_per_reading: float = WIRE_BYTES_PER_READING
    ways: tuple[tuple[Way, ...], ...] = ()

    @property
    def shelf_bytes_per_reading(self) -> float:
        """What a reading takes on the shelf, with its part of its segment: the fewer share one, the more."""
        readings = max(1.0, self.rate * self.commit_interval_s)
        shared = SHELF_BYTES_SHARED / math.sqrt(readings) + SHELF_BYTES_PER_SEGMENT / readings
        return SHELF_BYTES_PER_READING + shared

    @property
    def outage_bytes(self) -> float:
        """Room that the outage takes on the shelf."""
        return self.rate * self.outage_s * self.shelf_bytes_per_reading

    @property
    def disk_lasts_s(self) -> float:
        """How long the shelf takes everything with no uplink."""
        return self.disk_bytes / (self.rate * self.shelf_bytes_per_reading)

    @property
    def link_needs_bytes_per_s(self) -> float:
        """What live data takes of the link."""
        return self.rate * self.wire_bytes_per_reading

    @property
    def drain_s(self) -> float:
        """How long the backlog of the outage takes beside live data; infinite where the link is too thin."""
        spare = self.link_bytes_per_s - self.link_needs_bytes_per_s
        if spare <= 0:
            return float("inf")
        return self._backlog_bytes / spare

    @property
    def fits(self) -> bool:
        """Whether the disk does, and the link where one is given."""
        return (
            self.outage_bytes <= self.disk_bytes
            and (not self.link_bytes_per_s or self.drain_s != float("inf"))
            and all(any(self._drain_s(way) != float("inf") for way in ways) for ways in self.ways)
        )

    @property
    def _backlog_bytes(self) -> float:
        return self.rate * self.outage_s * self.wire_bytes_per_reading

    def _drain_s(self, way: Way) -> float:
        return way.drain_s(self.link_needs_bytes_per_s, self._backlog_bytes)

    def lines(self) -> list[str]:
        """Say it in sentences."""
        disk = "fits" if self.outage_bytes <= self.disk_bytes else "does NOT fit"
        takes = f"{self.rate:g} readings/s for {span(self.outage_s)} take {amount(self.outage_bytes)} in the store"
        lines = [f"{takes}: {disk} in {amount(self.disk_bytes)}, which lasts {span(self.disk_lasts_s)}."]
        if self.link_bytes_per_s:
            needs = f"Live data takes {amount(self.link_needs_bytes_per_s * DAY_S)} a day of the link's "
            needs += f"{amount(self.link_bytes_per_s * DAY_S)}"
            if self.drain_s == float("inf"):
                lines.append(f"{needs}: the link is too thin, the backlog would never drain.")
            else:
                lines.append(f"{needs}; the backlog of the outage drains in {span(self.drain_s)} beside it.")
        for way in chain.from_iterable(self.ways):
            lines += way.lines(self.link_needs_bytes_per_s, self._backlog_bytes)
        lines.append(
            f"Reckoned with a commit each {span(self.commit_interval_s)}, which is "
            f"{self.shelf_bytes_per_reading:.3g} bytes a reading in the store, and {self.wire_bytes_per_reading:g} on "
            "the wire; fewer commits and larger batches take less."
        )
        return lines


def size_up(
    *, rate: str, outage: str, disk: str, link: str = "", commit_interval: str = "1s", config: Config | None = None
) -> Sizing:
    """Return what follows from what was typed, and from a configuration where one is given; raise ValueError."""
    ways: tuple[tuple[Way, ...], ...] = ()
    if config is not None:
        from gateway.control.ways import ways_of  # noqa: PLC0415  only for who has one

        ways = tuple(tuple(ways_of(config, uplink)) for uplink in config.uplinks if hasattr(uplink, "links"))
        disk = disk or str(config.store.max_bytes)
        commit_interval = commit_interval or str(config.store.commit_interval or Duration(COMMIT_INTERVAL_S))
    return Sizing(
        rate=parse_rate(rate),
        outage_s=float(Duration.parse(outage)),
        disk_bytes=int(Size.parse(disk or DISK)),
        link_bytes_per_s=parse_link(link) if link else 0.0,
        commit_interval_s=float(Duration.parse(commit_interval)) if commit_interval else COMMIT_INTERVAL_S,
        ways=ways,
    )
