"""OTLP in protobuf: columns become requests without an object per point. Does no I/O.

The messages are those of opentelemetry-proto 1.x (metrics.proto, logs.proto, common.proto, resource.proto).

A number's point without attributes is always 20 bytes, and only 16 of them differ from point to point:

| bytes | content                                                         |
| ----- | --------------------------------------------------------------- |
| 2     | `0a 12`: data_points, 18 bytes follow                            |
| 1 + 8 | `19`, time_unix_nano                                             |
| 1 + 8 | `21`, as_double, or `31`, as_int (integers; booleans as 0 and 1) |

Attributes, and the start of a sum (`11` and 8 bytes, before the time), are the same in every point of a series.

So a request is laid out once as a skeleton for its run structure (which series, of which kind, how many
points each) and times and values are scattered into it by two numpy assignments, however short the runs are.
Steady telemetry repeats its structure from batch to batch, so the last layouts are kept, bounded in bytes. Long runs
are written one by one instead: an assignment to each eighth byte or so of a run's points is quicker than scattering.

What the layout does for the wire (gateway/bench/wire.py): all series of one device stand behind each other
under one ResourceMetrics, so the times that they share recur at a constant distance, which zstd says in a
fraction of a byte; neither attributes nor names recur per point. What is left is the value's own news.

A sum is cumulative and monotonic. A device's has no start time, which OTLP defines as unknown: its counter
started when the device did, and a gateway that guessed would report false resets after each of its own
restarts. The gateway's own sums outlive restarts, and say since when they count.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Final, TypeAlias

import numpy as np

from gateway.codecs import protobuf
from gateway.codecs.otlp_messages import ResourceWriter, check
from gateway.core.batch import KIND_MASK, Batch, ValueKind
from gateway.core.contracts import Signal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import numpy.typing as npt

    from gateway.core.batch import Attributes, AttributeValue, LogRecords, ResourceRecords, Series

SCOPE_NAME: Final = "tidegate"
GATEWAY_PREFIX: Final = "tidegate."

PLANS_MAX: Final = 16_384
PLANS_BYTES_MAX: Final = 8 * 1024 * 1024
# A plan with two heads, beside the texts of its series.
PLAN_BYTES: Final = 1000
HEADS_PER_PLAN_MAX: Final = 8
LAYOUTS_MAX: Final = 8
LAYOUTS_BYTES_MAX: Final = 2 * 1024 * 1024
# Laying out costs by the run and keeping by the byte: where points are long they are laid out anew.
LAYOUT_BYTES_PER_RUN_MAX: Final = 4096
# Writing a run by itself costs some microseconds whatever its length, and scattering costs by the reading.
LONG_RUN_READINGS: Final = 128

_START_TAG: Final = b"\x11"
_TIME_TAG: Final = b"\x19"
_DOUBLE_TAG: Final = b"\x21"
_INT_TAG: Final = b"\x31"
_POINT_BYTES: Final = 18
_VALUE_AFTER_TIME: Final = 9
_ZEROS: Final = bytes(8)
_FIRST_FIELD: Final = protobuf.tag(1, protobuf.LENGTH_DELIMITED)
_SECOND_FIELD: Final = protobuf.tag(2, protobuf.LENGTH_DELIMITED)
# aggregation_temporality = CUMULATIVE (2), is_monotonic = true.
_SUM_TAIL: Final = protobuf.integer(2, 2) + protobuf.integer(3, 1)
_GAUGE: Final = 5
_SUM: Final = 7


@dataclass(frozen=True, slots=True)
class Marks:
    """What readings say of themselves as attributes of their scope, the cheapest place there is.

    `time_quality` is empty for a good time, else "unsynced", "repaired", "estimated" or "arrival"; `time_rejected`: the
    device's own was not sane. `diluted_s` is the step in seconds of which each has the first, least, greatest and last.
    """

    backfill: bool = False
    time_quality: str = ""
    time_rejected: bool = False
    diluted_s: int = 0

    def attributes(self) -> Attributes:
        """Return them as they leave."""
        marks: Attributes = (
            ("tidegate.backfill", self.backfill),
            ("tidegate.diluted", self.diluted_s),
            ("tidegate.time.quality", self.time_quality),
            ("tidegate.time.rejected", self.time_rejected),
        )
        return tuple((key, value) for key, value in marks if value)


NO_MARKS: Final = Marks()


@dataclass(slots=True)
class _Plan:
    """What is always the same when a series is written. `points` has one template per ValueKind."""

    resource: bytes
    scope: str
    head: bytes
    data_field: int
    tail: bytes
    points: tuple[bytes, bytes, bytes]
    time_offset: int
    heads: dict[tuple[int, int], bytes] = field(default_factory=dict)

    def add_head(self, kind: int, count: int) -> bytes:
        """Return the bytes before the first of `count` points, and remember them for the next layout."""
        size = len(self.points[kind]) * count + len(self.tail)
        inner = self.head + protobuf.tag(self.data_field, protobuf.LENGTH_DELIMITED) + protobuf.varint(size)
        head = _SECOND_FIELD + protobuf.varint(len(inner) + size) + inner
        if len(self.heads) >= HEADS_PER_PLAN_MAX:
            self.heads.clear()
        self.heads[kind, count] = head
        return head

    def fill_points(self, kind: int, time_ns: npt.NDArray[np.int64], bits: npt.NDArray[np.int64]) -> bytearray:
        """Return the points of one run."""
        point = self.points[kind]
        filled = bytearray(point) * len(bits)
        for column, offset in ((time_ns, self.time_offset), (bits, self.time_offset + _VALUE_AFTER_TIME)):
            np.ndarray((len(bits),), "<i8", buffer=filled, offset=offset, strides=(len(point),))[:] = column
        return filled


# Resource → (index of the group, whose marks are the scope's; scope name) → Metric messages, their runs.
_Tree: TypeAlias = "dict[bytes, dict[tuple[int, str], tuple[list[bytes | bytearray], list[int]]]]"


@dataclass(slots=True)
class _Runs:
    """The run structure of one group: which series, of which kind, how many points, where they start."""

    numbers: npt.NDArray[np.uint32]
    kinds: npt.NDArray[np.uint8]
    starts: npt.NDArray[np.intp]
    length: int

    def __len__(self) -> int:
        return len(self.starts)

    def key(self) -> tuple[bytes, bytes, bytes, int]:
        return self.numbers.tobytes(), self.kinds.tobytes(), self.starts.tobytes(), self.length


class _Layout:
    """A request with its times and values still to be written. One buffer is reused: for one thread."""

    def __init__(self, skeleton: bytearray, time_at: npt.NDArray[np.intp]) -> None:
        self._skeleton = skeleton
        self._time_at = time_at
        # Every byte offset seen as the start of eight bytes, for times and for the values nine bytes behind.
        length = len(skeleton) - _VALUE_AFTER_TIME - 7
        self._times = np.ndarray((length,), "V8", buffer=skeleton, strides=(1,))
        self._values = np.ndarray((length,), "V8", buffer=skeleton, strides=(1,), offset=_VALUE_AFTER_TIME)
        self.size_bytes = len(skeleton) + time_at.nbytes

    def fill(self, time_ns: npt.NDArray[np.int64], bits: npt.NDArray[np.int64]) -> bytes:
        self._times[self._time_at] = _little_endian(time_ns).view("V8")
        self._values[self._time_at] = _little_endian(bits).view("V8")
        return bytes(self._skeleton)


def _little_endian(column: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    return np.ascontiguousarray(column, "<i8")


class MetricsEncoder:
    """Writes batches as ExportMetricsServiceRequest. For one thread.

    `series` must go on naming the same Series for a number. Every resource carries `gateway_attributes`;
    where a mapping gave the same key, the mapping's stands, except for keys of the gateway's own namespace.
    """

    def __init__(self, *, series: Callable[[int], Series], gateway_attributes: Attributes, version: str) -> None:
        self._series = series
        self._gateway_attributes = gateway_attributes
        self._version = version
        self._plans: dict[int, _Plan] = {}
        self._plans_bytes = 0
        self._layouts: OrderedDict[object, _Layout] = OrderedDict()
        self._layouts_bytes = 0

    def encode(self, groups: Sequence[tuple[Batch, Marks]]) -> bytes:
        """Return one request for `groups`: batches in order of series and kind, with Unix times.

        Times before 1970 are written as 0, which OTLP calls unknown. No readings make an empty request.
        """
        groups = [(batch, marks) for batch, marks in groups if len(batch)]
        if not groups:
            return b""
        runs = [_find_runs(batch) for batch, _ in groups]
        if sum(map(len, runs)) * LONG_RUN_READINGS <= sum(run.length for run in runs):
            return self._write_long(groups, runs)
        key = tuple((marks, run.key()) for (_, marks), run in zip(groups, runs, strict=True))
        layout = self._layouts.get(key)
        if layout is None:
            layout = self._lay_out([(run, marks) for (_, marks), run in zip(groups, runs, strict=True)])
            if layout.size_bytes <= LAYOUT_BYTES_PER_RUN_MAX * sum(map(len, runs)):
                self._keep(key, layout)
        else:
            self._layouts.move_to_end(key)
        batch = Batch.join([batch for batch, _ in groups])
        return layout.fill(np.maximum(batch.time_ns, 0), batch.bits)

    def _write_long(self, groups: Sequence[tuple[Batch, Marks]], runs: Sequence[_Runs]) -> bytes:
        """Return the request, each run written by itself."""
        tree: _Tree = {}
        for index, ((batch, _), run) in enumerate(zip(groups, runs, strict=True)):
            time_ns = np.maximum(batch.time_ns, 0)
            bounds = [*run.starts.tolist(), run.length]
            for number, kind, (start, stop) in zip(
                run.numbers.tolist(), run.kinds.tolist(), pairwise(bounds), strict=True
            ):
                plan = self._plans.get(number) or self._plan(number)
                count = stop - start
                head = plan.heads.get((kind, count)) or plan.add_head(kind, count)
                points = plan.fill_points(kind, time_ns[start:stop], batch.bits[start:stop])
                blocks, _ = tree.setdefault(plan.resource, {}).setdefault((index, plan.scope), ([], []))
                blocks += (head, points, plan.tail)
        pieces, _ = self._arrange(tree, [marks for _, marks in groups])
        return b"".join(pieces)

    def forget_layouts(self) -> None:
        """Lay every request out anew, as if its structure had not been seen before."""
        self._layouts.clear()
        self._layouts_bytes = 0

    def _keep(self, key: object, layout: _Layout) -> None:
        if layout.size_bytes > LAYOUTS_BYTES_MAX // 2:
            return
        self._layouts[key] = layout
        self._layouts_bytes += layout.size_bytes
        while self._layouts_bytes > LAYOUTS_BYTES_MAX or len(self._layouts) > LAYOUTS_MAX:
            _, oldest = self._layouts.popitem(last=False)
            self._layouts_bytes -= oldest.size_bytes

    def _lay_out(self, groups: Sequence[tuple[_Runs, Marks]]) -> _Layout:
        """Build the skeleton: runs by resource and scope, in the order in which those first appear."""
        tree: _Tree = {}
        first_times: list[int] = []
        strides: list[int] = []
        for index, (runs, _) in enumerate(groups):
            counts = np.diff(runs.starts, append=runs.length).tolist()
            for number, kind, count in zip(runs.numbers.tolist(), runs.kinds.tolist(), counts, strict=True):
                plan = self._plans.get(number) or self._plan(number)
                point = plan.points[kind]
                head = plan.heads.get((kind, count)) or plan.add_head(kind, count)
                blocks, indexes = tree.setdefault(plan.resource, {}).setdefault((index, plan.scope), ([], []))
                blocks.append(head + point * count + plan.tail)
                indexes.append(len(strides))
                first_times.append(len(head) + plan.time_offset)
                strides.append(len(point))
        pieces, places = self._arrange(tree, [marks for _, marks in groups])
        ends = np.cumsum(np.fromiter(map(len, pieces), np.int64, len(pieces)))
        bases = np.array(first_times, np.int64)
        # `places` names the piece before a run's block: the block starts where that one ends.
        bases[[index for indexes, _ in places for index in indexes]] += np.concatenate(
            [ends[place : place + len(indexes)] for indexes, place in places]
        )
        return _Layout(bytearray().join(pieces), _time_offsets(groups, bases, np.array(strides, np.int64)))

    def _arrange(
        self, tree: _Tree, marks: Sequence[Marks]
    ) -> tuple[list[bytes | bytearray], list[tuple[list[int], int]]]:
        """Return the request in pieces, and for each scope its runs and the piece before its first block."""
        scope_leads: dict[tuple[int, str], bytes] = {}
        pieces: list[bytes | bytearray] = []
        places: list[tuple[list[int], int]] = []
        for resource, sections in tree.items():
            size = len(resource)
            place = len(pieces)
            pieces.append(b"")
            for key, (blocks, indexes) in sections.items():
                lead = scope_leads.get(key)
                if lead is None:
                    scope = encode_scope(key[1], marks[key[0]], version=self._version)
                    lead = scope_leads[key] = protobuf.delimited(1, scope)
                blocks_size = sum(map(len, blocks))
                head = _SECOND_FIELD + protobuf.varint(len(lead) + blocks_size) + lead
                size += len(head) + blocks_size
                pieces.append(head)
                places.append((indexes, len(pieces) - 1))
                pieces += blocks
            pieces[place] = _FIRST_FIELD + protobuf.varint(size) + resource
        return pieces, places

    def _plan(self, number: int) -> _Plan:
        if len(self._plans) >= PLANS_MAX or self._plans_bytes >= PLANS_BYTES_MAX:
            self._plans.clear()
            self._plans_bytes = 0
        series = self._series(number)
        attributes = b"".join(_key_value(7, key, value) for key, value in series.attributes)
        is_sum = series.kind == "sum"
        start = _START_TAG + series.start_ns.to_bytes(8, "little") if is_sum and series.start_ns else b""
        size = protobuf.varint(len(start) + _POINT_BYTES + len(attributes))
        lead = _FIRST_FIELD + size + start + _TIME_TAG
        points = [lead + _ZEROS + value_tag + _ZEROS + attributes for value_tag in (_DOUBLE_TAG, _INT_TAG)]
        plan = self._plans[number] = _Plan(
            resource=protobuf.delimited(1, encode_resource(series.resource, self._gateway_attributes)),
            scope=series.scope,
            head=protobuf.text(1, series.name) + (protobuf.text(3, series.unit) if series.unit else b""),
            data_field=_SUM if is_sum else _GAUGE,
            tail=_SUM_TAIL if is_sum else b"",
            points=(points[0], points[1], points[1]),
            time_offset=len(lead),
        )
        self._plans_bytes += PLAN_BYTES + len(plan.resource) + 3 * len(plan.head) + 2 * len(points[0])
        return plan


def _find_runs(batch: Batch) -> _Runs:
    kinds = batch.flags & KIND_MASK
    changes = (batch.series[1:] != batch.series[:-1]) | (kinds[1:] != kinds[:-1])
    starts = np.concatenate([np.zeros(1, np.intp), np.flatnonzero(changes) + 1])
    assert kinds.max() <= ValueKind.BOOL
    return _Runs(batch.series[starts], kinds[starts], starts, len(batch))


def _time_offsets(
    groups: Sequence[tuple[_Runs, Marks]], bases: npt.NDArray[np.int64], strides: npt.NDArray[np.int64]
) -> npt.NDArray[np.intp]:
    """Return where each reading's time goes: its run's base plus its place in the run times the stride."""
    counts = np.concatenate([np.diff(runs.starts, append=runs.length) for runs, _ in groups])
    first = np.cumsum(counts) - counts
    # base + (k - first) * stride, with what is constant in a run computed once a run.
    offsets = np.arange(counts.sum(), dtype=np.int64) * np.repeat(strides, counts)
    return np.asarray(offsets + np.repeat(bases - first * strides, counts), np.intp)


def encode_value(value: AttributeValue) -> bytes:
    """Return an AnyValue. An integer that int64 cannot hold is written as its digits."""
    if isinstance(value, str):
        return protobuf.text(1, value)
    if isinstance(value, bool):
        return protobuf.integer(2, value)
    if isinstance(value, int):
        if -(2**63) <= value < 2**63:
            return protobuf.integer(3, value)
        return protobuf.text(1, str(value))
    return protobuf.double(4, value)


def _key_value(number: int, key: str, value: AttributeValue) -> bytes:
    return protobuf.delimited(number, protobuf.text(1, key) + protobuf.delimited(2, encode_value(value)))


def merge_resource(resource: Attributes, gateway_attributes: Attributes) -> Attributes:
    """Return a resource's attributes with the gateway's, no key twice.

    >>> merge_resource((("a", 1), ("tidegate.x", 2)), (("a", 3), ("tidegate.x", 4)))
    (('a', 1), ('tidegate.x', 4))
    """
    merged = dict(resource)
    for key, value in gateway_attributes:
        if key not in merged or key.startswith(GATEWAY_PREFIX):
            merged[key] = value
    return tuple(merged.items())


def encode_resource(resource: Attributes, gateway_attributes: Attributes) -> bytes:
    """Return a Resource message."""
    return b"".join(_key_value(1, key, value) for key, value in merge_resource(resource, gateway_attributes))


def encode_scope(scope: str, marks: Marks, *, version: str) -> bytes:
    """Return an InstrumentationScope; the gateway's own version stands only behind its own name."""
    head = protobuf.text(1, scope) if scope else protobuf.text(1, SCOPE_NAME) + protobuf.text(2, version)
    return head + b"".join(_key_value(3, key, value) for key, value in marks.attributes())


