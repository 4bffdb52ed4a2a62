"""Our receive path costs a fraction of paho's own loop, measured side by side."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from hil.broker import why_no_broker
from hil.fixtures import skip_because


@pytest.mark.alone
@pytest.mark.slow
def test_a_message_costs_a_fifth_of_pahos_loop_at_most() -> None:
    """CPU time of this process, both against the same broker and flood, in one run."""
    skip_because(why_no_broker(), can_be_installed=True)
    spec = importlib.util.spec_from_file_location("paho_bench", Path(__file__).with_name("paho_bench.py"))
    assert spec is not None
    assert spec.loader is not None
    bench = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bench)
    result = bench.compare(messages=20_000, payload_bytes=33, rounds=1, rate=0.0)
    print(result)
    assert result["ratio"] >= 5
