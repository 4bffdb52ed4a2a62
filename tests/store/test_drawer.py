"""A drawer keeps the newest and stays within its bytes."""

from __future__ import annotations

from gateway.store.drawer import ROW_BYTES, Drawer


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
