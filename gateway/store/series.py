"""The registry: series ↔ small numbers, all in memory, new ones waiting for the next commit. Does no I/O.

A series in memory is the bytes that stand on the disk. Their number and what they take is bounded, and shared out
among those who bring them (store/quota). What nobody uses is forgotten (store/uses), so that a flood, or a year of
renamed devices, heals by itself.
"""

from __future__ import annotations

import logging
import zlib
from collections import deque
from copy import copy
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Final

import msgspec
import numpy as np

from gateway.core.batch import UNKEPT, Series
from gateway.store.quota import NOBODY, Quota
from gateway.store.uses import Uses, first_enough

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import numpy.typing as npt

log = logging.getLogger("tidegate.store")

# Two entries in dicts, a number, the head of a bytes object and a row of columns, as measured with room to grow.
SERIES_BYTES: Final = 256
# Numbers are never given twice, and 32 bits have to do for ever.
NUMBER_MAX: Final = UNKEPT - 1
# The gateway's own few, like the stream of the ledger's news, find room beyond the bounds.
OWN_MAX: Final = 1024
OWN_BYTES_MAX: Final = 256 << 10
# How the row of a series ends that does not know since when it counts, which is nearly all.
NO_START: Final = b"start_ns\0"
# With less than an eighth of what one may have left, idle series are forgotten until a quarter is free.
PRESSED_SHARE: Final = 8
RELIEVED_SHARE: Final = 4
# What a series is called whose name is lost; so many are told apart in the status.
LOST_NAME: Final = "tidegate.lost_series"
LOST_MAX: Final = 4096
# Forgotten in one go: nothing else happens in these milliseconds.
ROUND_MAX: Final = 16_384


@dataclass(frozen=True, slots=True)
class SeriesBounds:
    """What series may take in memory, who shares them, and when an idle one is forgotten.

    On the disk, where they stand twice, they take less than twice `bytes_max`; the file of names, which is beside what
    the store may take, is written anew before it is longer than that.
    """

    bytes_max: int = 8 << 20
    owners: Sequence[str] = ()
    idle_s: float = 7 * 86_400.0


