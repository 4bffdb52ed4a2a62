"""Which detector sees which series, and what comes out."""

from __future__ import annotations

import re

import numpy as np
import pytest

from gateway.core.batch import MONOTONIC, UNKEPT, Batch, Series
from gateway.core.units import Duration
from gateway.detect.engine import Engine, identify, matcher
from gateway.detect.saved import pack, unpack
from gateway.detect.settings import IqrSettings, Match, ZScoreSettings

SECOND = 10**9
DEVICE = (("device.id", "pump-7"),)
TEMPERATURE = Series(resource=DEVICE, name="temperature", unit="Cel")
HUMIDITY = Series(resource=DEVICE, name="humidity", unit="%", attributes=(("place", "roof"), ("hot", True)))
LOG = Series(resource=DEVICE, name="", kind="log")
TABLE = {1: TEMPERATURE, 2: HUMIDITY, 3: LOG}


def engine(*settings, table=None) -> Engine:
    return Engine(settings or (ZScoreSettings(),), series=(table or TABLE).__getitem__)


def noise(number: int, readings: int, *, seed: int = 1, level: float = 20.0, start: int = 0) -> Batch:
    values = np.random.default_rng(seed).normal(level, 0.5, readings)
    return Batch.of(number, np.arange(start, start + readings) * SECOND, values)


def test_numbers_that_the_shelf_does_not_know_are_named_by_another() -> None:
    """From UNKEPT on; detectors watch those as all others."""
    watched = engine(ZScoreSettings(match=Match(metric="level")), ZScoreSettings(series_max=7))
    watched.name_unkept({UNKEPT: Series((), "level"), UNKEPT + 5: Series((), "flow")}.__getitem__)
    watched.watch(noise(UNKEPT, 100))
    watched.watch(noise(UNKEPT + 5, 100))
    found = watched.watch(Batch.of(UNKEPT, [777], np.array([93.25])))
    assert [(one.detector, one.series, one.text[:8]) for one in found] == [
        ("zscore", UNKEPT, "level is"), ("zscore-2", UNKEPT, "level is"),
    ]  # fmt: skip
    assert watched.series(UNKEPT + 5).name == "flow"
    assert watched.series(1) is TEMPERATURE
    assert [one["series"] for one in watched.status().values()] == [1, 2]
    assert watched.series_max == 10_000


def test_it_can_be_asked_what_is_watched() -> None:
    """Before a series has a number: by its name and unit alone, or by all of it."""
    watched = engine(
        ZScoreSettings(match=Match(metric="temp*", attributes={"device.id": "pump-*"})),
        IqrSettings(match=Match(unit="%")),
    )
    assert watched.wants(TEMPERATURE)
    assert watched.wants(HUMIDITY)
    assert not watched.wants(Series((), "temperature"))
    assert not watched.wants(LOG)
    assert watched.wants_named("temperature", "")
    assert watched.wants_named("x", "%")
    assert not watched.wants_named("x", "m")


def test_a_spike_becomes_a_finding_that_says_all() -> None:
    """What, whose, how odd, what was expected, and the reading's own time and flags."""
    watched = engine(ZScoreSettings(name="calm"))
    assert watched.watch(noise(1, 500)) == []
    (found,) = watched.watch(Batch.of(1, [777], np.array([93.25]), flags=MONOTONIC))
    assert (found.detector, found.series, found.time_ns, found.flags) == ("calm", 1, 777, MONOTONIC)
    assert found.value == 93.25
    assert found.score > 100
    assert found.threshold == 5.0
    assert found.expected == pytest.approx(20, abs=0.2)
    assert re.fullmatch(
        r"temperature of device\.id=pump-7 is 93\.25 Cel, \d+ standard deviations from its mean "
        r"\(threshold 5; expected about (19\.\d|20(\.\d)?) Cel\)",
        found.text,
    )


@pytest.mark.parametrize("kind", [ZScoreSettings, IqrSettings])
@pytest.mark.parametrize(("warmup", "findings"), [(64, 1), (300, 1), (301, 0)])
def test_nothing_is_judged_before_the_warmup_is_over(kind: type, warmup: int, findings: int) -> None:
    """As many readings as the setting says, whatever the detector."""
    watched = engine(kind(warmup=warmup))
    watched.watch(noise(1, 300))
    assert len(watched.watch(Batch.of(1, [777], np.array([93.25])))) == findings


