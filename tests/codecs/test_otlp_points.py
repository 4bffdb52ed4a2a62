"""Number points as columns, held against what the official classes read."""

from __future__ import annotations

import contextlib
import struct
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.metrics.v1.metrics_pb2 import NumberDataPoint, ResourceMetrics

from gateway.codecs import otlp_points, protobuf
from gateway.codecs.otlp_points import IDLE_S, WORDS_BYTES_MAX, Points, read_value
from gateway.core.batch import KIND_MASK, UNKEPT, Series, ValueKind

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.core.batch import Batch

UNKNOWN = protobuf.text(200, "from the future")
PROGRAM = (("service.name", "shop"),)


def points(**options: Any) -> Points:
    parts: dict[str, Any] = {
        "wants_named": lambda name, unit: True,
        "wants": lambda series: True,
        "series_max": 1000,
        "bytes_max": 1 << 20,
    }
    return Points(**parts | options)


def message(*values: float, at_ns: int = 1000, name: str = "level", **more: Any) -> ResourceMetrics:
    """One gauge with a point for each value, whose attribute `k` is its place."""
    found = ResourceMetrics()
    found.resource.attributes.add(key="service.name").value.string_value = "shop"
    scope = found.scope_metrics.add()
    scope.scope.name, scope.scope.version = "lib", "1"
    metric = scope.metrics.add(name=name, unit="m", description="how high")
    for k, value in enumerate(values):
        kind = {"as_int": value} if isinstance(value, int) else {"as_double": value}
        point = metric.gauge.data_points.add(time_unix_nano=at_ns + k, **kind, **more)
        point.attributes.add(key="k").value.int_value = k
    return found


def rows(watched: Points, batch: Batch) -> set[tuple[Series, int, int, float]]:
    """Return each reading by what it is: the series, the time, the kind and the value."""
    numbers, kinds = batch.series.tolist(), (batch.flags & KIND_MASK).tolist()
    columns = zip(numbers, batch.time_ns.tolist(), kinds, batch.values().tolist(), strict=True)
    return {(watched.series(number), *rest) for number, *rest in columns}


def expected(*messages: ResourceMetrics) -> set[tuple[Series, int, int, float]]:
    """Return the same, by the official classes."""
    found = set()
    for one in messages:
        resource = tuple(sorted((pair.key, value_of(pair.value)) for pair in one.resource.attributes))
        for scope in one.scope_metrics:
            for metric in scope.metrics:
                kind = metric.WhichOneof("data")
                for point in getattr(metric, kind).data_points if kind in {"gauge", "sum"} else ():
                    which = point.WhichOneof("value")
                    if which is None or point.flags & 1:
                        continue
                    more = dict(sorted((pair.key, value_of(pair.value)) for pair in point.attributes))
                    series = Series(resource, metric.name, metric.unit, kind, tuple(more.items()), scope.scope.name)
                    time_ns = struct.unpack("<q", struct.pack("<Q", point.time_unix_nano))[0]
                    is_int = which == "as_int"
                    found.add((series, time_ns, int(is_int), float(getattr(point, which))))
    return found


def value_of(value: Any) -> Any:
    which = value.WhichOneof("value")
    return "" if which is None else getattr(value, which)


def read(watched: Points, *messages: ResourceMetrics, now_s: int = 0) -> Batch:
    return watched.read([one.SerializeToString() for one in messages], now_s=now_s)


def test_points_are_read_with_their_series() -> None:
    """Doubles and integers; the series says whose they are, and what of."""
    watched = points()
    batch = read(watched, message(20.5, 7))
    assert batch.values().tolist() == [20.5, 7.0]
    assert batch.time_ns.tolist() == [1000, 1001]
    assert batch.flags.tolist() == [ValueKind.DOUBLE, ValueKind.INT]
    assert (batch.series >= UNKEPT).all()
    assert watched.series(int(batch.series[1])) == Series(PROGRAM, "level", "m", "gauge", (("k", 1),), "lib")
    assert watched.resource(int(batch.series[1])) == message().resource.SerializeToString()


texts = st.text(st.characters(codec="ascii"), max_size=3)
attributes = st.dictionaries(texts, st.one_of(st.booleans(), st.integers(-9, 9), st.floats(-9, 9), texts), max_size=3)


