"""A real OTLP/gRPC receiver on loopback, grpcio's own server, that keeps what it gets and misbehaves by script.

    with GrpcSink() as sink:
        ...                                  # send to sink.url
        sink.readings()                      # every reading with how often it came

`python -m hil.grpc_sink --port 0` runs one in a process of its own that can be killed: it prints its address as a line
of JSON, and its totals when it is told to end. Needs grpcio.
"""

from __future__ import annotations

import argparse
import json
import signal
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Self

import grpc
from google.protobuf import duration_pb2
from google.rpc import error_details_pb2, status_pb2
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from hil.otlp_count import count_records
from hil.otlp_readings import LogLine, Reading, parse_logs, parse_metrics

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from hil.certificates import Identity

SERVICES: Final = {
    "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export": "metrics",
    "/opentelemetry.proto.collector.logs.v1.LogsService/Export": "logs",
    "/opentelemetry.proto.collector.trace.v1.TraceService/Export": "traces",
}
RESPONSES: Final = {
    "metrics": (ExportMetricsServiceResponse, "rejected_data_points"),
    "logs": (ExportLogsServiceResponse, "rejected_log_records"),
    "traces": (ExportTraceServiceResponse, "rejected_spans"),
}
CODES: Final = {code.value[0]: code for code in grpc.StatusCode}
MESSAGE_BYTES_MAX: Final = 64 << 20


@dataclass(frozen=True, slots=True)
class Behaviour:
    """How one call is answered. The default takes it and says so.

    `takes` says whether the data count as received: by default when `code` is OK. `retry_s` is sent as RetryInfo,
    `rejected` and `message` make a partial success of an OK. `refuses` says of which readings a request may not hold
    one; that is answered with INVALID_ARGUMENT. `waits_for` is waited for once the data are taken.
    """

    code: int = 0
    message: str = ""
    retry_s: float | None = None
    delay_s: float = 0.0
    takes: bool | None = None
    rejected: int = 0
    answer: bytes | None = None
    refuses: Callable[[Reading], bool] | None = None
    waits_for: threading.Event | None = None

    @property
    def is_taken(self) -> bool:
        """Whether what was sent counts as received."""
        return self.takes if self.takes is not None else not self.code


@dataclass(slots=True)
class Call:
    """What is remembered of one call. `body` is what grpcio has decompressed."""

    number: int
    signal: str
    metadata: dict[str, str]
    body: bytes = field(repr=False)
    peer: str = ""
    time_left_s: float | None = None
    readings: int = 0
    is_answered: bool = False


