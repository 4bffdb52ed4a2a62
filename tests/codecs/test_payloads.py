"""Payloads become documents, whatever is in them."""

from __future__ import annotations

import json
import math
from typing import Any

import cbor2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.codecs import payloads
from gateway.codecs.payloads import (
    Opaque,
    decode_cbor,
    decode_csv,
    decode_json,
    decode_text,
    detect_format,
    parse_number,
    shown,
)
from gateway.core.contracts import MalformedError


def cbor(data: bytes | str) -> Any:
    """Decode CBOR with the depth that mapping uses."""
    return decode_cbor(bytes.fromhex(data) if isinstance(data, str) else data, depth_max=32)


def outcome(decode: Any, *arguments: Any) -> str:
    """Return the reason for which something is refused, "fine" if it is not."""
    try:
        decode(*arguments)
    except MalformedError as error:
        return error.reason
    return "fine"


def reason_of(decode: Any, *arguments: Any, **options: Any) -> str:
    """Return the reason for which something is refused."""
    with pytest.raises(MalformedError) as caught:
        decode(*arguments, **options)
    assert str(caught.value)
    return caught.value.reason


JSON_VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), st.text(max_size=5)),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=4), inner, max_size=4)),
    max_leaves=12,
)


# Which format


@pytest.mark.parametrize(
    ("payload", "found"),
    [
        (b'{"a":1}', "json"),
        (b"\r\n [1]", "json"),
        (b"\xef\xbb\xbf{}", "json"),
        (b"\xa1aa\x01", "cbor"),
        (b"\x9f\xff", "cbor"),
        (b"\xd9\xd9\xf7\xa0", "cbor"),
        (b"\xfb" + bytes(8), "cbor"),
        (b"20.5", "text"),
        (b"ON", "text"),
        (b"", "text"),
        (b"\xff\xff", "text"),
        (b"1;2", "csv"),
        (b"a,b\n1,2", "csv"),
    ],
)
def test_the_first_byte_tells_the_format(payload: bytes, found: str) -> None:
    """JSON, CBOR, one value, or a line of several."""
    assert detect_format(payload) == found


@given(JSON_VALUES.filter(lambda value: isinstance(value, dict | list)))
def test_what_is_written_as_json_or_cbor_is_found_as_such(value: Any) -> None:
    """Objects and lists are never taken for one another."""
    assert detect_format(json.dumps(value).encode()) == "json"
    assert detect_format(cbor2.dumps(value)) == "cbor"


# JSON


@given(JSON_VALUES)
def test_json_comes_out_as_python_reads_it(value: Any) -> None:
    """NaN and infinities included; a number too large for a double is infinite."""
    text = json.dumps(value)
    assert repr(decode_json(text.encode())) == repr(json.loads(text))


@given(st.binary(max_size=40))
def test_any_bytes_are_json_or_malformed(data: bytes) -> None:
    """Nothing else is raised."""
    assert outcome(decode_json, data) in {"fine", "malformed_json", "empty_payload"}


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"", "empty_payload"),
        (b" \n", "empty_payload"),
        (b"{", "malformed_json"),
        (b'{"a":1}{"a":2}', "malformed_json"),
        (b'{"a":nan}', "malformed_json"),
        (b'{"a":NaN', "malformed_json"),
        (b'"\xff"', "malformed_json"),
        (b"[" * 30_000, "too_deep"),
        (b'{"a":NaN,"b":' + b"[" * 30_000, "malformed_json"),
        (b"\xef\xbb\xbf" * 1000, "malformed_json"),
    ],
)
def test_what_is_no_json_has_its_reason(payload: bytes, reason: str) -> None:
    """Empty, cut off, two documents, words of other languages, not UTF-8, too deep."""
    assert reason_of(decode_json, payload) in {reason, "too_deep"}


def test_a_second_look_may_go_too_deep_too() -> None:
    """NaN comes first, so the strict decoder stops early and the tolerant one runs into the depth."""
    assert reason_of(decode_json, b"[NaN," + b"[" * 30_000) == "too_deep"


def test_odd_json_is_read_as_far_as_it_says_something() -> None:
    """A byte order mark, keys that come twice, numbers beyond all bounds."""
    assert decode_json(b'\xef\xbb\xbf{"a":1,"a":2}') == {"a": 2}
    assert decode_json(b'{"a":1e400,"b":2}') == {"a": math.inf, "b": 2}
    assert decode_json(b'{"a":-%s}' % (b"9" * 5000)) == {"a": -math.inf}
    assert decode_json(b'{"a":%s,"b":1e999}' % (b"9" * 300)) == {"a": int("9" * 300), "b": math.inf}
    assert decode_json(b"9007199254740993") == 9007199254740993


