"""What is counted anywhere is declared once, with its kind, labels and meaning; and what is declared is counted somewhere."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from gateway.control import metrics
from gateway.control.instruments import INSTRUMENTS, SECTIONS, family, with_meaning
from gateway.core.telemetry import Family, Telemetry

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGE = Path(metrics.__file__).resolve().parents[1]
KINDS = {"count": "counter", "gauge": "gauge"}


def calls() -> Iterator[ast.Call]:
    """Return each place where a part counts something."""
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in KINDS:
                if ast.unparse(node.func.value).endswith("telemetry"):
                    yield node


def counted() -> set[str]:
    """Return the names of what is counted where it happens."""
    return {ast.literal_eval(call.args[0]) for call in calls()}


def test_what_is_counted_is_declared_as_it_is_counted() -> None:
    """A name that nobody declared, or that is made up on the way, would stand on no page and mean nothing."""
    for call in calls():
        name = call.args[0]
        assert isinstance(name, ast.Constant), ast.unparse(call)
        assert isinstance(call.func, ast.Attribute)
        declared = INSTRUMENTS[str(name.value)]
        assert declared.kind == KINDS[call.func.attr], ast.unparse(call)
        assert {str(word.arg) for word in call.keywords} == set(declared.labels), ast.unparse(call)
    assert len(counted()) > 20


def test_what_is_declared_comes_from_somewhere() -> None:
    """Counted where it happens, or read from a status, or from the kernel; not both of the first two."""
    from_calls = counted()
    from_status = {
        *metrics.SOURCE_NUMBERS.values(),
        *metrics.CLIENT_NUMBERS.values(),
        *metrics.STORE_NUMBERS.values(),
        *metrics.UPLINK_NUMBERS.values(),
        *(name for _, name in metrics.UPLINK_TABLES.values()),
        *metrics.PUT_OFF_NUMBERS.values(),
        *metrics.BUDGET_NUMBERS.values(),
        *metrics.LINK_BUDGET_NUMBERS.values(),
        *("tidegate_healthy", "tidegate_uptime_seconds", "tidegate_accepted_readings", "tidegate_series_refused"),
        *(name for name, _ in metrics.ENDPOINT_NUMBERS.values()),
        "tidegate_uplink_unheard_subjects",
        "tidegate_uplink_endpoint_state",
        "tidegate_uplink_wire_bytes",
        "tidegate_uplink_free_bytes",
        "tidegate_uplink_thinning_step_seconds",
        "tidegate_store_diluted_step_seconds",
        *("tidegate_link_up", "tidegate_link_wire_bytes", "tidegate_link_used"),
    }
    process = {name for name in INSTRUMENTS if name.startswith("process_")}
    assert from_calls | from_status | process == INSTRUMENTS.keys()
    assert not from_calls & from_status


def test_each_is_declared_once_and_says_what_it_is() -> None:
    """A sentence of its own each; a counter ends in _total on the page and nowhere else."""
    declared = [one for section in SECTIONS.values() for one in section]
    assert len(declared) == len(INSTRUMENTS) == len({one.about for one in declared})
    for one in declared:
        assert one.about.endswith(".")
        assert not one.name.endswith("_total")
        assert one.shown_name.endswith("_total") == (one.kind == "counter")


def test_numbers_come_with_their_meaning() -> None:
    """What nobody declared is shown all the same, by its name."""
    telemetry = Telemetry()
    telemetry.count("tidegate_findings", 2)
    telemetry.gauge("tidegate_odd", 1)
    findings, odd = with_meaning(telemetry.families())
    assert findings == Family("tidegate_findings", INSTRUMENTS["tidegate_findings"].about, "counter", {(): 2})
    assert odd.help == "tidegate_odd"
    with pytest.raises(KeyError):
        family("tidegate_odd", {})
