"""Words of the configuration that are planned and not in this version yet. Must hold sentences only."""

from __future__ import annotations

from typing import Final

from gateway.control.reading import Later

NOT_YET: Final = "is not in this version"

LATER: Final = Later(
    keys={
        "alerts": f"alerting {NOT_YET}; findings leave as OTLP logs, let the far side alert",
        "notifiers": f"notifying {NOT_YET}; findings leave as OTLP logs, let the far side notify",
        "opamp": f"OpAMP {NOT_YET}; leave the table out",
    },
    values={
        ("sources.framing", "nmea"): f'the framing "nmea" {NOT_YET}; use "lines" and map the text',
        ("sources.framing", "modbus"): f'the framing "modbus" {NOT_YET}; use "cobs" or "lines"',
        **{
            (f"{table}.payload", kind): f'the payload "{kind}" {NOT_YET}; use {instead}'
            for table in ("mappings", "sources")
            for kind, instead in (
                ("senml", '"json" or "cbor"'),
                ("sparkplug", '"json" or "cbor"'),
                ("influx", '"text", "csv" or "json"'),
            )
        },
        **{
            ("detectors.type", kind): f'the detector type "{kind}" {NOT_YET}; use "zscore" or "iqr"'
            for kind in ("learned", "autoencoder", "forest", "forecast", "cause", "seasonal")
        },
    },
)
