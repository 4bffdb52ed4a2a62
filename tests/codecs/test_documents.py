"""Payloads become lists of documents."""

from __future__ import annotations

import json
from typing import Any

import cbor2
import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.codecs.device_time import Moment
from gateway.codecs.documents import Cut, Cutter
from gateway.codecs.mapping_settings import MapLimits, MappingSettings
from gateway.codecs.paths import ABSENT, read_path
from gateway.codecs.routing import Work


def cut(payloads: list[bytes], *wanted: str, **options: Any) -> tuple[list[Cut], Work]:
    """Cut payloads that stand from position 10 on in their arrivals."""
    settings = msgspec.convert({"match": "#", **options}, MappingSettings)
    cutter = Cutter(settings, limits=MapLimits(), item_paths=[read_path(path) for path in wanted])
    positions = np.arange(len(payloads)) + 10
    work = Work(payloads, positions, positions * 2, Moment(0, 0, 0))
    return cutter.cut(work), work


def columns(cuts: list[Cut]) -> dict[int, list[list[Any]]]:
    """Return the values of each item by the position of its payload, all paths of one item together."""
    found: dict[int, list[list[Any]]] = {}
    for one in cuts:
        values = [read(one.items) for read in one.item_readers]
        for k, position in enumerate(one.item_positions.tolist()):
            found.setdefault(position, []).append([column[k] for column in values])
        assert one.item_rows.tolist() == [2 * position for position in one.item_positions.tolist()]
    return found


def test_json_is_decoded_into_one_class() -> None:
    """All at once, without a dict."""
    (one,), _ = cut([b'{"a":1}', b'{"a":2}'], "a", payload="json")
    assert not any(isinstance(document, dict) for document in one.documents)
    assert columns([one]) == {10: [[1]], 11: [[2]]}


def test_what_the_class_does_not_take_is_decoded_by_itself() -> None:
    """And what is no JSON is lost by itself."""
    payloads = [b'{"a":{"b":1}}', b'{"a":5}', b"{", b'\xef\xbb\xbf{"a":{"b":2}}', b'{"a":{"b":NaN}}', b""]
    cuts, work = cut(payloads, "a.b", payload="json")
    found = columns(cuts)
    assert (found[10], found[11], found[13]) == ([[1]], [[ABSENT]], [[2]])
    assert found[14][0][0] != found[14][0][0]
    assert [(at, reason) for at, reason, *_ in work.output.malformed] == [(12, "malformed_json"), (15, "empty_payload")]


def test_payloads_are_never_joined() -> None:
    """Halves of a document in two payloads are two that are none."""
    cuts, work = cut([b'{"a":1},{"a":2', b'"x"}', b'{"a":3}', b'{"a":4}],[{"a":5}'], "a", payload="json")
    assert columns(cuts) == {12: [[3]]}
    assert [at for at, *_ in work.output.malformed] == [10, 11, 13]


def test_a_document_can_be_wanted_whole() -> None:
    """Then it is as it was sent."""
    cuts, _ = cut([b'{"a":1}'], "", payload="json")
    assert columns(cuts) == {10: [[{"a": 1}]]}


def test_auto_takes_each_payload_for_what_it_is() -> None:
    """In one buffer."""
    payloads = [b'{"a":1}', cbor2.dumps({"a": 2}), b"3", b"a,b\n4,5\n6,7", b"?"]
    cuts, work = cut(payloads, "a")
    assert columns(cuts) == {10: [[1]], 11: [[2]], 12: [[ABSENT]], 13: [[4], [6]]}
    assert [(at, reason) for at, reason, *_ in work.output.malformed] == [(14, "malformed_text")]


@pytest.mark.parametrize("each", ["s", "*", "s[0]"])
def test_items_know_their_document(each: str) -> None:
    """However the list is found."""
    wrap = {"s": lambda items: {"s": items}, "*": lambda items: items, "s[0]": lambda items: {"s": [items]}}[each]
    payloads = [json.dumps(wrap(items)).encode() for items in ([{"a": 1}, {"a": 2}], [], [{"a": 3}])]
    cuts, _ = cut(payloads, "a", each=each)
    assert columns(cuts) == {10: [[1], [2]], 12: [[3]]}
    packed = [cbor2.dumps(json.loads(payload)) for payload in payloads]
    assert columns(cut(packed, "a", each=each)[0]) == {10: [[1], [2]], 12: [[3]]}


def test_parts_of_a_cut_know_their_positions() -> None:
    """Documents by number, items by yes and no."""
    (one,), _ = cut([b'{"a":1}', b'{"a":2}', b'{"a":3}'], "a", payload="json")
    part = one.take(np.array([2, 0]))
    assert columns([part]) == {12: [[3]], 10: [[1]]}
    (listed,), _ = cut([b'{"s":[{"a":1},{"a":2}]}', b'{"s":[{"a":3}]}'], "a", payload="json", each="s")
    assert columns([listed.keep_items(np.array([False, True, True]))]) == {10: [[2]], 11: [[3]]}


VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(2**60), 2**60), st.floats(allow_nan=False), st.text(max_size=3)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.sampled_from("abs"), inner, max_size=3)),
    max_leaves=8,
)


@given(st.lists(VALUES, max_size=5), st.sampled_from([None, "s", "*", "s[0]", "a.s"]))
def test_json_by_class_json_by_dict_and_cbor_agree(documents: list[Any], each: str | None) -> None:
    """On every value, and on what is lost for what reason."""
    texts = [json.dumps(document).encode() for document in documents]
    packed = [cbor2.dumps(document) for document in documents]
    paths = ("a", "b.a", "a[0].b")
    by_class, first = cut(texts, *paths, payload="json", each=each)
    by_dict, second = cut(texts, *paths, "", payload="json", each=each)
    by_cbor, third = cut(packed, *paths, payload="cbor", each=each)
    for one in by_dict:
        one.item_readers = one.item_readers[:3]
    assert columns(by_class) == columns(by_dict) == columns(by_cbor)
    reasons = [sorted((at, reason) for at, reason, *_ in work.output.malformed) for work in (first, second, third)]
    assert reasons[0] == reasons[1] == reasons[2]
