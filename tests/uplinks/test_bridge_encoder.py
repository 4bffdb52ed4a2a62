"""Readings leave as the payload says, all else as OTLP."""

from __future__ import annotations

import numpy as np
import pytest

from gateway.codecs.otlp import NO_MARKS, ProtobufEncoder
from gateway.codecs.readings_json import Messages
from gateway.core.batch import Batch, ResourceRecords, Series
from gateway.core.contracts import Signal
from gateway.uplinks.bridge_encoder import BridgeEncoder
from gateway.uplinks.bridge_settings import MqttUplinkSettings

SHARED = {"series": lambda _: Series((("device.id", "a"),), "n"), "gateway_attributes": (), "version": "1"}
OTLP = ProtobufEncoder(**SHARED)
GROUPS = [(Batch.of(0, [10**9], np.array([1.5])), NO_MARKS)]


def encoder(**settings) -> BridgeEncoder:
    return BridgeEncoder(MqttUplinkSettings(name="b", url="mqtt://b", **settings), **SHARED)


def test_otlp_is_what_a_receiver_would_get() -> None:
    """Byte for byte."""
    assert encoder().metrics(GROUPS) == OTLP.metrics(GROUPS)


def test_json_is_a_message_for_each_reading() -> None:
    """With the topic and the unit of time that are set."""
    found = encoder(payload="json", topic="x/{device}/{metric}", time_unit="s").metrics(GROUPS)
    assert isinstance(found, Messages)
    assert (found, found.topics) == (b'{"value":1.5,"ts":1}', [b"x/a/n"])


def test_all_else_is_otlp_in_any_case(make_records) -> None:
    """Logs, and messages that are passed on; what cannot be is refused as anywhere."""
    logs = make_records(2)
    one = np.ones(1, np.int64)
    bad = ResourceRecords(Signal.TRACES, one, one, (b"\xff",))
    good = ResourceRecords(Signal.TRACES, one, one, (b"\x12\x02\x12\x00",))
    for payload in ("otlp", "json"):
        found = encoder(payload=payload)
        assert found.logs(logs, NO_MARKS) == OTLP.logs(logs, NO_MARKS)
        assert found.records(good, NO_MARKS) == OTLP.records(good, NO_MARKS)
        found.check(good)
        with pytest.raises(ValueError):
            found.check(bad)
        assert set(found.empty.values()) == {b""}
