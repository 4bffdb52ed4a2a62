"""OTLP messages that are laid out as one before: only times and values differ, and are taken without walking the rest.

What a program measures it measures again and again: from one export to the next, messages of gauges and sums are the
same but for eight bytes here and there. Of a message that was walked twice by its like, a layout is kept: where its
times and values stand, and all other bytes. One that has these other bytes needs not be walked. Does no I/O.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from typing import TYPE_CHECKING, Final, TypeAlias

import numpy as np

from gateway.core.batch import Batch, ValueKind

if TYPE_CHECKING:
    import numpy.typing as npt

    Key: TypeAlias = "tuple[int, bytes]"

LAYOUTS_MAX: Final = 64
# Whose messages are laid out alike is remembered with all its words, beside what layouts may take.
RESOURCE_BYTES_MAX: Final = 16 * 1024
START_TAG: Final = 0x11
AS_INT_TAG: Final = 0x31
_EIGHT: Final = np.arange(8)


class Found:
    """What stands where in one message.

    `starts` are points in the usual order (start, time, value), `numbers` their series, 0 for who is not watched; `odd`
    are points with number, where the time is or -1, where the value is, and whether it is an integer; `others` is data
    that nobody watches, from and to. `is_regular`: there was nothing else, so that what is laid out like it has the
    same.
    """

    def __init__(self) -> None:
        self.numbers = array("I")
        self.starts = array("I")
        self.odd = array("q")
        self.others = array("I")
        self.is_regular = True


class Layouts:
    """The layouts that were used last, in `bytes_max` together. Not for several threads at once."""

    def __init__(self, *, bytes_max: int) -> None:
        self.size_bytes = 0
        self._bytes_max = bytes_max
        self._layouts: OrderedDict[Key, _Layout] = OrderedDict()
        self._seen: OrderedDict[Key, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._layouts)

    def find(self, resource: bytes, body: bytes) -> Batch | None:
        """Return the points of a resource's message that is laid out as one before; None for any other."""
        key = (len(body), resource)
        layout = self._layouts.get(key)
        if layout is None:
            return None
        batch = layout.take(body)
        if batch is None:
            del self._layouts[key]
            self.size_bytes -= layout.size_bytes
        else:
            self._layouts.move_to_end(key)
        return batch

    def note(self, resource: bytes, body: bytes, found: Found) -> None:
        """Take note of a message that was walked: the next one like it is the last that is."""
        key = (len(body), resource)
        if not found.is_regular or 4 * len(body) > self._bytes_max or len(resource) > RESOURCE_BYTES_MAX:
            return
        if key not in self._seen:
            self._seen[key] = None
            if len(self._seen) > LAYOUTS_MAX:
                self._seen.popitem(last=False)
            return
        del self._seen[key]
        layout = self._layouts[key] = _Layout(body, found)
        self.size_bytes += layout.size_bytes
        while self.size_bytes > self._bytes_max or len(self._layouts) > LAYOUTS_MAX:
            _, oldest = self._layouts.popitem(last=False)
            self.size_bytes -= oldest.size_bytes

    def clear(self) -> None:
        """Forget all: numbers mean others now."""
        self._layouts.clear()
        self.size_bytes = 0


class _Layout:
    """Where times and values stand in a message, and all its other bytes."""

    def __init__(self, body: bytes, found: Found) -> None:
        tags = np.frombuffer(body, np.uint8)
        time_at, has_start = _times(tags, found)
        self._mask = np.full(len(body), 0xFF, np.uint8)
        for eights in (time_at[has_start] - 9, time_at, time_at + 9):
            self._mask[eights[:, None] + _EIGHT] = 0
        others = found.others.tolist()
        for at, end in zip(others[::2], others[1::2], strict=True):
            self._mask[at:end] = 0
        self._rest = tags & self._mask
        self._columns = columns_at(tags, found)
        self.size_bytes = 2 * len(body) + 32 * len(time_at)

    def take(self, body: bytes) -> Batch | None:
        tags = np.frombuffer(body, np.uint8)
        if not ((tags & self._mask) == self._rest).all():
            return None
        return _gather(body, *self._columns)


_Columns: TypeAlias = "tuple[npt.NDArray[np.uint32], npt.NDArray[np.intp], npt.NDArray[np.intp], npt.NDArray[np.uint8]]"


def columns_of(body: bytes, found: Found) -> Batch:
    """Return the points of a message whose series are watched; times are 0 where none is said."""
    return _gather(body, *columns_at(np.frombuffer(body, np.uint8), found))


def columns_at(tags: npt.NDArray[np.uint8], found: Found) -> _Columns:
    """Return for each point that is watched the number, where time and value stand, and of which kind it is."""
    time_at, _ = _times(tags, found)
    numbers = np.asarray(found.numbers)
    watched = np.flatnonzero(numbers)
    numbers, time_at = numbers[watched], time_at[watched]
    odd = np.asarray(found.odd).reshape(-1, 4)
    is_int = np.concatenate([tags[time_at + 8] == AS_INT_TAG, odd[:, 3] != 0])
    return (
        np.concatenate([numbers, odd[:, 0]]).astype(np.uint32),
        np.concatenate([time_at, odd[:, 1]]),
        np.concatenate([time_at + 9, odd[:, 2]]),
        np.where(is_int, ValueKind.INT, ValueKind.DOUBLE).astype(np.uint8),
    )


def _times(tags: npt.NDArray[np.uint8], found: Found) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.bool_]]:
    """Return where the time of each point in the usual order stands, and which of them say when they began."""
    starts = np.asarray(found.starts).astype(np.intp)
    has_start = tags[starts] == START_TAG
    return starts + 1 + 9 * has_start, has_start


def _gather(
    body: bytes,
    numbers: npt.NDArray[np.uint32],
    time_at: npt.NDArray[np.intp],
    value_at: npt.NDArray[np.intp],
    kinds: npt.NDArray[np.uint8],
) -> Batch:
    # Eight bytes may begin anywhere in it.
    eights = np.ndarray((max(len(body) - 7, 0),), "<i8", buffer=body, strides=(1,))
    times = eights[time_at]
    if len(time_at) and time_at.min() < 0:
        times = np.where(time_at < 0, 0, times)
    return Batch(numbers, times.astype(np.int64), eights[value_at].astype(np.int64), kinds)