# CBOR


@given(JSON_VALUES)
def test_cbor_comes_out_as_it_was_written(value: Any) -> None:
    """Everything that JSON has, and big integers."""
    assert repr(cbor(cbor2.dumps(value))) == repr(value)


@given(st.binary(max_size=60))
@settings(max_examples=400)
def test_any_bytes_are_cbor_or_malformed(data: bytes) -> None:
    """Nothing else is raised."""
    assert outcome(cbor, data) in {"fine", "malformed_cbor", "too_deep", "empty_payload"}


@given(st.integers(0, 70_000), JSON_VALUES)
@settings(max_examples=400)
def test_any_tag_is_harmless(tag: int, value: Any) -> None:
    """A tag gives a number, what it holds, an array, or says that it is nothing here."""
    tagged = cbor2.dumps(cbor2.CBORTag(tag, value))
    if outcome(cbor, tagged) != "malformed_cbor":
        found = cbor(tagged)
        plain = type(found) in {int, float, bool, str, bytes, list, dict, type(None)}
        assert plain or isinstance(found, np.ndarray | Opaque)


@pytest.mark.parametrize("tag", sorted(payloads._SEMANTIC))
def test_no_tag_is_decoded_by_the_library(tag: int) -> None:
    """Patterns, mails, addresses, dates and references: none is built."""
    for value in ("[a-z]+", b"\x00" * 4, [1, 2], 5, {"a": 1}):
        try:
            found = cbor(cbor2.dumps(cbor2.CBORTag(tag, value)))
        except MalformedError:
            continue
        assert type(found) in {int, float, str, bytes, list, dict, np.ndarray, Opaque}


@given(st.data())
@settings(max_examples=200)
def test_a_cut_or_lengthened_payload_is_never_taken_for_whole(data: st.DataObject) -> None:
    """Fewer bytes, or more, are no document."""
    whole = cbor2.dumps(data.draw(JSON_VALUES))
    cut = data.draw(st.integers(0, len(whole) - 1))
    assert reason_of(cbor, whole[:cut]) in {"malformed_cbor", "empty_payload"}
    assert reason_of(cbor, whole + b"\x00") == "malformed_cbor"
    assert reason_of(cbor, whole + b"\x41a") == "malformed_cbor"
    assert reason_of(cbor, whole + whole) == "malformed_cbor"


def test_depth_and_lengths_are_bounded_before_they_are_believed() -> None:
    """Thirty-two levels; a length of 2^56 costs nothing; references are nothing."""
    assert cbor("81" * 31 + "00") is not None
    assert reason_of(cbor, "81" * 40 + "00") == "too_deep"
    assert reason_of(cbor, "c4" * 4000 + "00") == "too_deep"
    for head in ("9b00ffffffffffffff", "bb00ffffffffffffff", "5b00ffffffffffffff", "7b00ffffffffffffff"):
        assert reason_of(cbor, head + "00") == "malformed_cbor"
    assert isinstance(cbor("d81c81d81d00")[0], Opaque), "a list that would hold itself"
    assert [type(item) for item in cbor("d9010083656161616161d81900d81900")] == [str, Opaque, Opaque]


def test_keys_that_could_be_chosen_to_collide_are_taken_only_where_there_are_few() -> None:
    """A map of n keys with one hash takes n² steps: large numbers and lists have no secret in theirs."""
    modulus = (1 << 61) - 1
    for keys in ([modulus * k for k in range(512, 2000)], [(k, "text" * 2) for k in range(1000)]):
        assert len(cbor(cbor2.dumps(dict.fromkeys(keys[:100], 1)))) == 100
        assert reason_of(cbor, cbor2.dumps([dict.fromkeys(keys, 1)])) == "malformed_cbor"


