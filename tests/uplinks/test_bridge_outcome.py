"""What a request comes to, by what became of its messages and of the connection."""

from __future__ import annotations

import numpy as np
import pytest

from gateway.codecs.otlp import NO_MARKS
from gateway.codecs.readings_json import Messages, ReadingsEncoder
from gateway.core.batch import Batch, Series
from gateway.core.contracts import TryLaterError
from gateway.net.mqtt_bulk import Acks, Outgoing, Packets
from gateway.uplinks.bridge_outcome import broken, rejected_of
from gateway.uplinks.bridge_shipment import Shipment
from gateway.uplinks.guards import HoldError, InTransitError, StatusRefusedError, TooLargeError
from gateway.uplinks.partly import PartlyTakenError

ENCODER = ReadingsEncoder("t/{metric}", time_unit_ns=1, series=lambda _: Series((), "n"), gateway_attributes=())


def readings(count: int) -> Messages:
    return ENCODER.encode([(Batch.of(0, np.arange(count), np.arange(count) * 1.0), NO_MARKS)])


def under_way(body: bytes, *, window: int = 100, packet_bytes_max: int = 1 << 20) -> Shipment:
    if isinstance(body, Messages):
        messages = Outgoing(body, body.ends, body.topics, body.topic_of)
    else:
        messages = Outgoing.one(b"otlp", body)
    packets = Packets(messages, version=5, qos=1)
    one = Shipment(packets, is_answered=True, window=window, packet_bytes_max=packet_bytes_max)
    if one.may_go:
        b"".join(one.portion(1 << 20)[1])
    return one


def answer(one: Shipment, *codes: int, first: int = 1) -> None:
    for number, code in enumerate(codes, first):
        one.answered(Acks(np.array([number], np.uint16), np.array([code], np.uint8)))


def test_all_are_taken() -> None:
    """With one subscriber or none."""
    one = under_way(readings(2))
    answer(one, 0, 0x10)
    assert rejected_of(one, readings(2), said="") == (0, "")


def test_those_refused_while_others_are_taken_are_rejected() -> None:
    """As a part of an OTLP request may be; the sentence counts the reasons and names a topic."""
    one = under_way(readings(4))
    answer(one, 0, 0x87, 0x99, 0x87)
    assert rejected_of(one, readings(4), said="x") == (
        3,
        "the broker refuses 2 messages: not authorized, 1 message: payload format invalid; the last one to t/n",
    )


@pytest.mark.parametrize(
    ("codes", "kind"),
    [
        ((0x87, 0x87), HoldError),
        ((0x90, 0x99), StatusRefusedError),
        ((0x97, 0x97), TryLaterError),
        ((0x97, 0x87), TryLaterError),
    ],
)
def test_where_none_is_taken_it_may_be_the_way(codes: tuple[int, ...], kind: type[Exception]) -> None:
    """The most frequent reason says what to do."""
    one = under_way(readings(2))
    answer(one, *codes)
    with pytest.raises(kind, match="the broker refuses (messages like )?t/n: "):
        rejected_of(one, readings(2), said="")


def test_what_was_asked_for_later_goes_again_and_the_rest_comes_off() -> None:
    """Over a quota: those taken are taken, those refused are rejected."""
    one = under_way(readings(6), window=4)
    answer(one, 0, 0x97, 0x90, 0)
    with pytest.raises(PartlyTakenError, match="quota exceeded") as caught:
        rejected_of(one, readings(6), said="")
    assert (caught.value.taken, caught.value.rejected, caught.value.maybe) == (2, 1, 0)
    assert caught.value._left.tolist() == [False, True, False, False, True, True]


@pytest.mark.parametrize(("code", "kind"), [(0x87, HoldError), (0x97, TryLaterError), (0x99, StatusRefusedError)])
def test_a_whole_request_is_refused_by_its_reason(code: int, kind: type[Exception]) -> None:
    """It is one message."""
    one = under_way(b"otlp")
    answer(one, code)
    with pytest.raises(kind, match="the broker refuses otlp: .*quite"):
        rejected_of(one, b"otlp", said="quite")


def test_what_no_broker_takes_at_once_is_split() -> None:
    """By the limit that it has named, before a byte of it leaves."""
    for body in (b"otlp" * 100, readings(2)):
        with pytest.raises(TooLargeError):
            rejected_of(under_way(body, packet_bytes_max=20), body, said="")


def test_a_whole_request_was_perhaps_taken_where_all_of_it_had_left() -> None:
    """And surely not where it had not."""
    for handed, answer_lost in ((1 << 20, True), (3, False)):
        one = under_way(b"otlp")
        one.handed(handed)
        error = broken(one, b"otlp", InTransitError("broke"))
        assert type(error) is InTransitError
        assert error.answer_lost is answer_lost


def test_of_many_only_those_under_way_were_perhaps_taken() -> None:
    """Exactly those: the ones with an answer come off, the ones behind have not left."""
    one = under_way(readings(9), window=5)
    answer(one, 0, 0)
    error = broken(one, readings(9), TryLaterError("broke", 7.0))
    assert isinstance(error, PartlyTakenError)
    assert (error.taken, error.maybe, error.rejected, error.after_s) == (2, 3, 0, 7.0)
    assert error._left.tolist() == [False] * 2 + [True] * 7


def test_what_was_refused_is_given_up_only_where_others_were_taken() -> None:
    """Else it may have been the way."""
    for codes, rejected, left in (((0x87, 0), 1, 2), ((0x87, 0x87), 0, 4)):
        one = under_way(readings(4))
        answer(one, *codes)
        error = broken(one, readings(4), InTransitError("broke"))
        assert isinstance(error, PartlyTakenError)
        assert (error.rejected, int(error._left.sum()), error.maybe) == (rejected, left, 2)


def test_where_nothing_has_left_nothing_is_doubted() -> None:
    """Why it broke is all there is to say."""
    one = under_way(readings(3))
    one.handed(0)
    why = InTransitError("broke")
    assert broken(one, readings(3), why) is why
    assert not why.answer_lost


def test_what_went_twice_before_it_was_refused_is_said() -> None:
    """However it ends: held, refused, or with some of it taken."""
    one = under_way(readings(4))
    answer(one, 0x90)
    one.resume()
    with pytest.raises(StatusRefusedError) as caught:
        rejected_of(one, readings(4), said="")
    assert caught.value.maybe == 3
    one = under_way(readings(4))
    answer(one, 0x87)
    one.resume()
    with pytest.raises(PartlyTakenError, match="not authorized") as caught:
        rejected_of(one, readings(4), said="")
    assert (caught.value.is_held, caught.value.maybe, caught.value.taken, caught.value.rejected) == (True, 3, 0, 0)
    assert caught.value._left.all()
    one = under_way(readings(4))
    answer(one, 0, 0x99)
    one.resume()
    b"".join(one.portion(1 << 20)[1])
    error = broken(one, readings(4), InTransitError("broke"))
    assert isinstance(error, PartlyTakenError)
    assert (error.taken, error.rejected, error.maybe) == (1, 1, 4)
    assert "broke; the broker refuses 1 message: payload format invalid" in str(error)


def test_a_refusal_is_said_before_the_end_that_it_brought() -> None:
    """Where nothing was taken: it is held, and not tried again and again as a line that breaks."""
    one = under_way(readings(3))
    answer(one, 0x87)
    error = broken(one, readings(3), InTransitError("broke"))
    assert isinstance(error, PartlyTakenError)
    assert error.is_held
    assert "give it the right to publish there" in str(error)
