"""A gateway in a process of its own says what it lost as log records, however little, between its reports of metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from hil.attacks import publish_all
from hil.children import wait_until
from hil.gateway_child import Site
from hil.otlp_sink import Behaviour

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from hil.children import Child
    from hil.otlp_readings import Reading
    from hil.otlp_sink import OtlpSink

TOPIC = b"plant/d1/count"
# Half a minute, and as long again for a machine that has other things to do.
WITHIN_S = 60.0


def said(sink: OtlpSink) -> dict[str, int]:
    """Return what the log records say was lost, by reason, all of them together."""
    found: dict[str, int] = {}
    for line in sink.logs():
        attributes = dict(line.attributes)
        reason = str(attributes["tidegate.ledger.reason"])
        found[reason] = found.get(reason, 0) + int(str(attributes["tidegate.ledger.readings"]))
    return found


def is_odd(reading: Reading) -> bool:
    return reading.metric == "n" and float(reading.value) >= 1000


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_small_losses_are_said_behind_reports_and_across_a_restart(
    tmp_path: Path, otlp_sink: OtlpSink, make_child: Callable[..., Child]
) -> None:
    """Payloads that nobody understands, readings that the far side refuses, and what is lost just before the end."""
    site = Site(tmp_path, endpoint=otlp_sink.url, make_child=make_child, gateway='report_interval = "1s"')
    child = site.start()
    otlp_sink.always = Behaviour(refuses=is_odd)
    publish_all(site.mqtt, [(TOPIC, b'{"n": 1}')])
    wait_until(lambda: any(reading.metric.startswith("tidegate.") for reading in otlp_sink.readings()), "a report")
    publish_all(site.mqtt, [(TOPIC, b"no json")] * 5 + [(TOPIC, b'{"n": %d}' % n) for n in (1000, 1001, 1002)])
    wait_until(lambda: sum(said(otlp_sink).values()) >= 8, "what was lost to be said", within_s=WITHIN_S)
    publish_all(site.mqtt, [(TOPIC, b"no json")] * 2)
    assert child.terminate() == 0
    site.start()
    wait_until(lambda: sum(said(otlp_sink).values()) >= 10, "what was lost last to be said", within_s=WITHIN_S)
    assert said(otlp_sink) == site.drain().ledger
    assert set(said(otlp_sink).values()) == {7, 3}
