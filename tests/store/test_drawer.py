"""A drawer keeps the newest and stays within its bytes."""

from __future__ import annotations

from gateway.store.drawer import KINDS_MAX, ROW_BYTES, SAMPLE_S, SAMPLES_MAX, Drawer, Samples
from gateway.store.records import SetAside


def test_the_oldest_make_way() -> None:
    """Rows get rising ids; what does not fit goes, oldest first."""
    drawer = Drawer([(4, 100), (5, 100)], bytes_max=300)
    filing = drawer.plan(7, [("x" * (150 - ROW_BYTES),)])
    assert filing.rows == [(6, 7, "x" * (150 - ROW_BYTES))]
    assert filing.first_kept == 5
    assert drawer.size_bytes == 200
    drawer.done(filing)
    assert (len(drawer), drawer.size_bytes) == (2, 250)
    assert drawer.plan(8, []) == ([], 0)


def test_what_is_larger_than_the_drawer_is_not_kept() -> None:
    """Nor is what stood before it."""
    drawer = Drawer([(1, 10)], bytes_max=100)
    filing = drawer.plan(1, [(b"y" * 500,)])
    assert filing == ([], 3)
    drawer.done(filing)
    assert len(drawer) == 0


def test_a_failed_commit_changes_nothing() -> None:
    """The same ids are given again."""
    drawer = Drawer([], bytes_max=1000)
    assert drawer.plan(1, [("a",)]) == drawer.plan(1, [("a",)])


def aside(count: int, *, source: str = "line1", reason: str = "syntax") -> list[SetAside]:
    return [SetAside(source, b"t", b"%d" % k, reason, "no") for k in range(count)]


def test_of_a_flood_some_are_kept_and_then_one_a_minute() -> None:
    """However many come and however often."""
    samples = Samples()
    first = sum(len(samples.pick(aside(5), now_s=0.1 * turn)) for turn in range(100))
    assert first == SAMPLES_MAX
    later = sum(len(samples.pick(aside(5), now_s=10 + turn)) for turn in range(600))
    assert later == 600 / SAMPLE_S


def test_kinds_have_their_own_samples() -> None:
    """A noisy line leaves room for another one, and for another reason."""
    samples = Samples()
    samples.pick(aside(SAMPLES_MAX), now_s=0)
    assert samples.pick(aside(5), now_s=0) == []
    assert len(samples.pick(aside(5, source="line2"), now_s=0)) == 5
    assert len(samples.pick(aside(5, reason="no_mapping"), now_s=0)) == 5


def test_after_a_quiet_time_there_is_room_again() -> None:
    """For as many as at first, not more."""
    samples = Samples()
    samples.pick(aside(SAMPLES_MAX), now_s=0)
    assert len(samples.pick(aside(1000), now_s=1e6)) == SAMPLES_MAX


def test_kinds_are_bounded() -> None:
    """Past the bound all are new again."""
    samples = Samples()
    for k in range(3 * KINDS_MAX):
        samples.pick(aside(1, reason=f"r{k}"), now_s=0)
    assert len(samples._kinds) <= KINDS_MAX


def test_it_grows_by_what_finds_a_place_in_it() -> None:
    """What is set aside lets nobody go for room that it will not take."""
    drawer = Drawer([(1, 700), (2, 100)], bytes_max=1000)
    assert drawer.growth_bytes([]) == 0
    assert drawer.growth_bytes([(b"x" * 50,)]) == 50 + ROW_BYTES
    assert drawer.growth_bytes([(b"x" * 50_000,)]) == 0
    filing = drawer.plan(0, [(b"x" * 500,)])
    assert filing.first_kept == 2
    assert drawer.growth_bytes([(b"x" * 500,)]) == 0
    drawer.done(filing)
    assert drawer.size_bytes == 100 + 500 + ROW_BYTES