def test_a_detector_sees_what_it_is_told_to_see() -> None:
    """By metric; findings carry the name of who found them."""
    watched = engine(ZScoreSettings(match=Match(metric="temp*")), IqrSettings(match=Match(metric="humidity")))
    for number in (1, 2):
        watched.watch(noise(number, 500))
    found = watched.watch(Batch.of([1, 2], [0, 0], np.array([99.0, 99.0])))
    assert [(one.detector, one.series) for one in found] == [("zscore", 1), ("iqr", 2)]
    assert [status["series"] for status in watched.status().values()] == [1, 1]
    assert watched.watch(Batch.of(3, [0], np.array([1.0]))) == []


@pytest.mark.parametrize(
    ("match", "fits"),
    [
        (Match(), [True, True]),
        (Match(metric="h?midity"), [False, True]),
        (Match(unit="Cel"), [True, False]),
        (Match(attributes={"device.id": "pump-*"}), [True, True]),
        (Match(attributes={"place": "roof", "hot": "true"}), [False, True]),
        (Match(attributes={"device.id": "valve-*"}), [False, False]),
        (Match(metric="temp"), [False, False]),
    ],
)
def test_matching(match: Match, fits: list[bool]) -> None:
    """Globs over the metric, the unit, and attributes of resource and point; logs never match."""
    wanted = matcher(match)
    assert [wanted(TEMPERATURE), wanted(HUMIDITY)] == fits
    assert not wanted(LOG)


def test_integers_are_watched_as_numbers() -> None:
    """Kinds may change within a batch."""
    watched = engine()
    watched.watch(Batch.of(1, np.arange(500), np.random.default_rng(1).integers(90, 110, 500)))
    (found,) = watched.watch(Batch.of(1, [0], np.array([5000])))
    assert found.value == 5000


def test_many_series_in_any_order_with_large_numbers() -> None:
    """The table from numbers to rows grows; each series has a row of its own."""
    table = {number: Series(resource=(("n", number),), name="t") for number in (5, 70_000, 300)}
    watched = engine(table=table)
    numbers = np.random.default_rng(2).choice([5, 70_000, 300], 3000)
    values = np.random.default_rng(3).normal(numbers, 1.0)
    assert watched.watch(Batch.of(numbers, np.arange(3000), values)) == []
    found = watched.watch(Batch.of([300, 5, 70_000], [1, 2, 3], np.array([400.0, 5.0, 70_000.0])))
    assert [one.series for one in found] == [300]


def test_past_the_bound_series_are_counted_and_left_alone() -> None:
    """Memory has an end; those that are watched go on."""
    watched = engine(ZScoreSettings(series_max=1))
    watched.watch(noise(1, 500))
    watched.watch(noise(2, 500))
    watched.watch(noise(2, 500))
    status = watched.status()["zscore"]
    assert (status["series"], status["series_over_limit"], status["readings"]) == (1, 1, 500)


def crowd(count: int) -> dict[int, Series]:
    """Return series whose numbers are far apart, as after many floods."""
    return {k * 100_000_007 % 2**32: Series(resource=(("n", k),), name="t") for k in range(1, count + 1)}


def numbers(*found: int) -> np.ndarray:
    return np.array(sorted(found), np.uint32)


def test_numbers_that_grow_for_ever_cost_nothing() -> None:
    """Four billion of them, a few at a time: the table is as large as what is watched now."""
    table = crowd(2000)
    watched = engine(table=table)
    for number in table:
        watched.watch(noise(number, 8))
        watched.forget_series(numbers(number))
    watch = watched._watches[0]
    assert (len(watch._row_of), watch._row_of.places) == (0, 64)
    assert max(table) > 2**31


def test_rows_of_forgotten_series_are_given_to_others() -> None:
    """When there are no more, the longest forgotten first; what one had learnt is not taken for the other's."""
    table = crowd(4)
    first, second, third, fourth = table
    watched = engine(ZScoreSettings(series_max=2), table=table)
    watched.watch(noise(first, 500))
    watched.watch(Batch.of(first, [1], np.array([99.0])))
    watched.watch(noise(second, 500))
    watched.forget_series(numbers(first))
    assert watched.watch(noise(third, 60, level=5000.0)) == []
    status = watched.status()["zscore"]
    assert (status["series"], status["series_over_limit"]) == (2, 0)
    watched.watch(noise(third, 500, level=5000.0, start=60))
    (found,) = watched.watch(Batch.of(third, [0], np.array([20.0])))
    assert found.expected == pytest.approx(5000, rel=0.01)
    assert watched.watch(noise(fourth, 10)) == []
    assert watched.status()["zscore"]["series_over_limit"] == 1