class GrpcSink:
    """The receiver. `behave` and `always` script it; it may be changed while it runs."""

    def __init__(
        self,
        *,
        port: int = 0,
        identity: Identity | None = None,
        client_ca: bytes | None = None,
        options: tuple[tuple[str, Any], ...] = (),
        without: str = "",
    ) -> None:
        self.always = Behaviour()
        self.calls: list[Call] = []
        self.records = 0
        self._without = without
        self._is_secure = identity is not None
        self._script: list[Behaviour] = []
        self._lock = threading.Lock()
        self._arrived = threading.Condition(self._lock)
        self._seen: dict[Reading, list[int]] = {}
        self._logs: list[LogLine] = []
        self._server = grpc.server(
            ThreadPoolExecutor(8, thread_name_prefix="grpc sink"),
            handlers=(_Handler(self),),
            options=list(
                {"grpc.so_reuseport": 0, "grpc.max_receive_message_length": MESSAGE_BYTES_MAX, **dict(options)}.items()
            ),
        )
        where = f"127.0.0.1:{port}"
        if identity is None:
            self.port = self._server.add_insecure_port(where)
        else:
            credentials = grpc.ssl_server_credentials(
                [(identity.key.read_bytes(), identity.certificate.read_bytes())],
                root_certificates=client_ca,
                require_client_auth=client_ca is not None,
            )
            self.port = self._server.add_secure_port(where, credentials)
        self._server.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def url(self) -> str:
        """The endpoint."""
        return f"http{'s' if self._is_secure else ''}://127.0.0.1:{self.port}"

    @property
    def address(self) -> tuple[str, int]:
        """Where a proxy should lead to."""
        return "127.0.0.1", self.port

    def behave(self, *script: Behaviour) -> None:
        """Answer the next calls by `script`, one each; then as `always` says."""
        with self._lock:
            self._script.extend(script)

    def readings(self) -> Counter[Reading]:
        """Return every reading that was taken, with how often it came."""
        with self._lock:
            return Counter({reading: len(numbers) for reading, numbers in self._seen.items()})

    def logs(self) -> list[LogLine]:
        """Return every log record that was taken, in order of arrival."""
        with self._lock:
            return list(self._logs)

    def unexplained_duplicates(self) -> list[Reading]:
        """Return readings that came again although an earlier call with them had been answered."""
        with self._lock:
            answered = {call.number for call in self.calls if call.is_answered}
            return [reading for reading, numbers in self._seen.items() if any(n in answered for n in numbers[:-1])]

    def wait_for(self, readings: int, *, within_s: float = 60.0) -> None:
        """Return when so many different readings have been taken; raise TimeoutError."""
        with self._arrived:
            if not self._arrived.wait_for(lambda: len(self._seen) >= readings, within_s):
                raise TimeoutError(f"{len(self._seen)} of {readings} readings within {within_s} s")

    def wait_for_calls(self, count: int, *, within_s: float = 60.0) -> None:
        """Return when so many calls have come, taken or not; raise TimeoutError."""
        with self._arrived:
            if not self._arrived.wait_for(lambda: len(self.calls) >= count, within_s):
                raise TimeoutError(f"{len(self.calls)} of {count} calls within {within_s} s")

    def stop(self, grace_s: float) -> threading.Event:
        """Begin to end as servers do: GOAWAY, and `grace_s` for what is under way; return what tells when that is."""
        ended: threading.Event = self._server.stop(grace_s)
        return ended

    def close(self) -> None:
        """End at once."""
        self._server.stop(None).wait(5)

    def knows(self, method: str) -> bool:
        """Whether there is such a method."""
        return method in SERVICES and SERVICES[method] != self._without

    def take(self, signal: str, body: bytes, context: grpc.ServicerContext) -> bytes:
        """Answer a call. For its thread."""
        metadata = {key: value for key, value in context.invocation_metadata() if isinstance(value, str)}
        left_s = context.time_remaining()
        with self._arrived:
            call = Call(len(self.calls) + 1, signal, metadata, body, context.peer(), left_s)
            self.calls.append(call)
            behaviour = self._script.pop(0) if self._script else self.always
            self._arrived.notify_all()
        time.sleep(behaviour.delay_s)
        readings = parse_metrics(body) if signal == "metrics" else ()
        if behaviour.refuses is not None and any(map(behaviour.refuses, readings)):
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "there is one that is not taken")
        if behaviour.is_taken:
            self._keep(call, readings)
        if behaviour.waits_for is not None:
            behaviour.waits_for.wait(60)
        if behaviour.code:
            self._refuse(context, behaviour)
        call.is_answered = context.is_active()
        kind, field_name = RESPONSES[signal]
        response = kind()
        if behaviour.rejected or behaviour.message:
            setattr(response.partial_success, field_name, behaviour.rejected)
            response.partial_success.error_message = behaviour.message
        return behaviour.answer if behaviour.answer is not None else response.SerializeToString()

    def _keep(self, call: Call, readings: Any) -> None:
        logs = parse_logs(call.body) if call.signal == "logs" else []
        records = 0 if call.signal == "metrics" else len(logs) or count_records(call.body)
        with self._arrived:
            call.readings = len(readings)
            self.records += records
            for reading in readings:
                self._seen.setdefault(reading, []).append(call.number)
            self._logs += logs
            self._arrived.notify_all()

    @staticmethod
    def _refuse(context: grpc.ServicerContext, behaviour: Behaviour) -> None:
        if behaviour.retry_s is not None:
            whole_s = int(behaviour.retry_s)
            delay = duration_pb2.Duration(seconds=whole_s, nanos=round((behaviour.retry_s - whole_s) * 1e9))
            status = status_pb2.Status(code=behaviour.code, message=behaviour.message)
            status.details.add().Pack(error_details_pb2.RetryInfo(retry_delay=delay))
            context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
        context.abort(CODES[behaviour.code], behaviour.message)


class _Handler(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Hands calls to the sink as the bytes that came."""

    def __init__(self, sink: GrpcSink) -> None:
        self._sink = sink

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        """Return what answers a method, None where there is none."""
        method: str = handler_call_details.method
        if not self._sink.knows(method):
            return None
        signal = SERVICES[method]
        return grpc.unary_unary_rpc_method_handler(lambda body, context: self._sink.take(signal, body, context))


def main() -> None:
    """Run until told to end."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    options = parser.parse_args()
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    with GrpcSink(port=options.port) as sink:
        print(json.dumps({"url": sink.url, "port": sink.port}), flush=True)
        ended.wait()
        print(json.dumps({"calls": len(sink.calls), "readings": len(sink.readings())}), flush=True)


if __name__ == "__main__":
    main()
