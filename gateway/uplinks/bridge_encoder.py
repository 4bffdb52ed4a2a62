"""What an uplink to a broker writes: readings one by one or as OTLP, and all else as OTLP. Must not send."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.codecs.otlp import ProtobufEncoder
from gateway.codecs.readings_json import ReadingsEncoder
from gateway.uplinks.bridge_settings import JSON, TIME_UNITS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from gateway.codecs.otlp import Marks
    from gateway.core.batch import Attributes, Batch, LogRecords, ResourceRecords, Series
    from gateway.uplinks.bridge_settings import MqttUplinkSettings


class BridgeEncoder:
    """Writes readings as `payload` says, and all else as OTLP in protobuf. See `requests.Encoder`."""

    empty = b""

    def __init__(
        self,
        settings: MqttUplinkSettings,
        *,
        series: Callable[[int], Series],
        gateway_attributes: Attributes,
        version: str,
    ) -> None:
        self._otlp = ProtobufEncoder(series=series, gateway_attributes=gateway_attributes, version=version)
        self.messages_bytes_max = self._otlp.messages_bytes_max
        self._json = None
        if settings.payload == JSON:
            self._json = ReadingsEncoder(
                settings.topic_of_readings(),
                time_unit_ns=TIME_UNITS[settings.time_unit],
                series=series,
                gateway_attributes=gateway_attributes,
            )

    def metrics(self, groups: Sequence[tuple[Batch, Marks]], /) -> bytes:
        """Return one request of readings."""
        return self._otlp.metrics(groups) if self._json is None else self._json.encode(groups)

    def logs(self, records: LogRecords, marks: Marks, /) -> bytes:
        """Return one request of log records."""
        return self._otlp.logs(records, marks)

    def records(self, records: ResourceRecords, marks: Marks, /) -> bytes:
        """Return one request of OTLP messages that are passed on."""
        return self._otlp.records(records, marks)

    def check(self, records: ResourceRecords, /) -> None:
        """Raise ValueError for messages of which no request can be made."""
        self._otlp.check(records)