def test_of_several_forgotten_series_the_longest_forgotten_loses_its_row() -> None:
    """The other one is still known when it comes back."""
    table = {1: TEMPERATURE, 2: HUMIDITY, 3: Series((("device.id", "new"),), "temperature"), 77: HUMIDITY}
    watched = engine(ZScoreSettings(series_max=2), table=table)
    watched.watch(noise(1, 500))
    watched.watch(noise(2, 500))
    watched.forget_series(numbers(1))
    watched.forget_series(numbers(2))
    watched.watch(noise(3, 10))
    (found,) = watched.watch(Batch.of(77, [0], np.array([9999.0])))
    assert found.series == 77


def test_a_series_that_comes_back_is_known() -> None:
    """Under its new number it is judged at once, by what was learnt under the old one."""
    table = {1: TEMPERATURE, 2: HUMIDITY, 77: TEMPERATURE}
    watched = engine(table=table)
    watched.watch(noise(1, 500))
    watched.forget_series(numbers(1))
    (found,) = watched.watch(Batch.of(77, [0], np.array([93.0])))
    assert found.series == 77


def test_who_found_no_row_gets_one_that_comes_free() -> None:
    """It is asked again when others are forgotten, and no longer counted as over the limit."""
    table = crowd(3)
    first, second, third = table
    watched = engine(ZScoreSettings(series_max=1), table=table)
    for number in (first, second, third):
        watched.watch(noise(number, 100))
    assert watched.status()["zscore"]["series_over_limit"] == 2
    watched.forget_series(numbers(first, third))
    watched.watch(noise(second, 100))
    status = watched.status()["zscore"]
    assert (status["series_over_limit"], status["readings"]) == (0, 200)


def test_restored_rows_are_kept_for_those_who_have_not_spoken_yet() -> None:
    """Until the first series of this run are forgotten: what is silent for so long may go too."""
    before = engine(ZScoreSettings(series_max=2), table=crowd(2))
    for number in crowd(2):
        before.watch(noise(number, 100))
    table = crowd(5)
    first, second, third, fourth, fifth = table
    watched = engine(ZScoreSettings(series_max=2), table=table)
    assert watched.restore(before.save())
    watched.watch(noise(first, 10))
    watched.watch(noise(third, 10))
    assert watched.status()["zscore"]["series_over_limit"] == 1
    watched.forget_series(numbers(first))
    watched.watch(noise(fourth, 10))
    watched.watch(noise(fifth, 10))
    status = watched.status()["zscore"]
    assert (status["series_over_limit"], status["readings"]) == (0, 30)


def test_findings_past_the_bound_are_counted() -> None:
    """One batch gives so many at most."""
    table = {number: Series(resource=(("n", number),), name="t") for number in range(1, 51)}
    watched = engine(ZScoreSettings(findings_max=10), table=table)
    numbers = np.tile(np.arange(1, 51), 200)
    watched.watch(Batch.of(numbers, np.arange(10_000), np.random.default_rng(4).normal(0, 1, 10_000)))
    assert len(watched.watch(Batch.of(np.arange(1, 51), np.zeros(50), np.full(50, 99.0)))) == 10
    assert watched.status()["zscore"]["findings_over_limit"] == 40


def test_what_is_no_number_is_counted_and_never_a_finding() -> None:
    """NaN and infinities, alone or between others."""
    watched = engine()
    watched.watch(noise(1, 500))
    assert watched.watch(Batch.of(1, [1, 2], np.array([np.nan, np.inf]))) == []
    (found,) = watched.watch(Batch.of(1, [1, 2], np.array([np.nan, 99.0])))
    assert found.value == 99.0
    assert watched.status()["zscore"]["not_finite"] == 3


@pytest.mark.parametrize("silence_s", [300, 1000])
def test_silence_is_told_in_time(silence_s: int) -> None:
    """Readings a second apart."""
    watched = engine(ZScoreSettings(habituation=0, silence=Duration(silence_s)))
    watched.watch(noise(1, 500))
    spike = np.array([99.0])
    assert len(watched.watch(Batch.of(1, [500 * SECOND], spike))) == 1
    watched.watch(noise(1, silence_s - 2, seed=2, start=501))
    assert watched.watch(Batch.of(1, [(500 + silence_s - 1) * SECOND], spike)) == []
    assert len(watched.watch(Batch.of(1, [(500 + silence_s) * SECOND], spike))) == 1


