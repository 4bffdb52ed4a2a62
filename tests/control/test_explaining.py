"""One message, explained as the source that it comes from takes it."""

from __future__ import annotations

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

from gateway.codecs import zstd
from gateway.codecs.mapping import Mapper
from gateway.codecs.mapping_settings import MappingSettings
from gateway.control.explaining import explain_message
from gateway.core.units import Size
from gateway.sources.mqtt_settings import MqttSettings

TOPIC = "tidegate/a/logs"
FLEET = MqttSettings(
    name="fleet", url="mqtt://h", topics=("tidegate/#",), otlp=("tidegate/+/{signal}",), otlp_max=Size(64 * 1024)
)
PLANT = MqttSettings(name="plant", url="mqtt://h", topics=("#",))


def request(*texts: str) -> bytes:
    made = ExportLogsServiceRequest()
    for text in texts:
        made.resource_logs.add().scope_logs.add().log_records.add(time_unix_nano=1).body.string_value = text
    return made.SerializeToString()


def explain(topic: str, payload: bytes, source: str | None = None) -> tuple[str, bool]:
    mapper = Mapper([MappingSettings(match="#", fields="*")], resolve=lambda *_: 1)
    return explain_message(mapper, topic, payload, sources=[PLANT, FLEET], source=source, wall_ns=10**18)


def test_otlp_goes_past_the_mappings_where_its_source_says_so() -> None:
    """From another source the same topic is mapped."""
    text, is_used = explain(TOPIC, request("a", "b"))
    assert is_used
    assert text.splitlines()[2:] == [
        "taken by the source fleet as an OTLP request of logs, past the mappings; class normal",
        "holds    2",
    ]
    assert explain(TOPIC, request("a"), "fleet")[1]
    text, is_used = explain(TOPIC, b'{"a": 1}', "plant")
    assert is_used
    assert "taken by mappings[0]" in text
    assert "taken by mappings[0]" in explain("tidegate/a/other", b'{"a": 1}', "fleet")[0]


def test_what_is_no_request_is_said() -> None:
    """Also where it would be too much."""
    text, is_used = explain(TOPIC, b'{"a": 1}')
    assert not is_used
    assert "problem  this is no request of logs in protobuf" in text
    packed = zstd.compress(request("a" * 70_000), level=3)
    text, is_used = explain(TOPIC, packed)
    assert not is_used
    assert f"problem  a request of {len(packed)} bytes that is more than otlp_max (64KiB) when it is unpacked" in text
