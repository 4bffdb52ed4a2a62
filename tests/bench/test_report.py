"""The suite's table and verdicts."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from gateway.bench import report, suite
from gateway.bench.report import Bench, Figure, Skipped, bench

if TYPE_CHECKING:
    from collections.abc import Iterable

    import pytest


def fake(monkeypatch: pytest.MonkeyPatch, *results: report.Result) -> None:
    def run(_quick: bool) -> Iterable[report.Result]:
        return results

    monkeypatch.setattr(suite, "SUITE", [Bench("fake", run, "nothing")])


def test_a_floor_that_is_missed_is_an_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And said on stderr."""
    fake(monkeypatch, Figure("speed", 5, "k/s", floor=10, better="more"))
    assert bench(only=None, as_json=False, quick=True) == 1
    assert "floor missed: speed" in capsys.readouterr().err


def test_a_goal_that_is_missed_is_only_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Goals are reached for, floors are held."""
    fake(monkeypatch, Figure("speed", 15, "k/s", floor=10, goal=20, better="more"), Skipped("x", "no broker"))
    assert bench(only="fake", as_json=False, quick=True) == 0
    text = capsys.readouterr().out
    assert "goal 20 ✗" in text
    assert "skipped, no broker" in text


def test_json_has_everything(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Machine, figures with their verdicts, what was skipped."""
    fake(monkeypatch, Figure("rss", 48, "MB", floor=50), Skipped("x", "no broker"))
    assert bench(only=None, as_json=True, quick=True) == 0
    read = json.loads(capsys.readouterr().out)
    assert read["figures"][0]["floor_met"] is True
    assert read["figures"][0]["goal_met"] is None
    assert read["skipped"] == [{"name": "x", "reason": "no broker"}]
    assert read["machine"]["cores"]


def test_names_are_listed_and_unknown_ones_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--only list` is fine, `--only typo` is bad usage."""
    fake(monkeypatch)
    assert bench(only="list", as_json=False, quick=True) == 0
    assert "fake" in capsys.readouterr().out
    assert bench(only="typo", as_json=False, quick=True) == 2
    said = capsys.readouterr()
    assert not said.out
    assert "--only typo: there is no such part" in said.err
    assert "fake" in said.err


def test_what_is_long_runs_only_where_it_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And the list says so."""
    ran: list[bool] = []

    def run(quick: bool) -> Iterable[report.Result]:
        ran.append(quick)
        return ()

    monkeypatch.setattr(suite, "SUITE", [Bench("month", run, "all of it", is_long=True)])
    assert bench(only=None, as_json=False, quick=True) == 0
    assert not ran
    assert bench(only="month", as_json=False, quick=False) == 0
    assert ran == [False]
    assert bench(only="list", as_json=False, quick=False) == 0
    assert "by name alone" in capsys.readouterr().out
