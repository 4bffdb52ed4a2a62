"""The registry: series ↔ small numbers, all in memory, new ones waiting for the next commit. Does no I/O."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

import msgspec

from gateway.core.batch import Series

if TYPE_CHECKING:
    from collections.abc import Iterable


class SeriesRegistry:
    """At most `series_max` series. Numbers start at 1 and are never given twice."""

    def __init__(self, known: Iterable[tuple[int, Series]], *, series_max: int, next_number: int = 1) -> None:
        self._series_max = series_max
        self._by_number = dict(known)
        self._by_series = {series: number for number, series in self._by_number.items()}
        self.next_number = max(next_number, max(self._by_number, default=0) + 1)
        self._unsaved: list[int] = []

    def __len__(self) -> int:
        return len(self._by_number)

    def resolve(self, series: Series) -> int | None:
        """Return the number of `series`, a new one where it is new; None when there are `series_max` of them."""
        number = self._by_series.get(series)
        if number is not None:
            return number
        if len(self._by_number) >= self._series_max:
            return None
        number = self.next_number
        self.next_number += 1
        self._by_number[number] = series
        self._by_series[series] = number
        self._unsaved.append(number)
        return number

    def series(self, number: int) -> Series:
        """Return the series that has `number`; for one whose row was lost to damage, a stand-in that says so."""
        known = self._by_number.get(number)
        return known if known is not None else lost_series(number)

    def unsaved(self) -> list[tuple[int, bytes]]:
        """Return rows (number, body) that the next commit must write."""
        return [(number, encode_series(self._by_number[number])) for number in self._unsaved]

    def saved(self, count: int) -> None:
        """Take note that the first `count` of `unsaved` are on disk."""
        del self._unsaved[:count]


def lost_series(number: int) -> Series:
    """Return what stands for a series of which only the number is left: its readings still leave, marked."""
    return Series((("tidegate.series.lost", number),), "tidegate.lost_series")


def encode_series(series: Series) -> bytes:
    """Return CRC-32 and MessagePack: a flipped bit does not rename a sensor, and NaN stays NaN."""
    body = msgspec.msgpack.encode(series)
    return zlib.crc32(body).to_bytes(4, "little") + body


def decode_series(data: bytes) -> Series:
    """Read what `encode_series` wrote; raise ValueError.

    >>> decode_series(encode_series(Series((("device.id", "d1"),), "temperature", "Cel"))).name
    'temperature'
    """
    if not isinstance(data, bytes):
        raise ValueError("a series is no blob")  # noqa: TRY004  the same to callers: a damaged row
    if zlib.crc32(data[4:]).to_bytes(4, "little") != data[:4]:
        raise ValueError("a series' checksum does not match")
    return msgspec.msgpack.decode(data[4:], type=Series)
