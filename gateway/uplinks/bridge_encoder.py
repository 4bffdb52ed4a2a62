"""What an uplink to a broker or NATS writes: readings one by one or as OTLP, and all else as OTLP. Must not send."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from gateway.codecs.otlp import ProtobufEncoder
from gateway.codecs.readings_json import ReadingsEncoder
from gateway.uplinks.publishing import JSON, TIME_UNITS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from gateway.codecs.otlp import Marks
    from gateway.core.batch import Attributes, AttributeValue, Batch, LogRecords, ResourceRecords, Series


class Written(Protocol):
    """How readings are written, of the settings of an uplink."""

    @property
    def payload(self) -> str:
        """Otlp or json."""
        ...

    @property
    def time_unit(self) -> str:
        """What times are counted in."""
        ...

    def topic_of_readings(self) -> str:
        """Return the template of where they go."""
        ...


class BridgeEncoder:
    """Writes readings as `payload` says, and all else as OTLP in protobuf. See `requests.Encoder`."""

    empty = ProtobufEncoder.empty

    def __init__(
        self,
        settings: Written,
        *,
        series: Callable[[int], Series],
        gateway_attributes: Attributes,
        version: str,
        level_of: Callable[[AttributeValue], str] | None = None,
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
                level_of=level_of,
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
