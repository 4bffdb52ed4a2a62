"""What can be set about watchers."""

from __future__ import annotations

import msgspec
import pytest

from gateway.core.units import Duration
from gateway.detect.settings import DetectorSettings, IqrSettings, ZScoreSettings


def convert(table):
    return msgspec.convert(table, DetectorSettings, dec_hook=lambda kind, value: kind.parse(value))


def test_the_type_chooses() -> None:
    """A short table is enough."""
    assert convert({"type": "zscore"}) == ZScoreSettings()
    assert convert({"type": "iqr", "silence": "1h"}) == IqrSettings(silence=Duration(3600))


@pytest.mark.parametrize(
    "table",
    [
        {"type": "forest"},
        {"type": "zscore", "threshold": 0},
        {"type": "zscore", "window": 10},
        {"type": "iqr", "warmup": 0},
        {"type": "iqr", "window": 10**9},
        {"type": "iqr", "match": {"metric": ""}},
    ],
)
def test_what_cannot_work_is_refused(table) -> None:
    """Unknown types, keys of another type, values out of bounds."""
    with pytest.raises(msgspec.ValidationError):
        convert(table)