@st.composite
def messages(draw: Callable[..., Any]) -> ResourceMetrics:
    found = ResourceMetrics()
    fill(found.resource.attributes, draw(attributes))
    for _ in range(draw(st.integers(0, 2))):
        scope = found.scope_metrics.add()
        scope.scope.name = draw(texts)
        for _ in range(draw(st.integers(0, 3))):
            metric = scope.metrics.add(name=draw(texts), unit=draw(st.sampled_from(["", "s"])))
            metric.metadata.extend([])
            kind = draw(st.sampled_from(["gauge", "sum", "histogram", "summary"]))
            data = getattr(metric, kind)
            data.SetInParent()
            for _ in range(draw(st.integers(0, 4)) if kind in {"gauge", "sum"} else 0):
                fill_point(draw, data.data_points.add())
            if kind == "sum":
                data.aggregation_temporality, data.is_monotonic = 2, draw(st.booleans())
            if kind == "histogram":
                data.data_points.add(count=draw(st.integers(0, 9)), time_unix_nano=5)
    return found


def fill_point(draw: Callable[..., Any], point: NumberDataPoint) -> None:
    point.time_unix_nano = draw(st.sampled_from([0, 5, 1 << 60, (1 << 64) - 1]))
    point.start_time_unix_nano = draw(st.sampled_from([0, 17, 1 << 40]))
    match draw(st.sampled_from(["as_double", "as_int", "as_int", ""])):
        case "as_double":
            point.as_double = draw(st.floats(allow_nan=False))
        case "as_int":
            point.as_int = draw(st.integers(-(1 << 52), 1 << 52))
    point.flags = draw(st.sampled_from([0, 0, 0, 1, 2]))
    fill(point.attributes, draw(attributes))
    if draw(st.integers(0, 5)) == 0:
        point.exemplars.add(as_double=1.5, time_unix_nano=7).filtered_attributes.add(key="k")
    if draw(st.integers(0, 9)) == 0:
        point.attributes.add(key="long").value.string_value = "x" * draw(st.sampled_from([100, 120, 300, 20_000]))


def fill(target: Any, values: dict[str, Any]) -> None:
    kinds = {bool: "bool_value", int: "int_value", float: "double_value", str: "string_value"}
    for key, value in values.items():
        setattr(target.add(key=key).value, kinds[type(value)], value)


@given(st.lists(messages(), max_size=3), st.integers(1, 4))
def test_what_is_read_is_what_the_official_classes_read(some: list[ResourceMetrics], times: int) -> None:
    """However often the same comes: from the third time on a message is not walked any more."""
    watched = points()
    wanted = {
        row for row in expected(*some) if all(len(str(value)) < WORDS_BYTES_MAX for _, value in row[0].attributes)
    }
    for _ in range(times):
        assert rows(watched, read(watched, *some)) == wanted


@given(st.data())
def test_the_same_layout_with_other_times_and_values(data: st.DataObject) -> None:
    """Nothing of what is between them is looked at, and nothing is mixed up."""
    one, watched = data.draw(messages()), points()
    for _ in range(5):
        for scope in one.scope_metrics:
            for metric in scope.metrics:
                for point in getattr(metric, metric.WhichOneof("data")).data_points:
                    if isinstance(point, NumberDataPoint):
                        fill_point_anew(data.draw, point)
        batch = read(watched, one)
        found = {row for row in expected(one) if not any(key == "long" for key, _ in row[0].attributes)}
        assert found <= rows(watched, batch)
        assert len(rows(watched, batch)) == len({row for row in expected(one) if "x" * 20_000 not in str(row[0])})


def fill_point_anew(draw: Callable[..., Any], point: NumberDataPoint) -> None:
    point.time_unix_nano = point.time_unix_nano and draw(st.integers(1, 1 << 60))
    if point.WhichOneof("value") == "as_double":
        point.as_double = draw(st.floats(allow_nan=False))
    elif point.WhichOneof("value"):
        point.as_int = draw(st.integers(-(1 << 52), 1 << 52))


@given(st.lists(messages(), min_size=1, max_size=2), st.data())
def test_bytes_that_are_wrong_do_no_harm(some: list[ResourceMetrics], data: st.DataObject) -> None:
    """They do not get so far; if they did they would be refused, and what comes next is read."""
    watched = points()
    body = bytearray(b"".join(one.SerializeToString() for one in some))
    for _ in range(data.draw(st.integers(0, 4))):
        if body:
            body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    for _ in range(3):
        with contextlib.suppress(ValueError):
            watched.read([bytes(body)], now_s=0)
    assert len(read(watched, message(20.5))) == 1


@given(st.binary(max_size=200))
def test_any_bytes_do_no_harm(body: bytes) -> None:
    """The same."""
    with contextlib.suppress(ValueError):
        points().read([body], now_s=0)


