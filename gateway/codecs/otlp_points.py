"""Number points of OTLP metrics as columns, for who watches them: gauges and sums, read where they stand in a message.

A message stays as it is: of a point it is only noted where it begins, and which series it is of. All times and values
of a message are then taken at once. Encoders write the fields of a point in the order of their numbers:

| bytes | content                                                             |
| ----- | ------------------------------------------------------------------- |
| 1 + 8 | `11`, start_time_unix_nano; without it where nobody says            |
| 1 + 8 | `19`, time_unix_nano                                                |
| 1 + 8 | `21`, as_double, or `31`, as_int                                    |
| rest  | attributes (7): the same bytes in every point of a series           |

So the rest is looked up as it stands, in what is known of its metric, and nothing of it is read; where a whole message
is as one before but for times and values (otlp_layouts), not even that. What is ordered otherwise, has exemplars or is
new is read field by field. Two messages may say the same series in different words, by the order of its attributes or
of its resource's: that is seen once, when the words are new.

A series is resource, scope (its name and attributes; an update changes its version), name, unit, kind and the point's
attributes. A point without a value, or with the flag that says so, is none. Does no I/O, and must not keep a message.
"""

from __future__ import annotations

import hashlib
import struct
from functools import lru_cache
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

import numpy as np

from gateway.codecs import protobuf
from gateway.codecs.otlp_layouts import AS_INT_TAG, START_TAG, Found, Layouts, columns_of
from gateway.core.batch import UNKEPT, Batch, Series

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import numpy.typing as npt

    from gateway.core.batch import Attributes, AttributeValue

# What texts of a resource, a scope, a metric or a point may have to be remembered.
WORDS_BYTES_MAX: Final = 16 * 1024
# What one more of them takes in memory beside its bytes, and what a series takes beside that (measured).
WORDS_BYTES: Final = 400
ENTRY_BYTES: Final = 160
SERIES_BYTES: Final = 240
SERIES_MAX: Final = 2**20
# What layouts of whole messages may take of all.
LAYOUTS_SHARE: Final = 4
# Whoever said nothing for so long makes room for others.
IDLE_S: Final = 600
UNWATCHED: Final = 0
# Instead of a number too: there was no room for it.
LEFT_OUT: Final = 1

_GAUGE: Final = 5
_SUM: Final = 7
_KINDS: Final[dict[int, Literal["gauge", "sum"]]] = {_GAUGE: "gauge", _SUM: "sum"}
_DATA: Final = frozenset({5, 7, 9, 10, 11})
_POINT: Final = 0x0A
_TIME: Final = 0x19
_VALUES: Final = (0x21, AS_INT_TAG)
_AS_INT: Final = 6
_ATTRIBUTES: Final = 7
_FLAGS: Final = 8
# Time and value, each behind its tag.
_NUMBER_BYTES: Final = 18
_FIRST: Final = frozenset({1})
_SECOND: Final = frozenset({2})


class _Resource:
    """A Resource message, and what is known of its scopes."""

    __slots__ = ("body", "is_kept", "scopes")

    def __init__(self, body: bytes, *, is_kept: bool) -> None:
        self.body = body
        self.is_kept = is_kept
        self.scopes: dict[bytes, _Scope] = {}


class _Scope:
    """An InstrumentationScope message, and what is known of its metrics."""

    __slots__ = ("body", "is_kept", "metrics", "resource")

    def __init__(self, resource: _Resource, body: bytes, *, is_kept: bool) -> None:
        self.resource = resource
        self.body = body
        self.is_kept = is_kept
        self.metrics: dict[bytes, _Metric] = {}


class _Metric:
    """What stays the same in a metric, and the series' number for each point's attributes; none if nobody watches it.

    One that nobody watches for its attributes is UNWATCHED.
    """

    __slots__ = ("kind", "name", "numbers", "scope", "unit")

    def __init__(self, scope: _Scope, kind: Literal["gauge", "sum"], name: str, unit: str, *, is_wanted: bool) -> None:
        self.scope = scope
        self.kind = kind
        self.name = name
        self.unit = unit
        self.numbers: dict[bytes, int] | None = {} if is_wanted else None


class _Known(NamedTuple):
    """A series that has a number: its metric, its attributes as they came first, and its name in 64 bits."""

    metric: _Metric
    attributes: bytes
    identity: int