class SeriesRegistry:
    """Series by number and numbers by series. Numbers start at 1 and are never given twice.

    `known` are those on the disk, in order of number; segments up to `held_to` may hold them. The next commit writes
    those of them that are `unsaved`.
    """

    def __init__(
        self,
        known: Iterable[tuple[int, bytes]],
        *,
        series_max: int,
        bounds: SeriesBounds,
        next_number: int = 1,
        held_to: int = 0,
        now_s: int = 0,
        unsaved: Iterable[int] = (),
    ) -> None:
        self.refused: dict[str, int] = {}
        self.forgotten = 0
        self._lost: set[int] = set()  # numbers that were asked for and have no name any more
        self._idle_s = bounds.idle_s
        self._owners = {name: index for index, name in enumerate(dict.fromkeys(bounds.owners), start=1)}
        self._names = ("", *self._owners)
        self._counts = Quota(series_max, owners=len(self._owners))
        self._bytes = Quota(bounds.bytes_max, owners=len(self._owners))
        self._bodies: dict[int, bytes]
        self._numbers: dict[bytes, int]
        # The gateway's own sums: with one forgotten, the far side would see it begin anew.
        self._started: list[int] = []
        self._uses = Uses()
        self._unsaved = list(unsaved)
        self._leaving: deque[int] = deque()
        self._now_s = now_s
        self._fill(dict(known), held_to=held_to)
        self.next_number = max(next_number, max(self._bodies, default=0) + 1)

    def _fill(self, bodies: dict[int, bytes], *, held_to: int) -> None:
        """Take those that were found on the disk. Who brought them is seen when they are asked for again."""
        self._bodies = bodies
        self._numbers = {body: number for number, body in bodies.items()}
        self._started = [number for number, body in bodies.items() if _has_start(body)]
        sizes = np.fromiter(map(len, bodies.values()), np.int64, len(bodies)) + SERIES_BYTES
        numbers = np.fromiter(bodies, np.uint32, len(bodies))
        self._uses.fill(numbers, owner=NOBODY, sizes=sizes, now_s=self._now_s, held_to=held_to)
        self._move(NOBODY, len(bodies), int(sizes.sum()))

    def __len__(self) -> int:
        return len(self._bodies)

    def status(self) -> dict[str, object]:
        """Return what there is, what there may be, and how often somebody was turned away, by reason."""
        return {
            "series": len(self._bodies),
            "max_series": self._counts.most,
            "series_bytes": self._bytes.total,
            "max_series_bytes": self._bytes.most,
            "series_refused": dict(self.refused),
            "series_forgotten": self.forgotten,
            "series_lost": len(self._lost),
        }

    @property
    def unsaved_bytes(self) -> int:
        """About how much of the disk the next commit needs for new ones."""
        return 2 * sum(len(self._bodies[number]) for number in self._unsaved)

    def resolve(self, series: Series, owner: str = "", *, is_own: bool = False) -> int | None:
        """Return the number of `series`, a new one where it is new; None where there is no room for it.

        Why not is counted in `refused`. `is_own` is for the gateway's own words.
        """
        body = encode_series(series)
        number = self._numbers.get(body)
        index = self._owners.get(owner, NOBODY)
        if number is not None:
            if index and self._counts.taken(NOBODY):
                self._adopt(number, index)
            return number
        reason = self._obstacle(index, len(body) + SERIES_BYTES, is_own=is_own)
        if reason:
            self.refused[reason] = self.refused.get(reason, 0) + 1
            return None
        number = self.next_number
        self.next_number += 1
        self._enter(number, body, index)
        self._unsaved.append(number)
        return number

    def _obstacle(self, owner: int, size: int, *, is_own: bool) -> str:
        """Say in a word what keeps one more series out, "" if nothing does."""
        if self.next_number > NUMBER_MAX:
            return "numbers"
        counts, sizes = self._counts, self._bytes
        if counts.total >= counts.most + (OWN_MAX if is_own else 0):
            return "max_series"
        if sizes.total + size > sizes.most + (OWN_BYTES_MAX if is_own else 0):
            return "series_bytes"
        if not is_own and (counts.room(owner) < 1 or sizes.room(owner) < size):
            return "share"
        return ""

    def _enter(self, number: int, body: bytes, owner: int) -> None:
        size = len(body) + SERIES_BYTES
        self._bodies[number] = body
        self._numbers[body] = number
        if _has_start(body):
            self._started.append(number)
        self._uses.add(number, owner=owner, size=size, now_s=self._now_s)
        self._move(owner, 1, size)

    def _adopt(self, number: int, owner: int) -> None:
        """Note whose a series is that was found on the disk."""
        (place,) = self._uses.places(np.array([number], np.uint32))
        if self._uses["owner"][place] == NOBODY:
            self._uses["owner"][place] = owner
            self._move(NOBODY, -1, -int(self._uses["size"][place]))
            self._move(owner, 1, int(self._uses["size"][place]))

    def _move(self, owner: int, count: int, size: int) -> None:
        self._counts.add(owner, count)
        self._bytes.add(owner, size)

    def owner(self, number: int) -> str:
        """Return who brought a series, "" where that is not known."""
        places = self._uses.places(np.array([number], np.uint32))
        return self._names[int(self._uses["owner"][places[0]])] if len(places) else ""

    def series(self, number: int) -> Series:
        """Return the series that has `number`; for one whose row was lost to damage, a stand-in that says so.

        May be called from any thread.
        """
        body = self._bodies.get(number)
        if body is not None:
            return decode_series(body)
        if not self._lost:
            log.warning("names of series are lost to damage: their readings leave as %s", LOST_NAME)
        if len(self._lost) < LOST_MAX:
            self._lost.add(number)
        return lost_series(number)

    # What a commit writes.

    def started(self) -> list[Series]:
        """Return the sums that know since when they count, in the order of their numbers."""
        return [decode_series(self._bodies[number]) for number in self._started]

    def unsaved(self) -> list[tuple[int, bytes]]:
        """Return rows (number, body) that the next commit must write."""
        return [(number, self._bodies[number]) for number in self._unsaved]

    def body(self, number: int) -> bytes | None:
        """Return the row of a series, None where there is none (any more). May be called from any thread."""
        return self._bodies.get(number)

    def saved_numbers(self) -> npt.NDArray[np.uint32]:
        """Return the numbers of all series whose rows are on the disk, in order."""
        return np.setdiff1d(self._uses["number"], np.array(self._unsaved, np.uint32), assume_unique=True)

    @property
    def names_bytes(self) -> int:
        """What all rows come to."""
        return self._bytes.total - SERIES_BYTES * len(self._bodies)

    def saved(self, count: int) -> None:
        """Take note that the first `count` of `unsaved` are on disk."""
        del self._unsaved[:count]

    def note(self, numbers: npt.NDArray[np.uint32], *, held_to: int, now_s: int) -> None:
        """Take note that a commit put readings of `numbers`, distinct and in order, into segments up to `held_to`."""
        self._now_s = now_s
        self._uses.note(numbers, held_to=held_to, now_s=now_s)

    def hold(self, numbers: npt.NDArray[np.uint32], *, held_to: int) -> None:
        """Take note that a segment as new as that holds readings of `numbers`, distinct and in order, too."""
        self._uses.hold(numbers, held_to=held_to)

    def touch(self, numbers: npt.NDArray[np.uint32], *, now_s: int) -> None:
        """Let `numbers`, distinct and in order, count as used now."""
        self._uses.touch(numbers, now_s=now_s)

    # Forgetting.

    def forget(
        self, *, held_from: int, in_use: npt.NDArray[np.uint32], now_s: int, is_rehearsal: bool = False
    ) -> npt.NDArray[np.uint32]:
        """Forget what is idle, and under pressure what is least in use; return the numbers, in order.

        Never one that a segment from `held_from` on may hold, nor one that is `in_use` (distinct, in order): by
        readings that wait, say; nor a sum that knows since when it counts. A rehearsal only says what would go.
        """
        self._now_s = now_s
        uses = self._uses
        free = uses["held_to"] < held_from
        free[uses.places(in_use)] = False
        free[uses.places(np.array(self._started, np.uint32))] = False
        chosen, ripe = uses.ripe(free, now_s=now_s, idle_s=self._idle_s)
        if len(ripe):
            self._relieve(chosen, ripe)
        chosen[np.flatnonzero(chosen)[ROUND_MAX:]] = False
        numbers: npt.NDArray[np.uint32] = uses["number"][chosen]
        if len(numbers) and not is_rehearsal:
            self._let_go(numbers, chosen)
        return numbers

    def _relieve(self, chosen: npt.NDArray[np.bool_], ripe: npt.NDArray[np.intp]) -> None:
        """Choose as many of the `ripe` rows, in their order, as everybody's pressure asks for."""
        counts, sizes = copy(self._counts), copy(self._bytes)
        owners = self._uses["owner"]
        self._give_back(counts, sizes, np.flatnonzero(chosen))
        # Where all is scarce, those begin who have more than an equal part.
        has_more = np.array([self._has_more(owner) for owner in range(len(self._names))])
        order = ripe[np.argsort(~has_more[owners[ripe]], kind="stable")]
        needs = [_need(quota.total, quota.most - quota.total) for quota in (counts, sizes)]
        self._choose(chosen, order, needs, counts, sizes)
        for owner in self._owners.values():
            needs = [_need(quota.taken(owner), quota.room(owner)) for quota in (counts, sizes)]
            if max(needs) > 0:
                self._choose(chosen, ripe[owners[ripe] == owner], needs, counts, sizes)

    def _has_more(self, owner: int) -> bool:
        most = max(len(self._owners), 1)
        return any(quota.taken(owner) * most > quota.most for quota in (self._counts, self._bytes))

    def _choose(
        self,
        chosen: npt.NDArray[np.bool_],
        order: npt.NDArray[np.intp],
        needs: Sequence[int],
        counts: Quota,
        sizes: Quota,
    ) -> None:
        """Choose the first rows in `order` that make up for `needs`, count and bytes; give them back to the quotas."""
        left = order[~chosen[order]]
        rows = left[: first_enough(self._uses["size"][left], count=needs[0], size=needs[1])]
        chosen[rows] = True
        self._give_back(counts, sizes, rows)

    def _give_back(self, counts: Quota, sizes: Quota, rows: npt.NDArray[np.intp]) -> None:
        owners = self._uses["owner"][rows]
        number = np.bincount(owners, minlength=len(self._names)).tolist()
        # Doubles are exact far beyond what fits in memory.
        size = np.bincount(owners, self._uses["size"][rows], minlength=len(self._names)).tolist()
        for owner in range(len(self._names)):
            counts.add(owner, -number[owner])
            sizes.add(owner, -int(size[owner]))

    def _let_go(self, numbers: npt.NDArray[np.uint32], chosen: npt.NDArray[np.bool_]) -> None:
        self._give_back(self._counts, self._bytes, np.flatnonzero(chosen))
        gone = numbers.tolist()
        for number in gone:
            body = self._bodies.pop(number)
            # One that a salvage brought back may have another number beside this.
            if self._numbers.get(body) == number:
                del self._numbers[body]
        # A dict that has shrunk keeps its size until it is made anew.
        self._bodies, self._numbers = dict(self._bodies), dict(self._numbers)
        self._uses.drop(chosen)
        self.forgotten += len(gone)
        never_saved = set(self._unsaved).intersection(gone)
        self._unsaved = [number for number in self._unsaved if number not in never_saved]
        self._leaving.extend(number for number in gone if number not in never_saved)

    def leaving(self, limit: int) -> list[int]:
        """Return up to `limit` numbers of forgotten series whose rows the next commit deletes."""
        return list(islice(self._leaving, limit))

    def left(self, count: int) -> None:
        """Take note that the first `count` of `leaving` are off the disk."""
        for _ in range(count):
            self._leaving.popleft()


def _has_start(body: bytes) -> bool:
    """Whether a series knows since when it counts; hardly any does."""
    return not body.endswith(NO_START) and decode_series(body).start_ns != 0


def _need(taken: int, room: int) -> int:
    """Return how much must go so that a quarter is free, where less than an eighth is; else 0.

    >>> _need(80, 20), _need(90, 10)
    (0, 15)
    """
    most = taken + room
    return most // RELIEVED_SHARE - room if room * PRESSED_SHARE < most else 0


def lost_series(number: int) -> Series:
    """Return what stands for a series of which only the number is left: its readings still leave, marked."""
    return Series((("tidegate.series.lost", number),), LOST_NAME)


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