def test_a_point_that_ends_behind_its_metric_is_refused() -> None:
    """What stands behind it is another's."""
    cut = protobuf.delimited(5, b"\x0a\x12two") + protobuf.text(1, "what comes behind it, and is long enough")
    with pytest.raises(ValueError, match="behind its metric"):
        points().read([protobuf.delimited(2, protobuf.delimited(2, cut))], now_s=0)


def test_the_same_series_in_other_words_has_the_same_number() -> None:
    """Attributes in another order, of the point or of the resource, another version of the scope, an exemplar."""
    one, other = message(1.0), message(2.0)
    for some, keys in ((one, "ab"), (other, "ba")):
        for key in keys:
            some.resource.attributes.add(key=key).value.bool_value = True
            some.scope_metrics[0].metrics[0].gauge.data_points[0].attributes.add(key=key).value.double_value = 0.5
    other.scope_metrics[0].scope.version = "2"
    other.scope_metrics[0].metrics[0].description = "how high it is"
    other.scope_metrics[0].metrics[0].gauge.data_points[0].exemplars.add(as_int=3)
    watched = points()
    batch = read(watched, one, other, one)
    assert len(set(batch.series.tolist())) == len(watched) == 1
    assert batch.values().tolist() == [1.0, 1.0, 2.0] or batch.values().tolist() == [1.0, 2.0, 1.0]
    other.scope_metrics[0].scope.attributes.add(key="of").value.string_value = "another"
    assert len({*read(watched, other).series.tolist(), *batch.series.tolist()}) == 2


def test_a_series_is_in_order_of_time() -> None:
    """Whatever order its points come in."""
    one = message(1.0, at_ns=9000)
    two = message(2.0, at_ns=5000)
    batch = read(points(), one, two)
    assert batch.time_ns.tolist() == [5000, 9000]
    assert batch.values().tolist() == [2.0, 1.0]


def test_fields_in_an_odd_order_and_newer_ones() -> None:
    """Behind their data, before their scope: read all the same."""
    body = message(20.5).SerializeToString()
    parsed = message(20.5)
    point = parsed.scope_metrics[0].metrics[0].gauge.data_points[0].SerializeToString()
    backward = b"".join(point[begin:end] for _, _, begin, _, end in reversed(list(protobuf.spans(point)))) + UNKNOWN
    metric = protobuf.delimited(5, UNKNOWN + protobuf.delimited(1, backward)) + protobuf.text(1, "level") + UNKNOWN
    scope = protobuf.delimited(2, metric + protobuf.text(3, "m")) + protobuf.delimited(1, protobuf.text(1, "lib"))
    resource = protobuf.delimited(1, parsed.resource.SerializeToString())
    watched = points()
    batch = watched.read([body, protobuf.delimited(2, scope + UNKNOWN) + UNKNOWN + resource], now_s=0)
    assert batch.values().tolist() == [20.5, 20.5]
    assert len(watched) == 1


def test_a_metric_without_data_has_no_points() -> None:
    """And is none that anybody is asked about."""
    one = message(1.0)
    one.scope_metrics[0].metrics[0].ClearField("gauge")
    assert len(read(points(wants_named=None), one)) == 0


def test_what_nobody_watches_is_passed_over() -> None:
    """By name and unit at once, by attributes when those are seen; both are remembered."""
    asked: list[Any] = []

    def wants(series: Series) -> bool:
        asked.append(series)
        return dict(series.attributes)["k"] == 1

    watched = points(wants_named=lambda name, unit: (name, unit) == ("level", "m"), wants=wants)
    for _ in range(4):
        batch = read(watched, message(1.0, 2.0, 3.0), message(4.0, name="flow"))
        assert batch.values().tolist() == [2.0]
    assert len(asked) == 3
    assert len(watched) == 1
    assert watched.over_limit == 0


def test_as_many_series_as_may_be() -> None:
    """What is above that is counted, point by point, however often it comes."""
    watched = points(series_max=2)
    assert read(watched, message(1.0, 2.0, 3.0, 4.0)).values().tolist() == [1.0, 2.0]
    assert read(watched, message(1.0, 2.0, 3.0, 4.0)).values().tolist() == [1.0, 2.0]
    assert (len(watched), watched.over_limit, watched.is_full) == (2, 4, True)


def test_what_nobody_watches_is_not_missed_where_there_is_no_room() -> None:
    """It would have been passed over anyway."""
    watched = points(bytes_max=0, wants_named=lambda name, unit: name == "level")
    assert len(read(watched, message(1.0, name="flow"))) == 0
    assert watched.over_limit == 0
    assert len(read(watched, message(1.0))) == 0
    assert watched.over_limit == 1


