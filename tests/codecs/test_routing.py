"""What the parts of mapping hand each other."""

from __future__ import annotations

import numpy as np

from gateway.codecs.device_time import Moment, Times
from gateway.codecs.mapping_settings import MappingSettings, MetricSettings
from gateway.codecs.routing import MORE_LOST, SENTENCES_MAX, Naming, Output, RefusingPlan, Rows, Topic, Work
from gateway.core.batch import MONOTONIC, Series
from gateway.core.contracts import Priority


def add(output: Output, priority: Priority, *values: int, flags: object = MONOTONIC, kinds: object = 1) -> None:
    """Add readings whose columns can be told apart."""
    bits = np.array(values, np.int64)
    output.add(priority, series=bits + 1, times=Times(bits + 2, flags), bits=bits, kinds=kinds)  # type: ignore[arg-type]


def test_pieces_come_by_priority() -> None:
    """Most important first, each of all its columns; none that is empty."""
    output = Output()
    add(output, Priority.BULK, 10)
    add(output, Priority.CRITICAL, 20, 30)
    add(output, Priority.BULK, 40)
    add(output, Priority.NORMAL)
    (first, critical), (second, bulk) = output.pieces()
    assert (first, second) == (Priority.CRITICAL, Priority.BULK)
    assert (critical.bits.tolist(), bulk.bits.tolist()) == ([20, 30], [10, 40])
    assert (bulk.series.tolist(), bulk.time_ns.tolist(), bulk.flags.tolist()) == ([11, 41], [12, 42], [5, 5])


def test_flags_may_be_one_for_all_or_one_for_each() -> None:
    """Kinds too."""
    output = Output()
    add(output, Priority.NORMAL, 1, 2, flags=np.array([0, 4], np.uint8))
    add(output, Priority.NORMAL, 3, flags=0, kinds=np.array([2], np.uint8))
    add(output, Priority.NORMAL, 4, flags=0, kinds=0)
    ((_, batch),) = output.pieces()
    assert batch.flags.tolist() == [1, 5, 2, 0]


def test_a_part_of_the_work_knows_its_positions() -> None:
    """And what it loses is lost at those."""
    work = Work([b"a", b"b", b"c"], np.array([4, 5, 6]), np.array([1, 2, 3]), Moment(0, 0, 0))
    part = work.take(np.array([2, 0]))
    assert (part.payloads, part.positions.tolist(), part.rows.tolist()) == ([b"c", b"a"], [6, 4], [3, 1])
    part.lose(int(part.positions[0]), "odd", "why", readings=2)
    assert work.output.malformed == [(6, "odd", "why", 2)]


def test_however_much_a_payload_loses_few_entries_say_it() -> None:
    """Each counts; of one reason so many sentences are kept, and no reading goes uncounted."""
    work = Work([], np.array([], np.intp), np.array([], np.intp), Moment(0, 0, 0))
    work.lose_each(np.array([7, 5] * 50_000), "no_readings", "nothing there")
    for k in range(1000):
        work.lose(5, "wrong_type", f"x is {k}")
        work.lose(7, "wrong_type", "x is y", readings=2)
    found = work.output.malformed
    assert found[:4] == [
        (5, "no_readings", "nothing there", 50_000),
        (7, "no_readings", "nothing there", 50_000),
        (5, "wrong_type", "x is 0", 1),
        (7, "wrong_type", "x is y", 2000),
    ]
    assert len(found) == 2 + 1 + SENTENCES_MAX + 1
    assert found[-1] == (5, "wrong_type", MORE_LOST, 1000 - SENTENCES_MAX)
    assert work.output.lost == sum(lost.readings for lost in found) == 103_000


def test_a_refusing_plan_loses_everything_with_its_topic() -> None:
    """For one reason."""
    plan = RefusingPlan("odd", lambda topic: f"not {topic}")
    rows = [plan.add_topic(Topic("a", {})), plan.add_topic(Topic("b", {}))]
    work = Work([b"", b""], np.array([0, 1]), np.array(rows[::-1]), Moment(0, 0, 0))
    plan.map(work)
    assert work.output.malformed == [(0, "odd", "not b", 1), (1, "odd", "not a", 1)]
    plan.drop_topics(rows[:1])
    plan.forget_series(np.array([1], np.uint32))
    assert plan.add_topic(Topic("c", {})) == rows[0]


def test_rows_are_used_again() -> None:
    """What is left keeps its row."""
    rows: Rows[str] = Rows()
    assert [rows.add(word) for word in "abc"] == [0, 1, 2]
    rows.drop([0, 2])
    assert (len(rows), rows.values(), rows[1]) == (1, ["b"], "b")
    assert sorted(rows.add(word) for word in "de") == [0, 2]
    assert (rows.add("f"), len(rows)) == (3, 4)


def test_a_series_is_named_by_the_mapping_and_the_topic() -> None:
    """Attributes sorted by key, texts filled in."""
    settings = MappingSettings(match="{x}", resource={"z": 1, "a": "{x}"}, attributes={"t": "{topic}"})
    topic = Topic("q", {"x": "q", "topic": "q", "source": "s"})
    naming = Naming(settings, known=["x"])
    assert naming.series(topic, "m") == Series((("a", "q"), ("z", 1)), "m", attributes=(("t", "q"),))
    metric = MetricSettings(field="f", unit="W", kind="sum")
    assert naming.series(topic, "m", metric) == Series(
        (("a", "q"), ("z", 1)), "m", "W", "sum", attributes=(("t", "q"),)
    )


def test_what_a_bare_number_is_called() -> None:
    """The last level, the topic if that is empty, something if there is none."""
    assert [Topic(text, {}).last_level for text in ("a/b", "a/", "")] == ["b", "a/", "value"]
