"""The load is what the official classes read, and counts what is taken."""

from __future__ import annotations

import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from gateway.bench import otlp_load
from gateway.bench.otlp_load import METHODS, RECORDS, SIGNALS, GrpcLoad, Load, make_body, make_request


def test_requests_are_real_ones() -> None:
    """A thousand records that differ, spans with ids of their own."""
    logs = ExportLogsServiceRequest.FromString(make_request("logs", 1).partition(b"\r\n\r\n")[2])
    records = logs.resource_logs[0].scope_logs[0].log_records
    assert len({(r.time_unix_nano, r.body.string_value) for r in records}) == RECORDS
    traces = ExportTraceServiceRequest.FromString(make_request("traces", 1).partition(b"\r\n\r\n")[2])
    spans = traces.resource_spans[0].scope_spans[0].spans
    assert {(len(s.trace_id), len(s.span_id)) for s in spans} == {(16, 8)}
    assert len({s.span_id for s in spans}) == len({s.trace_id for s in spans}) == RECORDS


def test_data_points_are_of_as_many_series() -> None:
    """Gauges, each with points that differ by their attributes."""
    request = ExportMetricsServiceRequest.FromString(make_body("metrics"))
    metrics = request.resource_metrics[0].scope_metrics[0].metrics
    series = {(m.name, str(point.attributes)) for m in metrics for point in m.gauge.data_points}
    assert len(series) == RECORDS
    assert all(point.time_unix_nano and point.WhichOneof("value") for m in metrics for point in m.gauge.data_points)


@pytest.mark.parametrize(("answer", "taken"), [(b"HTTP/1.1 200 OK\r\n\r\n", True), (b"HTTP/1.1 429 No\r\n\r\n", False)])
def test_what_is_taken_is_counted(answer: bytes, taken: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """By each connection, until the time is over."""
    monkeypatch.setattr(otlp_load, "CONNECTIONS", 1)
    request = make_request("logs", 1)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connected, _ = listener.accept()
            with connected:
                while got := connected.recv(65536):
                    left = len(request) - len(got)
                    while left:
                        left -= len(connected.recv(left))
                    connected.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        load = Load(listener.getsockname()[1], request, seconds=0.5)
        load.run()
        thread.join()
    assert (load.taken > 0, load.refused > 0) == (taken, not taken)


@pytest.mark.parametrize("is_refused", [False, True])
def test_calls_are_counted_as_requests_are(is_refused: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the status that gRPC's own library answers with."""
    monkeypatch.setattr(otlp_load, "CONNECTIONS", 1)
    taken: list[bytes] = []

    def export(message: bytes, context: grpc.ServicerContext) -> bytes:
        taken.append(message)
        if is_refused:
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "full")
        return b""

    class Handler(grpc.GenericRpcHandler):
        def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
            wanted = METHODS[SIGNALS["traces"]]
            return grpc.unary_unary_rpc_method_handler(export) if details.method == wanted else None

    server = grpc.server(ThreadPoolExecutor(1), handlers=[Handler()])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        load = GrpcLoad(port, "traces", seconds=0.5)
        load.run()
    finally:
        server.stop(None).wait()
    assert (load.taken > 0, load.refused > 0) == (not is_refused, is_refused)
    assert len(taken[0]) == len(make_body("traces"))