def encode_log_record(
    *,
    time_ns: int,
    observed_ns: int,
    severity_number: int,
    severity_text: str,
    body: str,
    attributes: Attributes,
) -> bytes:
    """Return a LogRecord. Times are Unix ns, 0 for unknown; severities are those of the logs data model."""
    return b"".join(
        (
            protobuf.fixed64(1, max(time_ns, 0)),
            protobuf.integer(2, severity_number),
            protobuf.text(3, severity_text),
            protobuf.delimited(5, protobuf.text(1, body)),
            *(_key_value(6, key, value) for key, value in attributes),
            protobuf.fixed64(11, max(observed_ns, 0)),
        )
    )


def read_log_body(record: bytes) -> str:
    """Return the text of a LogRecord's body; "" where it is no text, or the record cannot be read.

    >>> read_log_body(protobuf.delimited(5, protobuf.text(1, "hello")))
    'hello'
    """
    try:
        texts = (text for body in protobuf.messages(record, 5) for text in protobuf.messages(body, 1))
        return next(texts, b"").decode("utf-8", "replace")
    except ValueError:
        return ""


def group_logs(records: LogRecords, series: Callable[[int], Series]) -> dict[Attributes, dict[str, list[bytes]]]:
    """Return the records' bodies by resource and scope, each in their order."""
    tree: dict[Attributes, dict[str, list[bytes]]] = {}
    for number, body in zip(records.series.tolist(), records.bodies, strict=True):
        stream = series(number)
        tree.setdefault(stream.resource, {}).setdefault(stream.scope, []).append(body)
    return tree


