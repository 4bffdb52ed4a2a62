"""Series keep their numbers, and a damaged one is noticed."""

from __future__ import annotations

import pytest

from gateway.core.batch import Series
from gateway.store.series import SeriesRegistry, decode_series, encode_series


def test_numbers_rise_and_stay() -> None:
    """A new series is new once; nothing beyond the bound."""
    registry = SeriesRegistry([(3, Series((), "a"))], series_max=2)
    assert registry.resolve(Series((), "a")) == 3
    assert registry.resolve(Series((), "b")) == 4
    assert registry.resolve(Series((), "b")) == 4
    assert registry.resolve(Series((), "c")) is None
    assert (len(registry), registry.series(4).name) == (2, "b")


def test_new_ones_wait_for_a_commit() -> None:
    """What came while it ran waits for the next."""
    registry = SeriesRegistry([], series_max=9, next_number=7)
    registry.resolve(Series((), "a"))
    ((number, body),) = registry.unsaved()
    registry.resolve(Series((), "b"))
    registry.saved(1)
    assert (number, decode_series(body).name) == (7, "a")
    assert [decode_series(row[1]).name for row in registry.unsaved()] == ["b"]


def test_a_lost_series_has_a_stand_in() -> None:
    """Its readings still leave, marked."""
    assert SeriesRegistry([], series_max=1).series(9).resource == (("tidegate.series.lost", 9),)


@pytest.mark.parametrize("value", ["text", True, 5, 5.5, 1e300, 2**63 - 1])
def test_attributes_keep_their_type(value) -> None:
    """Text, truth, integers and doubles."""
    series = Series((("k", value),), "m", "Cel", "sum", (("a", value),), "scope")
    back = decode_series(encode_series(series))
    assert back == series
    assert type(back.resource[0][1]) is type(value)


def test_damage_is_noticed() -> None:
    """A flipped bit does not rename a sensor, and a row of another type is none."""
    data = bytearray(encode_series(Series((), "m")))
    data[-1] ^= 1
    for damaged in (bytes(data), b"", 5, None):
        with pytest.raises(ValueError):
            decode_series(damaged)
