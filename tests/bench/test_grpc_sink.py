"""The counting receiver over gRPC is one for gRPC's own library, and counts what it was sent."""

from __future__ import annotations

import http.client
import json
import subprocess
import sys

import grpc
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from gateway.codecs.grpc import METHODS
from gateway.core.contracts import Signal


def test_calls_are_counted_whoever_makes_them() -> None:
    """Compressed ones too, and larger ones than a window of the protocol's own size."""
    metrics, logs = ExportMetricsServiceRequest(), ExportLogsServiceRequest()
    gauge = metrics.resource_metrics.add().scope_metrics.add().metrics.add(name="m").gauge
    for k in range(5000):
        gauge.data_points.add(time_unix_nano=10**18 + k, as_double=k / 7)
    logs.resource_logs.add().scope_logs.add().log_records.add(time_unix_nano=1)
    command = [sys.executable, "-m", "gateway.bench.sink", "--grpc"]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        port, data_port = int(child.stdout.readline()), int(child.stdout.readline())
        with grpc.insecure_channel(f"127.0.0.1:{data_port}") as channel:
            for signal, request in ((Signal.METRICS, metrics), (Signal.LOGS, logs)):
                call = channel.unary_unary(METHODS[signal])
                for compression in (grpc.Compression.NoCompression, grpc.Compression.Gzip):
                    assert call(request.SerializeToString(), timeout=60, compression=compression) == b""
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        connection.request("GET", "/")
        counts = json.loads(connection.getresponse().read())
        connection.close()
    finally:
        child.terminate()
        child.wait()
        child.stdout.close()
    assert (counts["requests"], counts["points"]) == (4, 2 * 5000 + 2)
