"""The benchmark's counting receiver agrees with the official parser."""

from __future__ import annotations

import gzip
import http.client
import json
import subprocess
import sys
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from gateway.bench.sink import count_points, count_records

if TYPE_CHECKING:
    from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric


def request_of(shape: list[list[tuple[int, bool]]]) -> ExportMetricsServiceRequest:
    """A request with one resource for each list; each metric has that many points, with attributes or without."""
    request = ExportMetricsServiceRequest()
    for metrics in shape:
        scope = request.resource_metrics.add().scope_metrics.add()
        for number, (points, with_attributes) in enumerate(metrics):
            metric: Metric = scope.metrics.add(name="m", unit="Cel")
            column = metric.sum if number % 2 else metric.gauge
            for k in range(points):
                point = column.data_points.add(time_unix_nano=10**18 + k, as_double=k + 0.5)
                if with_attributes:
                    point.attributes.add(key="k").value.string_value = "v" * (k % 3)
    return request


@given(st.lists(st.lists(st.tuples(st.integers(0, 50), st.booleans()), max_size=4), max_size=4))
def test_points_are_counted_as_the_parser_counts(shape: list[list[tuple[int, bool]]]) -> None:
    """With and without attributes, gauges and sums, empty ones too."""
    assert count_points(request_of(shape).SerializeToString()) == sum(n for metrics in shape for n, _ in metrics)


@given(st.lists(st.lists(st.integers(0, 20), max_size=3), max_size=3))
def test_records_are_counted_as_the_parser_counts(shape: list[list[int]]) -> None:
    """Of every scope of every resource."""
    request = ExportLogsServiceRequest()
    for scopes in shape:
        message = request.resource_logs.add()
        message.resource.attributes.add(key="k").value.string_value = "v"
        for records in scopes:
            scope = message.scope_logs.add()
            for k in range(records):
                scope.log_records.add(time_unix_nano=k)
    assert count_records(request.SerializeToString()) == sum(map(sum, shape))


def test_a_sink_counts_what_it_is_sent() -> None:
    """A child process, two requests on one connection, one of them gzip'd."""
    child = subprocess.Popen([sys.executable, "-m", "gateway.bench.sink"], stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout is not None
        connection = http.client.HTTPConnection("127.0.0.1", int(child.stdout.readline()), timeout=60)
        body = request_of([[(7, False)]]).SerializeToString()
        for data, headers in ((body, {}), (gzip.compress(body), {"content-encoding": "gzip"})):
            connection.request("POST", "/v1/metrics", data, headers)
            assert connection.getresponse().read() == b""
        connection.request("GET", "/")
        counts = json.loads(connection.getresponse().read())
        assert (counts["requests"], counts["points"]) == (2, 14)
        connection.close()
    finally:
        child.kill()
        child.wait()
        if child.stdout is not None:
            child.stdout.close()