@pytest.mark.parametrize(("span", "expected"), [(50, 21.0), (100_000, 20.3)])
def test_the_past_is_forgotten_over_the_span(span: int, expected: float) -> None:
    """After 700 readings of 20 and 300 of 21 it is the new level that is expected, or the mean of all."""
    watched = engine(ZScoreSettings(span=span))
    watched.watch(noise(1, 700))
    watched.watch(noise(1, 300, seed=2, level=21.0, start=700))
    (found,) = watched.watch(Batch.of(1, [1000 * SECOND], np.array([99.0])))
    assert found.expected == pytest.approx(expected, abs=0.15)


@pytest.mark.parametrize("kind", [ZScoreSettings, IqrSettings])
def test_a_scale_is_never_smaller_than_is_said(kind) -> None:
    """Ten degrees are much for a series that keeps within one, and nothing to speak of where five are said to be one."""
    for scale_min, findings in ((0.0, 1), (5.0, 0)):
        watched = engine(kind(scale_min=scale_min))
        watched.watch(noise(1, 2000))
        assert len(watched.watch(Batch.of(1, [2000 * SECOND], np.array([30.0])))) == findings


def test_detectors_without_a_name_are_told_apart() -> None:
    """By their type and a number."""
    watched = engine(ZScoreSettings(), ZScoreSettings(), IqrSettings(), ZScoreSettings(name="mine"))
    assert list(watched.status()) == ["zscore", "zscore-2", "iqr", "mine"]


def test_an_empty_batch_and_no_detector() -> None:
    """Nothing happens."""
    assert engine().watch(Batch.empty()) == []
    assert Engine((), series=TABLE.__getitem__).watch(noise(1, 3)) == []


BOTH = (ZScoreSettings(), IqrSettings())


def test_restored_it_goes_on_where_it_stopped() -> None:
    """The same findings as if there had been no restart, also when series have got other numbers."""
    first = engine(*BOTH)
    for number in (1, 2):
        first.watch(noise(number, 500))
    renumbered = {8: HUMIDITY, 9: TEMPERATURE}
    second = engine(*BOTH, table=renumbered)
    assert second.restore(first.save())
    odd = np.array([25.0, 99.0])
    ours = first.watch(Batch.of([1, 2], [0, 0], odd))
    theirs = second.watch(Batch.of([9, 8], [0, 0], odd))
    assert [(one.detector, one.score) for one in ours] == [(one.detector, one.score) for one in theirs]
    assert second.status()["zscore"]["series"] == 2
    assert second.save() == first.save()


@pytest.mark.parametrize(("seen", "findings"), [(8, 0), (100, 0), (250, 0), (256, 1), (300, 1), (5000, 1)])
def test_what_a_version_saved_that_kept_each_eighth_reading_is_taken(seen: int, findings: int) -> None:
    """With nothing in it that was not seen, and judged by as soon as it is enough, at any age of the series."""
    older = engine(IqrSettings())
    readings = noise(1, seen, level=1000.0)
    older.watch(readings.take(slice(0, 1)))
    state = older._watches[0].detector.state()
    state["spacing"][:] = IqrSettings().stride
    older.watch(readings.take(slice(1, None)))
    kept = readings.values()[:: IqrSettings().stride][-IqrSettings().window :]
    assert sorted(state["kept"][0][state["kept"][0] != 0]) == sorted(kept)
    arrays = unpack(older.save())
    del arrays["iqr/iqr/row/spacing"]
    newer = engine(IqrSettings())
    assert newer.restore(pack(arrays))
    assert len(newer.watch(Batch.of(1, [seen * SECOND], np.array([1500.0])))) == findings
    assert newer.watch(noise(1, 1000, seed=2, level=1000.0, start=seen + 1)) == []
    assert len(newer.watch(Batch.of(1, [(seen + 2000) * SECOND], np.array([2500.0])))) == 1