def encode_logs_request(
    records: LogRecords,
    *,
    series: Callable[[int], Series],
    gateway_attributes: Attributes,
    version: str,
    marks: Marks = NO_MARKS,
) -> bytes:
    """Return an ExportLogsServiceRequest of encoded records."""
    parts = []
    for resource, scopes in group_logs(records, series).items():
        body = protobuf.delimited(1, encode_resource(resource, gateway_attributes))
        for scope, bodies in scopes.items():
            head = protobuf.delimited(1, encode_scope(scope, marks, version=version))
            logs = b"".join(protobuf.delimited(2, record) for record in bodies)
            body += protobuf.delimited(2, head + logs)
        parts.append(protobuf.delimited(1, body))
    return b"".join(parts)


def encode_resource_logs(resource: bytes, records: Sequence[bytes], *, version: str) -> bytes:
    """Return a ResourceLogs message of records of our own about whom a Resource message, as it is, names."""
    head = protobuf.delimited(1, encode_scope("", NO_MARKS, version=version))
    logs = b"".join(protobuf.delimited(2, record) for record in records)
    return protobuf.delimited(1, resource) + protobuf.delimited(2, head + logs)


def resource_writer(gateway_attributes: Attributes, marks: Marks) -> ResourceWriter:
    """Return what gives OTLP messages the gateway's attributes, and those of `marks`: their scopes are not ours."""
    attributes = (*gateway_attributes, *marks.attributes())
    return ResourceWriter((key.encode(), encode_resource(((key, value),), ())) for key, value in attributes)