@pytest.mark.parametrize("item", ["a0", "80", "8100", "a10000", "9fff", "e0", "f880", "c100", "c4820001", "d84040"])
def test_what_costs_most_for_its_bytes_is_bounded(item: str) -> None:
    """A quarter of a megabyte of empty maps would take a fifth of a second and 20 MB, and no reading would come of it."""
    count = payloads.DEAR_ITEMS_MAX // 2
    few, many = (b"\x9a" + n.to_bytes(4, "big") + bytes.fromhex(item) * n for n in (count // 4, 2 * count))
    assert outcome(cbor, few) in {"fine", "malformed_cbor"}
    assert reason_of(cbor, many + b"\xa0") == "too_many_items"
    assert outcome(cbor, cbor2.dumps({"text": few, "more": many})) == "fine", "in a string it is nothing"


def test_lists_and_objects_in_json_are_bounded() -> None:
    """A megabyte of them, one in the other, took a third of a second and 50 MB."""
    for item in (b"{}", b"[]", b'{"":0}', b"[[[0]]]"):
        many = b"[" + b",".join([item] * payloads.DEAR_ITEMS_MAX) + b"]"
        assert reason_of(decode_json, many) == "too_many_items"
        assert (
            outcome(decode_json, many[: payloads.JSON_BYTES_UNBOUNDED - len(item)].rpartition(b",")[0] + b"]") == "fine"
        )


def test_large_payloads_with_numbers_as_keys_are_bounded() -> None:
    """Looking at each item costs more than decoding it."""
    for count, reason in ((payloads.LOOKED_AT_MAX - 10, "fine"), (payloads.LOOKED_AT_MAX, "malformed_cbor")):
        assert outcome(cbor, b"\xa2\x00\x00\x01\x9a" + count.to_bytes(4, "big") + bytes(count)) == reason


@pytest.mark.parametrize("is_endless", [False, True])
def test_numbers_are_keys_in_large_payloads_too(is_endless: bool) -> None:
    """Packs of small maps with numbers for names, whatever stands beside them."""
    pack = [{1: 2.5, -2: "x" * 30, "a": b"y" * 300, 4: [], 5: {}, 6: cbor2.CBORTag(1, k)} for k in range(200)]
    read = cbor(cbor2.dumps(pack, indefinite_containers=is_endless))
    assert [item[6] for item in read] == list(range(200))


@pytest.mark.parametrize("tag", ["c0", "c1", "d81c", "d829", "d9d9f7", "d80000"])
def test_a_tag_without_an_item_is_no_end(tag: str) -> None:
    """It takes whatever comes behind the payload for its own."""
    with pytest.raises(MalformedError, match="bytes follow the first item|not CBOR"):
        cbor(b"\x01" + bytes.fromhex(tag))


def test_indefinite_lengths_and_doubled_keys_are_taken() -> None:
    """Streams of items, chunks of text; the last of two keys counts."""
    assert cbor("bf616101ff") == {"a": 1}
    assert cbor("9f0102ff") == [1, 2]
    assert cbor("7f61616162ff") == "ab"
    assert cbor("a2616101616102") == {"a": 2}


@pytest.mark.parametrize(("tag", "code"), sorted(payloads._TYPED_ARRAYS.items()))
def test_a_typed_array_is_an_array_of_its_type(tag: int, code: str) -> None:
    """RFC 8746, over the payload's own bytes."""
    values = np.array([1, 2, 100], code)
    found = cbor(cbor2.dumps(cbor2.CBORTag(tag, values.tobytes())))
    assert found.tolist() == values.tolist()
    assert found.dtype == values.dtype


def test_typed_arrays_of_half_a_number_or_of_no_bytes_are_malformed() -> None:
    """Three bytes are no 32-bit number; a list is no byte string; 128 bits have no home."""
    assert reason_of(cbor, cbor2.dumps(cbor2.CBORTag(85, b"abc"))) == "malformed_cbor"
    assert reason_of(cbor, cbor2.dumps(cbor2.CBORTag(85, [1.0]))) == "malformed_cbor"
    assert isinstance(cbor(cbor2.dumps(cbor2.CBORTag(87, bytes(16)))), Opaque)


def test_arrays_with_dimensions() -> None:
    """Row-major by tag 40, column-major by 1040; one dimension is just an array."""
    numbers = cbor2.CBORTag(64, bytes(range(6)))
    assert cbor(cbor2.dumps(cbor2.CBORTag(40, [[2, 3], numbers]))).tolist() == [[0, 1, 2], [3, 4, 5]]
    assert cbor(cbor2.dumps(cbor2.CBORTag(1040, [[2, 3], numbers]))).tolist() == [[0, 2, 4], [1, 3, 5]]
    assert cbor(cbor2.dumps(cbor2.CBORTag(40, [[2], [5, 6]]))) == [5, 6]
    assert cbor(cbor2.dumps(cbor2.CBORTag(41, [5, 6]))) == [5, 6]
    assert repr(cbor(cbor2.dumps(cbor2.CBORTag(40, [[1, 2], [5, 6]])))) == "CBOR tag 40"
    assert repr(cbor(cbor2.dumps(cbor2.CBORTag(1040, [[1, 2], [5, 6]])))) == "CBOR tag 1040"
    for wrong in ([[4], numbers], [[], numbers], [[1] * 9, numbers], [["a"], numbers], [[-6], numbers], [6, numbers]):
        assert reason_of(cbor, cbor2.dumps(cbor2.CBORTag(40, wrong))) == "malformed_cbor"


@pytest.mark.parametrize(
    ("tag", "value", "number"),
    [
        (2, b"\x01" + bytes(8), 2**64),
        (3, b"\x01" + bytes(8), -1 - 2**64),
        (4, [-2, 27315], 273.15),
        (4, [10**9, 1], math.inf),
        (4, [-(10**9), 1], 0.0),
        (5, [-1, 3], 1.5),
        (5, [10**9, -1], -math.inf),
        (30, [1, 4], 0.25),
        (1, 1700000000, 1700000000),
        (0, "2023-11-14T22:13:20Z", "2023-11-14T22:13:20Z"),
        (55799, {"a": 1}, {"a": 1}),
    ],
)
def test_numbers_in_other_clothes_are_numbers(tag: int, value: Any, number: Any) -> None:
    """Bignums, decimal fractions, bigfloats, rationals; none of them can be made to take long."""
    assert cbor(cbor2.dumps(cbor2.CBORTag(tag, value))) == number


@pytest.mark.parametrize(
    ("tag", "value"),
    [
        (2, b"\x01" * 65),
        (3, 5),
        (4, [1.5, 2]),
        (4, [1, 2.5]),
        (5, ["a", 2]),
        (30, [1, 0]),
        (30, [1.5, 2]),
        (30, [1, -2]),
    ],
)
def test_numbers_in_odd_clothes_are_nothing(tag: int, value: Any) -> None:
    """They are said by their tag."""
    assert repr(cbor(cbor2.dumps(cbor2.CBORTag(tag, value)))) == f"CBOR tag {tag}"


def test_a_ratio_of_huge_numbers_may_be_infinite() -> None:
    """What no double holds is not finite, and is dropped as such later."""
    assert payloads._ratio([10**400, 1], False) == math.inf
    assert payloads._ratio([-(10**400), 1], False) == -math.inf
    assert cbor(cbor2.dumps(cbor2.CBORTag(5, [10**9, 1]))) == math.inf


# Text and CSV


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("20", 20),
        (" -5\n", -5),
        ("+.5", 0.5),
        ("5.", 5.0),
        ("1e3", 1000.0),
        ("ON", True),
        ("False", False),
        ("inf", math.inf),
        ("-Infinity", -math.inf),
        ("1e999", math.inf),
        ("n/a", None),
        ("0x10", None),
        ("1_0", None),
        ("1 2", None),
        ("٣", None),
        ("", None),
        ("9" * 65, None),
    ],
)
def test_text_says_a_number_or_a_state(text: str, value: Any) -> None:
    """As devices write them, and nothing that only Python would take for a number."""
    found = parse_number(text)
    assert found == value
    assert type(found) is type(value)


