"""Spans of numbers that do not meet: a few pairs of first and last. Does no I/O."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


class Spans:
    """A set of whole numbers as spans, of which there are `spans_max` at most: then the nearest two become one.

    >>> spans = Spans([(1, 4), (9, 12)], spans_max=8)
    >>> spans.add(5, 6)
    >>> [*spans], 6 in spans, 7 in spans
    ([(1, 6), (9, 12)], True, False)
    """

    def __init__(self, spans: Iterable[tuple[int, int]] = (), *, spans_max: int) -> None:
        assert spans_max > 0
        self._spans_max = spans_max
        self._firsts: list[int] = []
        self._lasts: list[int] = []
        for first, last in spans:
            if first <= last:
                self.add(first, last)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return zip(self._firsts, self._lasts, strict=True)

    def __len__(self) -> int:
        return len(self._firsts)

    def __contains__(self, number: int) -> bool:
        span = self.reaching(number)
        return span is not None and span[0] <= number

    def reaching(self, number: int) -> tuple[int, int] | None:
        """Return the first span that ends at `number` or later."""
        at = bisect_left(self._lasts, number)
        return (self._firsts[at], self._lasts[at]) if at < len(self._lasts) else None

    def beginning(self, number: int) -> tuple[int, int] | None:
        """Return the last span that begins at `number` or earlier."""
        at = bisect_right(self._firsts, number) - 1
        return (self._firsts[at], self._lasts[at]) if at >= 0 else None

    def add(self, first: int, last: int) -> None:
        """Add all from `first` to `last`."""
        assert first <= last
        begin, end = bisect_left(self._lasts, first - 1), bisect_right(self._firsts, last + 1)
        if begin < end:
            first, last = min(first, self._firsts[begin]), max(last, self._lasts[end - 1])
        self._firsts[begin:end], self._lasts[begin:end] = [first], [last]
        if len(self._firsts) > self._spans_max:
            gaps = [after - before for before, after in zip(self._lasts, self._firsts[1:], strict=False)]
            at = gaps.index(min(gaps))
            del self._firsts[at + 1], self._lasts[at]

    def forget(self, *, first: int, last: int) -> None:
        """Let go of the spans that lie between these two, ends included."""
        spans = [(begin, end) for begin, end in self if not (first <= begin and end <= last)]
        self._firsts, self._lasts = [begin for begin, _ in spans], [end for _, end in spans]