class ProtobufEncoder:
    """Writes batches as ExportMetricsServiceRequest and records as ExportLogsServiceRequest. For one thread.

    OTLP messages that are passed on become a request of their signal; `check` raises ValueError for those that cannot.

    What the arguments mean, and how batches are to be ordered, stands at `MetricsEncoder`.
    """

    empty = dict.fromkeys(Signal, b"")
    messages_bytes_max = 1 << 30
    check = staticmethod(check)

    def __init__(self, *, series: Callable[[int], Series], gateway_attributes: Attributes, version: str) -> None:
        self._series = series
        self._gateway_attributes = gateway_attributes
        self._version = version
        self._writers: dict[Marks, ResourceWriter] = {}
        self.metrics = MetricsEncoder(series=series, gateway_attributes=gateway_attributes, version=version).encode

    def logs(self, records: LogRecords, marks: Marks = NO_MARKS) -> bytes:
        """Return one request of `records`."""
        return encode_logs_request(
            records,
            series=self._series,
            gateway_attributes=self._gateway_attributes,
            version=self._version,
            marks=marks,
        )

    def records(self, records: ResourceRecords, marks: Marks = NO_MARKS) -> bytes:
        """Return one request of OTLP messages."""
        return b"".join(protobuf.delimited(1, body) for body in self.messages(records, marks))

    def messages(self, records: ResourceRecords, marks: Marks) -> Iterator[bytes]:
        """Return OTLP messages as they came, but for attributes that their resources did not have."""
        writer = self._writers.get(marks)
        if writer is None:
            writer = self._writers[marks] = resource_writer(self._gateway_attributes, marks)
        return (writer.add_to(body) for body in records.bodies)