@pytest.mark.parametrize("seen", [8, 300, 520, 5000])
@pytest.mark.parametrize("stride", [1, 3, 8, 20, 100])
def test_a_stride_may_be_set_anew(seen: int, stride: int) -> None:
    """What was kept at another one goes on to be used, as far as it was ever written."""
    before = engine(IqrSettings())
    before.watch(noise(1, seen, level=1000.0))
    after = engine(IqrSettings(stride=stride))
    assert after.restore(before.save())
    for k in range(20):
        assert after.watch(noise(1, 300, seed=k, level=1000.0, start=seen + 300 * k)) == []
    detector = after._watches[0].detector
    assert detector.state()["spacing"].max() <= max(stride, 8 if seen < 1024 else stride)
    assert detector.expected(np.zeros(1, np.intp))[0] == pytest.approx(1000.0, abs=0.5)
    assert len(after.watch(Batch.of(1, [10**6 * SECOND], np.array([1500.0])))) == 1


def test_a_damaged_state_is_refused_and_everything_starts_fresh() -> None:
    """Counted, and never an exception."""
    watched = engine()
    watched.watch(noise(1, 500))
    data = bytearray(watched.save())
    data[len(data) // 2] ^= 1
    fresh = engine()
    assert not fresh.restore(bytes(data))
    assert not fresh.restore(b"")
    assert fresh.states_refused == 2
    assert fresh.watch(noise(1, 500)) == []


def test_a_state_for_other_settings_is_left_and_the_rest_taken() -> None:
    """A changed window starts that detector fresh; the other one keeps what it learnt."""
    first = engine(*BOTH)
    first.watch(noise(1, 500))
    second = engine(ZScoreSettings(threshold=9.0), IqrSettings(window=64))
    assert not second.restore(first.save())
    assert second.states_refused == 1
    second.watch(noise(1, 1))
    assert second.status()["zscore"]["series"] == 1
    assert [one.detector for one in second.watch(Batch.of(1, [0], np.array([99.0])))] == ["zscore"]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda arrays: arrays.pop("zscore/zscore/identity"),
        lambda arrays: arrays.pop("zscore/zscore/gate"),
        lambda arrays: arrays.pop("zscore/zscore/row/mean"),
        lambda arrays: arrays.update({"zscore/zscore/row/mean": np.zeros(7)}),
        lambda arrays: arrays.update({"zscore/zscore/row/seen": np.zeros(1)}),
        lambda arrays: arrays.update({"zscore/zscore/row/mean": np.array([np.nan])}),
        lambda arrays: arrays.update({"zscore/zscore/gate": np.zeros((1, 3))}),
        lambda arrays: arrays.update({"zscore/zscore/gate": np.array([[0, np.inf, 0, 0]])}),
        lambda arrays: arrays.update({"zscore/zscore/identity": np.zeros(1)}),
        lambda arrays: arrays.update({"iqr/iqr/row/spacing": np.ones(7, np.int64)}),
        lambda arrays: arrays.update({"iqr/iqr/row/spacing": np.ones(1)}),
    ],
)
def test_a_state_with_a_right_checksum_is_checked_all_the_same(spoil) -> None:
    """Missing, of another shape or kind, not finite."""
    first = engine(*BOTH)
    first.watch(noise(1, 500))
    arrays = unpack(first.save())
    spoil(arrays)
    assert not engine(*BOTH).restore(pack(arrays))


@pytest.mark.parametrize("spacing", [-(2**63), -1, 0, 3, 2**62])
def test_a_spacing_that_cannot_be_harms_nobody(spacing: int) -> None:
    """It is taken for what it says, or for none."""
    first = engine(IqrSettings())
    first.watch(noise(1, 500))
    arrays = unpack(first.save())
    arrays["iqr/iqr/row/spacing"][:] = spacing
    second = engine(IqrSettings())
    assert second.restore(pack(arrays))
    second.watch(noise(1, 2000, start=500))
    assert second.status()["iqr"]["readings"] == 2000


def test_state_is_restored_before_the_first_batch_only() -> None:
    """Later it would belong to other rows."""
    watched = engine()
    watched.watch(noise(1, 500))
    assert not watched.restore(watched.save())


def test_a_series_is_known_again_by_what_it_is() -> None:
    """The same bits in every run, other ones for any difference."""
    assert identify(TEMPERATURE) == 0x6FD16FE681B5901F
    others = [HUMIDITY, LOG, Series(resource=DEVICE, name="temperature", unit="K")]
    assert identify(TEMPERATURE) not in {identify(other) for other in others}