@given(st.one_of(st.integers(-(10**20), 10**20), st.floats(allow_nan=False)))
def test_a_number_written_is_the_number_read(value: float) -> None:
    """Exactly."""
    assert parse_number(repr(value)) == value
    assert decode_text(repr(value).encode()) == value


@given(st.binary(max_size=40))
def test_any_bytes_are_text_or_malformed(data: bytes) -> None:
    """Nothing else is raised."""
    assert outcome(decode_text, data) in {"fine", "malformed_text", "empty_payload"}


def lines(data: bytes, columns: tuple[str, ...] = ("a", "b"), **options: Any) -> Any:
    """Read CSV with two columns."""
    return decode_csv(data, columns=columns, **({"delimiter": ",", "lines_max": 10} | options))


def test_csv_is_a_line_per_object() -> None:
    """Numbers, states, text, and nothing where a cell is empty; blank lines are none."""
    assert lines(b"1,2.5\r\n\r\nON,\nx,-3")[0] == [{"a": 1, "b": 2.5}, {"a": True, "b": None}, {"a": "x", "b": -3}]
    assert lines(b'1;"2"', delimiter=";")[0] == [{"a": 1, "b": 2}]


def test_csv_names_its_columns_in_its_first_line_or_has_them_named() -> None:
    """A first line that repeats the names is no reading."""
    assert lines(b"t, h\n1,2", columns=())[0] == [{"t": 1, "h": 2}]
    assert lines(b"a,b\n1,2")[0] == [{"a": 1, "b": 2}]
    assert reason_of(lines, b"1,2\n3,4", columns=()) == "malformed_csv"


