"""The client as a program sees it: send, flush, drain, shut down. Must not do itself what a gateway does.

Everything here may be called from any thread, but not from a signal's handler. What is sent waits in a bounded buffer
for the next commit, a second at most on most boards; what `flush` returned for is in a committed, fsynced transaction.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import threading
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

from gateway.client import records, values
from gateway.client.assembly import SERVICE, configure, service_name
from gateway.client.buffer import SORTS, Buffer, Stream
from gateway.client.door import NAME
from gateway.client.doorway import Doorway
from gateway.client.errors import ClientError
from gateway.client.runner import Runner
from gateway.control.footprint import read_memory_limit, within
from gateway.control.profiles import ProfileError
from gateway.control.profiles import load as load_profile
from gateway.core.batch import ResourceRecords, ValueKind
from gateway.core.clock import SystemClock
from gateway.core.contracts import OVERSIZE, FullError, Messages, Priority, Signal
from gateway.core.words import plural
from gateway.net.deadline import Deadline
from gateway.store.connection import leave_to_parent

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Iterable, Mapping, Sequence
    from types import TracebackType
    from typing import Self, TypeAlias

    import numpy.typing as npt

    from gateway.client.exporters import ClientLogExporter, ClientMetricExporter, ClientSpanExporter
    from gateway.client.records import SpanIds

    Scalar: TypeAlias = "str | bool | int | float"
    Time: TypeAlias = "int | float | dt.datetime"

log = logging.getLogger("tidegate.client")

BUFFER_BYTES: Final = 2 << 20
BUFFER_BYTES_MIN: Final = 64 << 10
WAIT_S: Final = 1.0
FLUSH_S: Final = 30.0
SHUTDOWN_S: Final = 30.0
STATUS_S: Final = 10.0
LOOK_S: Final = 0.02
NOT_OPEN: Final = "the store is not open just now; the log says why"

_INT_MAX: Final = values.INT_MAX
_PLAIN: Final = {float: ValueKind.DOUBLE, int: ValueKind.INT, bool: ValueKind.BOOL}
# By class, kind of value, and whether the time of sending stands for the reading's own.
_SORTS: Final = {(sort.priority.name.lower(), sort.kind, sort.is_stamped): at for at, sort in enumerate(SORTS)}
_BY_TYPE: Final = {
    (priority, plain, stamped): _SORTS[priority, kind, stamped]
    for plain, kind in _PLAIN.items()
    for priority, _, stamped in _SORTS
}


class Client:
    """Stores what a program measures, logs and traces in a directory of its own, and forwards it as OTLP from there.

    `endpoint` is the base address of an OTLP receiver, `headers` go with each request to it; left out they are
    OTEL_EXPORTER_OTLP_ENDPOINT and its like. Instead of them `config` may be the path of a tidegate.toml, or its tables
    as a dict: then [gateway], [store], [[detectors]] and [[uplinks]] of it hold, with budgets and all, and what it says
    of sources and [control] is left out. `state_dir` is where things are kept; one process at a time has it.

    `resource` are attributes that everything leaves with; service.name is OTEL_SERVICE_NAME or the script's name where
    they have none. `control` is an address like "127.0.0.1:8182" at which `tidegate status --url` finds this client.

    What is sent waits in `buffer_bytes` of memory at most. Where that is full because the disk or the store takes
    nothing, a call waits `wait` seconds for room. Then it raises FullError, and of what it brought nothing is kept but
    what the error says; with `when_behind="drop"` it returns, and the ledger counts what it brought as `no_room`: then
    no call waits again until there is room.

    The constructor returns when the store is open. Raises ValueError with all that is wrong with the arguments, and
    ClientError where another process has the directory or it cannot be used. A program that ends without `shutdown`
    does that by itself; one that is killed loses what was not flushed. In a process that is forked off a client cannot
    be used: make one there, with a directory of its own.
    """

    def __init__(  # noqa: PLR0913  by keyword all but the first, and each has a default
        self,
        endpoint: str | None = None,
        *,
        state_dir: str | os.PathLike[str] | None = None,
        headers: Mapping[str, str] | None = None,
        resource: Mapping[str, Scalar] | None = None,
        config: str | os.PathLike[str] | Mapping[str, Any] | None = None,
        control: str | None = None,
        buffer_bytes: int = BUFFER_BYTES,
        wait: float = WAIT_S,
        when_behind: Literal["raise", "drop"] = "raise",
    ) -> None:
        values.one_of("when_behind", when_behind, ("raise", "drop"))
        if not isinstance(buffer_bytes, int) or buffer_bytes < BUFFER_BYTES_MIN:
            raise ValueError(f"buffer_bytes is {buffer_bytes}; give at least {BUFFER_BYTES_MIN}")
        if not isinstance(wait, int | float) or not 0 <= wait < threading.TIMEOUT_MAX:
            raise ValueError(f"wait is {wait}; give seconds, 0 for not at all")
        about = {SERVICE: service_name(), **dict(values.scalar_attributes(resource, "resource"))}
        settings = configure(
            endpoint, state_dir=state_dir, headers=headers, config=config, control=control, service=str(about[SERVICE])
        )
        self._gone = ""
        self._pid = os.getpid()
        self._closing = threading.Lock()
        self._monotonic_ns = SystemClock().monotonic_ns
        self._doorway = Doorway(tuple(sorted(about.items())))
        self._buffer = self._doorway.buffer = Buffer(
            bytes_max=buffer_bytes,
            wait_s=wait,
            raises=when_behind == "raise",
            make=_stream,
            wake=self._wake,
            may_wait=lambda: not self._runner.is_here,
        )
        try:
            profile = within(load_profile(settings.gateway.hw_profile), read_memory_limit())
        except ProfileError as error:
            raise ValueError(f"gateway.hw_profile: {error}") from error
        _make_folder(Path(settings.gateway.state_dir))
        self._uplinks = [uplink.name for uplink in settings.uplinks]
        for uplink in settings.uplinks:
            for what in uplink.warnings():
                log.warning("uplink %s: %s", uplink.name, what)
        self._runner = Runner(settings, profile, program=self._doorway)
        _clients.add(self)
        self._runner.start()
        atexit.register(self._at_exit)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.shutdown()
        else:
            self._at_exit()

    def __repr__(self) -> str:
        return f"<Client to {', '.join(self._uplinks) or 'nowhere'}{', ' + self._gone if self._gone else ''}>"

    def send_metric(
        self,
        name: str,
        value: float | npt.ArrayLike,
        *,
        unit: str = "",
        attributes: Mapping[str, Scalar] | None = None,
        time: Time | npt.ArrayLike | None = None,
        step: float | dt.timedelta | None = None,
        kind: Literal["gauge", "sum"] = "gauge",
        priority: Literal["critical", "normal", "bulk"] = "normal",
    ) -> None:
        """Send one reading of a metric, or an array of them.

        A reading is a float, an int or a bool, and is kept as that; an int of more than 64 bits becomes a float.
        `time` is Unix nanoseconds as an int (time.time_ns), seconds as a float (time.time), or an aware datetime.
        Without it the reading has the time of this call, and is repaired where the box learns the right time later.
        For an array give as many times, or the time of the first and `step`, the seconds from one to the next. The
        array is copied.

        A "sum" is a running total that only grows: the value is the total, not what was added to it. `priority` is the
        class that goes first, or is let go of last, where not everything can leave.

        Raises TypeError and ValueError for what is no metric, FullError where there is no room, ClientError after
        `shutdown` and in another process. Returns when the reading is in memory; `flush` says when it is on the disk.
        """
        if self._gone:
            raise ClientError(self._gone)
        words = (name, unit, kind, attributes)
        try:
            if attributes:
                # 1, 1.0 and True are the same to a dict, and not to whoever reads them.
                key: tuple[Any, ...] = (name, unit, kind, *attributes.items(), *map(type, attributes.values()))
            else:
                key = words[:3]
            sort = _BY_TYPE.get((priority, type(value), time is None))
            if sort is None or step is not None or (type(value) is int and not -_INT_MAX <= value < _INT_MAX):
                self._send_odd(key, words, value, time, step, priority)
                return
            time_ns = self._monotonic_ns() if time is None else values.unix_ns(time)
            number: Any = value
            self._buffer.add(key, words, number, time_ns, sort)
        except (TypeError, AttributeError):
            # What cannot even be looked up is told by name.
            _stream(*words)
            raise

    def _send_odd(self, key: Any, words: Any, value: Any, time: Any, step: Any, priority: Any) -> None:
        """Send what is no plain number: of another type, or an array; raise for what is none."""
        values.one_of("priority", priority, values.PRIORITIES)
        if not values.is_many(value):
            if step is not None:
                raise ValueError("step is for arrays; this is one value")
            kind, number = values.one_number(value)
            time_ns = self._monotonic_ns() if time is None else values.unix_ns(time)
            self._buffer.add(key, words, number, time_ns, _SORTS[priority, kind, time is None])
            return
        numbers = values.many_numbers(value)
        if not len(numbers):
            return
        if time is None:
            raise ValueError("an array has times: give time as many times, or the time of the first and step")
        if step is None:
            times = values.unix_ns_of_each(time, len(numbers))
        else:
            times = values.stepped_ns(values.unix_ns(time), step, len(numbers))
        self._buffer.add_many(
            key, words, numbers, times, priority=values.PRIORITIES[priority], sent_ns=self._monotonic_ns()
        )

    def send_log(
        self,
        body: Any,
        *,
        severity: str | int = "INFO",
        attributes: Mapping[str, Any] | None = None,
        time: Time | None = None,
        trace_id: str | bytes | int | None = None,
        span_id: str | bytes | int | None = None,
        priority: Literal["critical", "normal", "bulk"] = "normal",
    ) -> None:
        """Send a log record. `body` and attributes are texts, numbers, bools, bytes, lists and dicts of them.

        `severity` is TRACE, DEBUG, INFO, WARN, ERROR or FATAL, or OTLP's number from 1 to 24. `time` is as with
        `send_metric`; it is kept as it is given. Ids are hexadecimal digits, bytes, or whole numbers. Raises what
        `send_metric` does.
        """
        if self._gone:
            raise ClientError(self._gone)
        values.one_of("priority", priority, values.PRIORITIES)
        record = records.log_record(body, severity=severity, attributes=attributes, trace_id=trace_id, span_id=span_id)
        self._buffer.add_record(
            record,
            priority=values.PRIORITIES[priority],
            signal=Signal.LOGS,
            time_ns=0 if time is None else values.unix_ns(time),
            sent_ns=self._monotonic_ns(),
        )

    def send_trace(  # noqa: PLR0913  what OTLP knows of a span, by keyword all but one
        self,
        name: str,
        *,
        start: Time,
        end: Time,
        trace_id: str | bytes | int | None = None,
        span_id: str | bytes | int | None = None,
        parent_id: str | bytes | int | None = None,
        kind: Literal["internal", "server", "client", "producer", "consumer"] = "internal",
        attributes: Mapping[str, Any] | None = None,
        status: Literal["unset", "ok", "error"] = "unset",
        message: str = "",
        events: Iterable[Sequence[Any]] = (),
        priority: Literal["critical", "normal", "bulk"] = "normal",
    ) -> SpanIds:
        """Send a span that has ended; return its ids, which others have as `trace_id` and `parent_id`.

        Ids that are not given are made by chance. Times are as with `send_metric`, kept as they are given. `message`
        says more of an error; an event is (name, time) or (name, time, attributes). Raises what `send_metric` does.
        """
        if self._gone:
            raise ClientError(self._gone)
        values.one_of("priority", priority, values.PRIORITIES)
        ids = records.span_ids(trace_id, span_id, parent_id)
        record = records.span(
            name, ids, start, end, kind=kind, attributes=attributes, status=status, message=message, events=events
        )
        self._buffer.add_record(
            record, priority=values.PRIORITIES[priority], signal=Signal.TRACES, sent_ns=self._monotonic_ns()
        )
        return ids.shown()

    def keep_request(self, body: bytes, signal: Signal, *, timeout: float = FLUSH_S) -> None:
        """Keep an OTLP export request in protobuf as it is; return when it is on the disk.

        Raises ValueError for what is none, FullError where there is no room, and TimeoutError where it took longer:
        then it may be kept or not. Readings of more than 1 MiB are not kept, but counted in the ledger as `oversize`.
        """
        from gateway.codecs.otlp_intake import TooManyError, open_request  # noqa: PLC0415  five megabytes

        if self._gone:
            raise ClientError(self._gone)
        self._refuse_here()
        try:
            taken = open_request(body, signal)
        except (TooManyError, ValueError) as error:
            raise ValueError(f"this is no request of {signal.name.lower()} that can be kept: {error}") from error
        counts = np.array(taken.counts, np.int64)
        kept = ResourceRecords(signal, counts, np.zeros(len(counts), np.int64), tuple(taken.bodies))
        dropped = {OVERSIZE: taken.oversize} if taken.oversize else {}
        messages = Messages(NAME, kept, Priority.NORMAL, self._monotonic_ns(), dropped)
        if taken.bodies or dropped:
            self._runner.run(self._doorway.keep(messages), timeout)

    def span_exporter(self) -> ClientSpanExporter:
        """Return a SpanExporter of OpenTelemetry's SDK that stores here; raise ImportError where that is missing."""
        from gateway.client.exporters import ClientSpanExporter  # noqa: PLC0415  the extra `sdk`

        return ClientSpanExporter(self)

    def log_exporter(self) -> ClientLogExporter:
        """Return a LogRecordExporter of OpenTelemetry's SDK that stores here; raise ImportError."""
        from gateway.client.exporters import ClientLogExporter  # noqa: PLC0415  the extra `sdk`

        return ClientLogExporter(self)

    def metric_exporter(self, **options: Any) -> ClientMetricExporter:
        """Return a MetricExporter of OpenTelemetry's SDK that stores here; raise ImportError.

        Options are preferred_temporality and preferred_aggregation, as the SDK has them.
        """
        from gateway.client.exporters import ClientMetricExporter  # noqa: PLC0415  the extra `sdk`

        return ClientMetricExporter(self, **options)

    def flush(self, timeout: float = FLUSH_S) -> None:
        """Return when all that any thread has sent before this call is on the disk, in a committed transaction.

        From then on it is delivered, or counted in the ledger, whatever becomes of this process or of the power.
        Whether it has been delivered is another question: `drain`. Raises TimeoutError that says why where it took
        longer: all is still in memory then, and goes on being tried.
        """
        if self._gone:
            raise ClientError(self._gone)
        self._refuse_here()
        if not self._buffer.flush(min(timeout, threading.TIMEOUT_MAX)):
            why = self._buffer.trouble or ("the client was shut down" if self._gone else "the disk takes its time")
            raise TimeoutError(f"{plural(self._buffer.waiting, 'reading')} not on the disk after {timeout:g} s: {why}")

    def drain(self, timeout: float = FLUSH_S) -> bool:
        """Flush, then wait until nothing is held: all was delivered to each uplink, or is in its ledger.

        Returns whether that is so within `timeout` seconds; with no link it is not, and what is held leaves later.
        Raises what `flush` does.
        """
        deadline = Deadline.after(min(timeout, threading.TIMEOUT_MAX))
        self.flush(timeout)
        try:
            self._runner.run(self._until_delivered(), deadline.left_s())
        except TimeoutError:
            return False
        return True

    async def _until_delivered(self) -> None:
        while True:
            gateway = self._runner.gateway
            if gateway is not None and not any(gateway.held().values()):
                return
            await asyncio.sleep(LOOK_S)

    def status(self) -> dict[str, object]:
        """Return what `tidegate status --json` prints: accepted, and for each uplink delivered, held and ledger.

        After `shutdown` it is how it was in the end.
        """
        if self._runner.final is not None:
            return self._runner.final
        if self._gone:
            raise ClientError(self._gone)
        self._refuse_here()
        return self._runner.run(self._look(), STATUS_S)

    async def _look(self) -> dict[str, object]:
        gateway = self._runner.gateway
        if gateway is None:
            raise ClientError(NOT_OPEN)
        return gateway.status()

    def shutdown(self, timeout: float = SHUTDOWN_S) -> None:
        """Bring what was sent to the disk, send what is fresh for a moment, and close. A second call does nothing.

        What is not delivered by then is kept, and leaves with the next client of this directory. Raises FullError where
        something could not be written, which is lost then, and TimeoutError where it is not done in time: it goes on in
        the background for as long as the process lives.
        """
        if self._gone:
            return
        self._refuse_here()
        with self._closing:
            if self._gone:
                return
            self._gone = "the client was shut down"
        atexit.unregister(self._at_exit)
        self._buffer.close(self._gone)
        is_done = self._runner.stop(min(timeout, threading.TIMEOUT_MAX))
        self._buffer.is_over()
        left, why = self._buffer.waiting, self._buffer.trouble or "the disk takes its time"
        if not is_done:
            raise TimeoutError(
                f"the client has not stopped after {timeout:g} s; {plural(left, 'reading')} not written yet"
            )
        if left:
            raise FullError(f"{plural(left, 'reading')} lost, never written to the disk: {why}")

    def _at_exit(self) -> None:
        """Shut down where nobody is left to hear of an error but the log."""
        try:
            self.shutdown()
        except (FullError, TimeoutError) as error:
            log.error("%s", error)  # noqa: TRY400  a sentence says it all

    def _refuse_here(self) -> None:
        """Raise ClientError where the wait would be for the thread that waits."""
        if self._runner.is_here:
            raise ClientError("this is the client's own thread, as for handlers of its log; wait for it elsewhere")

    def _wake(self, now: bool) -> None:  # noqa: FBT001  the one thing to say
        self._runner.call_soon(self._doorway.hear, now)


def _stream(name: Any, unit: Any, kind: Any, attributes: Any) -> Stream:
    """Return what a program calls a metric by; raise TypeError or ValueError."""
    values.one_of("kind", kind, values.KINDS)
    return Stream(values.metric_name(name), values.metric_unit(unit), kind, values.scalar_attributes(attributes))


def _make_folder(path: Path) -> None:
    """Make the state directory where there is none, so that only this user sees what is kept; raise ClientError."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ClientError(f"cannot make {path}: {error.strerror}") from error


_clients: weakref.WeakSet[Client] = weakref.WeakSet()
# Of the process that this one was forked off: what they hold open is for it alone to close.
_inherited: list[Runner] = []


def _after_fork() -> None:
    """In a process that was forked off: leave each client, its store and its threads to the parent."""
    for client in list(_clients):
        if not client._gone:  # noqa: SLF001  our own
            whose = f"this client belongs to process {client._pid}, and this one was forked off it"  # noqa: SLF001
            client._gone = f"{whose}; make a Client here, with a state_dir of its own"  # noqa: SLF001
            _inherited.append(client._runner)  # noqa: SLF001
    leave_to_parent()


os.register_at_fork(after_in_child=_after_fork)