class Points:
    """Series of what came lately, each with a number from UNKEPT on, and the columns of messages.

    `wants_named(name, unit)` and `wants(series)` say what somebody watches; all else is passed over. At most
    `series_max` series are known, and of all that is known `bytes_max`, layouts included: who finds no room is counted
    in `over_limit`, in points, until `make_room` lets go of the idle. Not for several threads at once.
    """

    def __init__(
        self,
        *,
        wants_named: Callable[[str, str], bool],
        wants: Callable[[Series], bool],
        series_max: int,
        bytes_max: int,
    ) -> None:
        self.over_limit = 0
        self.size_bytes = 0
        self.series_max = min(series_max, SERIES_MAX)
        self.bytes_max = bytes_max - bytes_max // LAYOUTS_SHARE
        self._wants_named = wants_named
        self._wants = wants
        self._resources: dict[bytes, _Resource] = {}
        self._known: list[_Known | None] = []
        self._free: list[int] = []
        self._by_identity: dict[int, int] = {}
        self._spoke_s = np.empty(0, np.int64)
        self._now_s = 0
        self._layouts = Layouts(bytes_max=bytes_max // LAYOUTS_SHARE)

    def __len__(self) -> int:
        return len(self._by_identity)

    @property
    def is_full(self) -> bool:
        """Whether nobody who is new finds room."""
        return len(self) >= self.series_max or self.size_bytes >= self.bytes_max

    def series(self, number: int) -> Series:
        """Return the series that has a number."""
        known = self._known[number - UNKEPT]
        assert known is not None, number
        return _series(known.metric, known.attributes)

    def resource(self, number: int) -> bytes:
        """Return the Resource message of a series, as it came."""
        known = self._known[number - UNKEPT]
        assert known is not None, number
        return known.metric.scope.resource.body

    def read(self, bodies: Iterable[bytes], *, now_s: int) -> Batch:
        """Return the points of well-formed ResourceMetrics messages that somebody watches, of each series by time.

        Times are as they are said, 0 where nothing is. Raises ValueError for what is no message.
        """
        self._now_s = now_s
        return self._join([self._read(body) for body in bodies], now_s=now_s)

    def read_known(self, bodies: Iterable[bytes], *, now_s: int) -> Batch | None:
        """Return the same where that takes hardly any time, since all is laid out as before; None where it is not."""
        parts: list[Batch] = []
        for body in bodies:
            batch = self._layouts.find(_first(body, 0, len(body)), body)
            if batch is None:
                return None
            parts.append(batch)
        return self._join(parts, now_s=now_s)

    def _join(self, parts: list[Batch], *, now_s: int) -> Batch:
        batch = Batch.join([part for part in parts if len(part)])
        slots = batch.series - np.uint32(UNKEPT)
        self._spoke_s[slots] = now_s
        if len(batch) > 1 and not (slots[1:] > slots[:-1]).all():
            return batch.take(np.lexsort((batch.time_ns, slots)))
        return batch

    def make_room(self, *, now_s: int) -> npt.NDArray[np.uint32]:
        """Forget who said nothing for long, and whom nobody watches; return the numbers that are free now, in order."""
        gone: list[int] = []
        for slot, (known, spoke_s) in enumerate(zip(self._known, self._spoke_s.tolist(), strict=False)):
            if known is not None and spoke_s < now_s - IDLE_S:
                del self._by_identity[known.identity]
                self._known[slot] = None
                gone.append(slot)
        self._free += gone
        self._layouts.clear()
        kept = {slot for slot, known in enumerate(self._known) if known is not None}
        self.size_bytes = SERIES_BYTES * len(kept)
        self._resources = {
            body: resource for body, resource in self._resources.items() if self._keep(body, resource, kept)
        }
        return np.array(gone, np.uint32) + np.uint32(UNKEPT)

    def _keep(self, body: bytes, resource: _Resource, kept: set[int]) -> bool:
        """Take out of a resource what is not of `kept`; return whether anything is left, and count that."""
        for key, scope in list(resource.scopes.items()):
            for head, metric in list(scope.metrics.items()):
                numbers = {words: one for words, one in (metric.numbers or {}).items() if one - UNKEPT in kept}
                metric.numbers = numbers
                if numbers:
                    self.size_bytes += WORDS_BYTES + len(head) + sum(ENTRY_BYTES + len(words) for words in numbers)
                else:
                    del scope.metrics[head]
            if scope.metrics:
                self.size_bytes += WORDS_BYTES + len(key)
            else:
                del resource.scopes[key]
        self.size_bytes += WORDS_BYTES + len(body) if resource.scopes else 0
        return bool(resource.scopes)

    def _read(self, body: bytes) -> Batch:
        resource = _first(body, 0, len(body))
        batch = self._layouts.find(resource, body)
        if batch is None:
            found = Found()
            self._walk(resource, body, found)
            self._layouts.note(resource, body, found)
            batch = columns_of(body, found)
        return batch

    def _walk(self, words: bytes, body: bytes, found: Found) -> None:
        resource = self._resources.get(words)
        if resource is None:
            resource = _Resource(words, is_kept=self._may_remember(words))
            if resource.is_kept:
                self._resources[words] = resource
        for at, end in protobuf.inside(body, 0, len(body), _SECOND):
            words = _first(body, at, end)
            scope = resource.scopes.get(words)
            if scope is None:
                scope = _Scope(resource, words, is_kept=resource.is_kept and self._may_remember(words))
                if scope.is_kept:
                    resource.scopes[words] = scope
            for start, stop in protobuf.inside(body, at, end, _SECOND):
                self._read_metric(body, start, stop, scope, found)

    def _may_remember(self, words: bytes) -> bool:
        """Whether there is room for words; they count from then on."""
        if self.size_bytes >= self.bytes_max or len(words) > WORDS_BYTES_MAX:
            return False
        self.size_bytes += WORDS_BYTES + len(words)
        return True

    def _read_metric(self, body: bytes, start: int, stop: int, scope: _Scope, found: Found) -> None:
        for number, kind, begin, at, end in protobuf.spans(body, start, stop):
            if number not in _DATA or kind != protobuf.LENGTH_DELIMITED:
                continue
            if number not in _KINDS:
                found.others.extend((at, end))
            else:
                # All that is beside the data, and which kind it is.
                words = body[start : begin + 1] + body[end:stop]
                metric = scope.metrics.get(words)
                if metric is None:
                    metric = self._meet(scope, _KINDS[number], body[start:begin] + body[end:stop])
                    if scope.is_kept and self._may_remember(words):
                        scope.metrics[words] = metric
                    elif metric.numbers is not None:
                        self.over_limit += protobuf.count(body, at, end, 1)
                        found.is_regular = False
                        return
                if metric.numbers is None:
                    found.others.extend((at, end))
                else:
                    self._read_points(body, at, end, metric, found)
            # One metric has one kind of data.
            return

    def _meet(self, scope: _Scope, kind: Literal["gauge", "sum"], words: bytes) -> _Metric:
        name, unit = _text(words, 1), _text(words, 3)
        return _Metric(scope, kind, name, unit, is_wanted=self._wants_named(name, unit))

    def _read_points(self, body: bytes, at: int, end: int, metric: _Metric, found: Found) -> None:
        """Note where the points of a metric stand."""
        numbers = metric.numbers
        assert numbers is not None
        add_number, add_start = found.numbers.append, found.starts.append
        while at < end:
            # A length has one byte or two.
            is_point = at + 2 < end and body[at] == _POINT
            if is_point and body[at + 1] < 0x80:
                start, stop = at + 2, at + 2 + body[at + 1]
            elif is_point and body[at + 2] < 0x80:
                start = at + 3
                stop = start + (body[at + 1] & 0x7F | body[at + 2] << 7)
            else:
                number, wire_type, _, start, stop = next(protobuf.spans(body, at, end))
                if number != 1 or wire_type != protobuf.LENGTH_DELIMITED:
                    at = stop
                    continue
            at = stop
            if stop > end:
                raise ValueError(f"a point ends {stop - end} bytes behind its metric")
            if stop - start >= _NUMBER_BYTES:
                place = start + 9 if body[start] == START_TAG else start
                if stop - place >= _NUMBER_BYTES and body[place] == _TIME and body[place + 9] in _VALUES:
                    known = numbers.get(body[place + _NUMBER_BYTES : stop], LEFT_OUT)
                    if known != LEFT_OUT:
                        add_number(known)
                        add_start(start)
                        continue
            self._read_point(body, start, stop, metric, found)

    def _read_point(self, body: bytes, start: int, stop: int, metric: _Metric, found: Found) -> None:
        """Read a point field by field."""
        found.is_regular = False
        attributes: list[bytes] = []
        time_at = value_at = -1
        is_int = has_none = False
        for number, wire_type, begin, at, end in protobuf.spans(body, start, stop):
            if number == _ATTRIBUTES and wire_type == protobuf.LENGTH_DELIMITED:
                attributes.append(body[begin:end])
            elif wire_type == protobuf.FIXED64 and number in {3, 4, _AS_INT}:
                if number == 3:
                    time_at = at
                else:
                    value_at, is_int = at, number == _AS_INT
            elif number == _FLAGS and wire_type == protobuf.VARINT:
                # FLAG_NO_RECORDED_VALUE, the lowest bit.
                has_none = bool(body[at] & 1)
        if value_at < 0 or has_none:
            return
        known = self._number(metric, b"".join(attributes))
        if known == LEFT_OUT:
            self.over_limit += 1
        elif known:
            found.odd.extend((known, time_at, value_at, is_int))

    def _number(self, metric: _Metric, words: bytes) -> int:
        """Return the number of a metric's series with attributes in such words, UNWATCHED or LEFT_OUT if it has none.

        What it is is remembered: asking who watches it takes ten times as long as all else.
        """
        assert metric.numbers is not None
        known = metric.numbers.get(words)
        if known is not None:
            return known
        if self.size_bytes >= self.bytes_max or len(words) > WORDS_BYTES_MAX:
            return LEFT_OUT
        series = _series(metric, words)
        number = UNWATCHED
        if self._wants(series):
            identity = int.from_bytes(hashlib.blake2b(repr(series).encode(), digest_size=8).digest(), "little")
            number = self._by_identity.get(identity, UNWATCHED)
            if not number:
                is_room = len(self) < self.series_max
                number = self._enter(_Known(metric, words, identity)) if is_room else LEFT_OUT
        metric.numbers[words] = number
        self.size_bytes += ENTRY_BYTES + len(words)
        return number

    def _enter(self, known: _Known) -> int:
        """Return a number for a series that is new."""
        slot = self._free.pop() if self._free else len(self._known)
        if slot == len(self._known):
            self._known.append(known)
            if slot == len(self._spoke_s):
                self._spoke_s = np.concatenate([self._spoke_s, np.zeros(max(64, slot), np.int64)])
        self._known[slot] = known
        self._spoke_s[slot] = self._now_s
        self._by_identity[known.identity] = UNKEPT + slot
        self.size_bytes += SERIES_BYTES
        return UNKEPT + slot


def _first(data: bytes, at: int, end: int) -> bytes:
    """Return what stands in the first field of number 1; nothing if there is none.

    >>> _first(protobuf.text(2, "b") + protobuf.text(1, "a"), 0, 6)
    b'a'
    """
    start, stop = next(protobuf.inside(data, at, end, _FIRST), (0, 0))
    return data[start:stop]


def _text(data: bytes, field: int) -> str:
    return next(protobuf.messages(data, field), b"").decode("utf-8", "replace")


def _series(metric: _Metric, words: bytes) -> Series:
    """Return the series of a metric whose points have attributes in such words."""
    scope = metric.scope
    more = _read_shared(scope.body, 3)
    name = _text(scope.body, 1)
    return Series(
        _read_shared(scope.resource.body, 1),
        metric.name,
        metric.unit,
        metric.kind,
        read_attributes(words, _ATTRIBUTES),
        f"{name} {more}" if more else name,
    )


def read_attributes(message: bytes, field: int) -> Attributes:
    """Return attributes in the order of their keys; of several with one key the last, of lists and maps a short name.

    >>> pair = protobuf.text(1, "k") + protobuf.delimited(2, protobuf.integer(3, -1))
    >>> read_attributes(protobuf.delimited(7, pair), 7)
    (('k', -1),)
    """
    found: dict[str, AttributeValue] = {}
    for pair in protobuf.messages(message, field):
        found[_text(pair, 1)] = read_value(next(protobuf.messages(pair, 2), b""))
    return tuple(sorted(found.items(), key=lambda item: item[0]))


# The same for all series of a program.
_read_shared: Final = lru_cache(16)(read_attributes)


def read_value(message: bytes) -> AttributeValue:
    """Return the text, bool or number of an AnyValue; what else it may be as sixteen letters that stand for it.

    >>> read_value(protobuf.double(4, 0.5)), read_value(protobuf.delimited(7, b"x"))
    (0.5, '#aa1b199c415a2259')
    """
    for number, wire_type, begin, at, end in protobuf.spans(message):
        if (number, wire_type) == (1, protobuf.LENGTH_DELIMITED):
            return message[at:end].decode("utf-8", "replace")
        if (number, wire_type) == (4, protobuf.FIXED64):
            return float(struct.unpack_from("<d", message, at)[0])
        if number in {2, 3} and wire_type == protobuf.VARINT:
            ((_, _, value),) = protobuf.fields(message[begin:end])
            assert isinstance(value, int)
            return bool(value) if number == 2 else protobuf.signed(value)
    return "#" + hashlib.blake2b(message, digest_size=8).hexdigest() if message else ""