def test_csv_has_no_name_twice() -> None:
    """Which of the two columns is meant nobody can know. Columns without a name may be many: they are for nobody."""
    with pytest.raises(MalformedError, match='2 columns are called "t"; give each') as caught:
        lines(b"t,h,\xc3\xa4, t,\xc3\xa4\n1,2,3,4,5", columns=())
    assert caught.value.reason == "malformed_csv"
    assert lines(b"t,,\n1,,", columns=())[0] == [{"t": 1, "": None}]
    assert reason_of(lines, b"idle,5,5", columns=()) == "no_readings"


def test_a_line_of_another_length_is_lost_alone() -> None:
    """With a sentence that shows it."""
    objects, odd = lines(b"1,2\n1\n3,4,5\n6,7")
    assert objects == [{"a": 1, "b": 2}, {"a": 6, "b": 7}]
    assert odd == [('"1" has 1 cells, not 2', 1), ('"3,4,5" has 3 cells, not 2', 1)]


def test_a_quote_that_is_not_closed_costs_its_own_line() -> None:
    """Not all lines behind it, of which nobody would hear; and no number is made of two lines."""
    objects, odd = lines(b'1,"2\n3,4\n5,"6"\n"7,8')
    assert objects == [{"a": 3, "b": 4}, {"a": 5, "b": 6}]
    assert [count for _, count in odd] == [1, 1]
    assert all(sentence.endswith("has a quote that is not closed") for sentence, _ in odd)
    assert lines(b'1,"2\n3') == ([], [('"1,"2" has a quote that is not closed', 1), ('"3" has 1 cells, not 2', 1)])
    assert lines(b'1,2\n\n"3" ,"4"')[0] == [{"a": 1, "b": 2}, {"a": 3, "b": 4}]


def test_of_many_lines_of_another_length_the_first_are_shown() -> None:
    """The others are told in one sentence, with their number."""
    _, odd = lines(b"1\n" * 30, lines_max=30)
    assert (len(odd), odd[-1]) == (17, ("another 14 lines have not 2 cells", 14))


def test_a_line_of_empty_cells_is_no_object() -> None:
    """It says nothing, and there may be many."""
    assert lines(b"1,2\n,\n , \n3,") == ([{"a": 1, "b": 2}, {"a": 3, "b": None}], [])


def test_what_a_payload_chose_is_shown_on_one_line() -> None:
    """Nothing that ends a line or commands a terminal."""
    assert shown("a\x1b[2J\nb") == '"a\\x1b[2J\\nb"'


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty_payload"),
        (b"\xef\xbb\xbf", "empty_payload"),
        (b"\xef\xbb\xbf\n", "empty_payload"),
        ("1,2\u2028".encode() * 11, "too_many_readings"),
        (b"1" + b",1" * 20_000, "too_many_readings"),
        (b"\xff,1", "malformed_text"),
        (b"1," + b"x" * 140_000, "malformed_csv"),
        (b"1,2\n" * 11, "too_many_readings"),
        (b"a,b\n", "no_readings"),
    ],
)
def test_what_is_no_csv_has_its_reason(data: bytes, reason: str) -> None:
    """Empty, not UTF-8, not lines, too many of them."""
    assert reason_of(lines, data) == reason


@given(st.binary(max_size=40), st.sampled_from([(), ("a",), ("a", "b")]))
def test_any_bytes_are_csv_or_malformed(data: bytes, columns: tuple[str, ...]) -> None:
    """Nothing else is raised."""
    found = outcome(lines, data, columns)
    assert found in {"fine", "malformed_text", "malformed_csv", "empty_payload", "too_many_readings", "no_readings"}
    if found == "fine":
        assert all(isinstance(item, dict) for item in lines(data, columns)[0])


# Sentences


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("n/a", '"n/a"'),
        ("x" * 99, f'"{"x" * 60}"…'),
        (None, "null"),
        (True, "true"),
        (20.5, "20.5"),
        ([1, 2], "a list of 2"),
        ({"a": 1}, "an object of 1"),
        (b"abc", "bytes of 3"),
        (np.zeros((2, 3)), "an array of 6"),
        (10**400, "a whole number of about 401 digits"),
        (2**64, "18446744073709551616"),
    ],
)
def test_values_are_shown_short(value: Any, text: str) -> None:
    """A sentence stays one, whatever was sent."""
    assert shown(value) == text