def test_who_found_no_room_is_asked_about_once() -> None:
    """Until there may be room again."""
    asked: list[Series] = []
    watched = points(series_max=1, wants=lambda series: asked.append(series) or True)
    for _ in range(3):
        read(watched, message(1.0, 2.0))
    assert (len(asked), watched.over_limit) == (2, 3)
    watched.make_room(now_s=0)
    read(watched, message(1.0, 2.0))
    assert (len(asked), watched.over_limit) == (3, 4)


def test_as_many_bytes_as_may_be() -> None:
    """Of programs, scopes, metrics and series, whoever makes up new ones; who was there before stays."""
    watched = points(bytes_max=20_000)
    read(watched, message(1.0))
    for k in range(50):
        read(watched, message(1.0, name=f"level {k}"))
        crowd = message(*map(float, range(20)))
        crowd.resource.attributes[0].value.string_value = f"program {k}"
        crowd.scope_metrics[0].scope.name = f"lib {k}"
        read(watched, crowd)
    assert watched.is_full
    assert watched.size_bytes < 20_000 * 3 // 4 + 500
    assert watched.over_limit > 500
    assert read(watched, message(1.0)).values().tolist() == [1.0]


@pytest.mark.parametrize("where", ["resource", "scope", "metric", "point"])
def test_texts_that_are_too_long_are_left_alone(where: str) -> None:
    """They would be most of what there is room for."""
    watched = points()
    one = message(1.0, 2.0)
    match where:
        case "resource":
            one.resource.attributes.add(key="k").value.string_value = "x" * WORDS_BYTES_MAX
        case "scope":
            one.scope_metrics[0].scope.name = "x" * WORDS_BYTES_MAX
        case "metric":
            one.scope_metrics[0].metrics[0].description = "x" * WORDS_BYTES_MAX
        case "point":
            for point in one.scope_metrics[0].metrics[0].gauge.data_points:
                point.attributes[0].value.string_value = "x" * WORDS_BYTES_MAX
    size_bytes = 0
    for _ in range(5):
        assert len(read(watched, one)) == 0
        assert size_bytes in {0, watched.size_bytes}
        size_bytes = watched.size_bytes
    assert watched.over_limit == 10


def test_who_is_idle_makes_room() -> None:
    """With all that is only remembered for it; whoever spoke lately stays as it was."""
    watched = points(series_max=3, wants=lambda series: series.name != "nobody's")
    read(watched, message(1.0, 2.0), message(1.0, name="nobody's"), now_s=0)
    idle = read(watched, message(3.0, name="flow"), now_s=0).series.tolist()
    kept = read(watched, message(1.0, 2.0), now_s=IDLE_S).series.tolist()
    assert watched.is_full
    before = watched.size_bytes
    assert watched.make_room(now_s=IDLE_S + 1).tolist() == idle
    assert (len(watched), watched.is_full) == (2, False)
    assert watched.size_bytes < before - otlp_points.SERIES_BYTES
    assert read(watched, message(1.0, 2.0), now_s=IDLE_S + 2).series.tolist() == kept
    # The number is another's now.
    assert read(watched, message(5.0, name="new"), now_s=IDLE_S + 2).series.tolist() == idle
    assert watched.series(idle[0]).name == "new"
    assert watched.make_room(now_s=9 * IDLE_S).tolist() == sorted(kept + idle)
    assert (len(watched), watched.size_bytes) == (0, 0)
    assert watched.make_room(now_s=9 * IDLE_S).tolist() == []


def test_a_message_of_a_kept_layout_says_the_new_numbers_after_room_was_made() -> None:
    """Those of the layout may be others' by then."""
    watched = points()
    for _ in range(3):
        old = read(watched, message(1.0), now_s=0).series.tolist()
    watched.make_room(now_s=IDLE_S + 1)
    assert read(watched, message(2.0, name="first"), now_s=IDLE_S + 1).series.tolist() == old
    assert read(watched, message(1.0), now_s=IDLE_S + 1).series.tolist() == [old[0] + 1]


def test_many_series_grow_what_is_known_of_them() -> None:
    """Some hundreds."""
    watched = points()
    assert len(set(read(watched, message(*map(float, range(500)))).series.tolist())) == 500
    assert len(watched) == 500


def test_values_that_are_lists_and_maps_have_a_name_of_their_own() -> None:
    """The same for the same, another for another; nothing at all is an empty text."""
    lists = [protobuf.delimited(5, protobuf.delimited(1, protobuf.text(1, letter))) for letter in "ab"]
    assert len({read_value(one) for one in lists}) == 2
    assert all(str(read_value(one)).startswith("#") for one in lists)
    assert read_value(b"") == ""
    assert read_value(UNKNOWN + protobuf.integer(2, 1)) is True
