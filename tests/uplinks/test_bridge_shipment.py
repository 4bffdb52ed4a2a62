"""Messages leave within the window, each answer is counted once, and a broken connection took exactly what it took."""

from __future__ import annotations

import numpy as np
import pytest

from gateway.net.mqtt import Publishes, PublishScanner
from gateway.net.mqtt_bulk import Acks, Outgoing, Packets
from gateway.net.mqtt_fields import ProtocolError
from gateway.uplinks.bridge_shipment import LATER, REFUSED, REFUSED_MAX, TAKEN, UNDER_WAY, WAITING, Shipment

SIZE = 8 + 5  # of a packet: header, topic "t", id, and a payload of five


def shipment(count: int, *, window: int = 10, packet_bytes_max: int = 1 << 20, is_answered: bool = True) -> Shipment:
    messages = Outgoing(b"01234" * count, np.arange(1, count + 1) * 5, [b"t"], np.zeros(count, np.int64))
    packets = Packets(messages, version=5, qos=int(is_answered))
    return Shipment(packets, is_answered=is_answered, window=window, packet_bytes_max=packet_bytes_max)


def leave(one: Shipment, bytes_max: int = 1 << 20) -> list[int]:
    """Let the next portion go; return its packet ids."""
    count, packets = one.portion(bytes_max)
    (found,) = PublishScanner(packet_bytes_max=1 << 20, version=5).feed(b"".join(packets))
    assert isinstance(found, Publishes)
    assert len(found) == count
    return [int.from_bytes(packet_id, "big") for packet_id in found.packet_ids]


def acks(ids: list[int], code: int = 0) -> Acks:
    return Acks(np.array(ids, np.uint16), np.full(len(ids), code, np.uint8))


def test_no_more_than_the_window_are_under_way() -> None:
    """The rest follows when half of it is free; each id is used once at a time."""
    one = shipment(25)
    assert leave(one) == list(range(1, 11))
    assert not one.may_go
    one.answered(acks([1, 2, 3]))
    assert not one.may_go
    one.answered(acks([4, 5]))
    assert leave(one) == [11, 12, 13, 14, 15]
    one.answered(acks(list(range(6, 16))))
    assert leave(one) == list(range(16, 26))
    assert not one.is_done
    one.answered(acks(list(range(16, 26))))
    assert one.is_done
    assert one.among(TAKEN).all()


def test_a_portion_stays_within_its_bytes() -> None:
    """But for one message that is larger."""
    one = shipment(9)
    assert leave(one, 3 * SIZE) == [1, 2, 3]
    assert leave(one, 1) == [4]


def test_a_broken_connection_took_what_was_handed_to_it_whole() -> None:
    """Half a packet is none: what the broker cannot have is not sent twice."""
    one = shipment(9)
    leave(one)
    one.answered(acks([1]))
    one.handed(4 * SIZE + SIZE - 1)
    assert one.among(TAKEN).tolist() == [True] + [False] * 8
    assert np.flatnonzero(one.among(UNDER_WAY)).tolist() == [1, 2, 3]
    assert np.flatnonzero(one.among(WAITING)).tolist() == [4, 5, 6, 7, 8]
    assert one.under_way == 3


def test_what_was_not_handed_over_is_still_to_leave() -> None:
    """Though nothing is under way: a line that breaks before the first byte has not taken all."""
    one = shipment(9)
    leave(one)
    one.handed(0)
    assert (one.under_way, one.is_done) == (0, False)
    assert one.among(WAITING).all()


def test_refusals_are_counted_by_reason() -> None:
    """And what nobody subscribes to is taken, and counted."""
    one = shipment(5)
    leave(one)
    one.answered(acks([1, 2], 0x10))
    one.answered(acks([3], 0x87))
    one.answered(acks([4, 5]))
    assert one.is_done
    assert one.unheard == 2
    assert one.reasons == {0x87: 1}
    assert one.last_refused == 2
    assert one.topic(2) == b"t"
    assert np.flatnonzero(one.among(REFUSED)).tolist() == [2]


def test_what_nobody_subscribes_to_may_be_kept() -> None:
    """Then it is not taken, and not thrown away either."""
    messages = Outgoing.one(b"t", b"x")
    one = Shipment(
        Packets(messages, version=5, qos=1), is_answered=True, window=9, packet_bytes_max=50, keeps_unheard=True
    )
    leave(one)
    one.answered(acks([1], 0x10))
    assert (one.is_done, one.unheard, one.reasons) == (True, 0, {0x10: 1})
    assert not one.among(TAKEN).any()


def test_a_broker_over_its_quota_gets_no_more() -> None:
    """What is under way has its answers, and then it is over."""
    one = shipment(30)
    leave(one)
    one.answered(acks([1, 2, 3, 4, 5, 6], 0))
    one.answered(acks([7], 0x97))
    assert not one.may_go
    assert not one.is_done
    one.answered(acks([8, 9, 10]))
    assert one.is_done
    assert np.flatnonzero(one.among(LATER)).tolist() == [6]
    assert int(one.among(WAITING).sum()) == 20


def test_one_that_refuses_all_is_not_shown_everything() -> None:
    """So many, and none taken."""
    one = shipment(500, window=100)
    ids = leave(one)
    one.answered(acks(ids[: REFUSED_MAX - 1], 0x87))
    assert one.may_go
    one.answered(acks(ids[REFUSED_MAX - 1 :], 0x87))
    assert not one.may_go
    assert one.is_done


def test_what_is_too_large_does_not_leave() -> None:
    """The broker has said what it takes: others go."""
    messages = Outgoing(b"a" * 100 + b"b", np.array([100, 101]), [b"t"], np.zeros(2, np.int64))
    one = Shipment(Packets(messages, version=5, qos=1), is_answered=True, window=9, packet_bytes_max=50)
    assert leave(one) == [1]
    one.answered(acks([1]))
    assert one.is_done
    assert one.among(REFUSED).tolist() == [True, False]
    assert one.reasons == {0x95: 1}
    nothing = Shipment(Packets(messages, version=5, qos=1), is_answered=True, window=9, packet_bytes_max=5)
    assert nothing.is_done


def test_without_answers_what_was_read_is_taken() -> None:
    """QoS 0: by the window as well."""
    one = shipment(15, is_answered=False)
    one.portion(1 << 20)
    assert not one.may_go
    one.read()
    assert int(one.among(TAKEN).sum()) == 10
    one.portion(1 << 20)
    one.read()
    assert one.is_done


@pytest.mark.parametrize("packet_id", [2, 9, 65535])
def test_an_answer_that_nobody_waits_for(packet_id: int) -> None:
    """Is a broker's mistake."""
    for count in (1, 3):
        one = shipment(count)
        leave(one, 1)
        with pytest.raises(ProtocolError):
            one.answered(acks([packet_id]))


def test_an_answer_that_comes_twice() -> None:
    """The same, at once or later."""
    one = shipment(3)
    leave(one)
    with pytest.raises(ProtocolError):
        one.answered(acks([2, 2]))
    one.answered(acks([1]))
    with pytest.raises(ProtocolError):
        one.answered(acks([1]))


def test_ids_go_round_and_wait_for_one_that_is_late() -> None:
    """An id stands for one message until that has its answer."""
    one = shipment(70_000, window=1000)
    late = leave(one)[0]
    seen = 1
    one.answered(acks(list(range(2, 1001))))
    while one.may_go:
        ids = leave(one)
        seen += len(ids)
        one.answered(acks(ids))
    assert not one.is_done
    assert one.under_way == 1
    one.answered(acks([late]))
    while one.may_go:
        one.answered(acks(leave(one)))
    assert one.is_done
    assert one.among(TAKEN).all()


def test_it_goes_on_over_another_connection_without_what_was_refused() -> None:
    """A broker that hangs up on what it refuses would do so at each message of that topic."""
    topic_of = np.array([0, 0, 1, 1, 0, 1])
    messages = Outgoing(b"01234" * 6, np.arange(1, 7) * 5, [b"a", b"b"], topic_of)
    one = Shipment(Packets(messages, version=5, qos=1), is_answered=True, window=5, packet_bytes_max=1 << 20)
    assert not one.is_refused
    leave(one)
    one.answered(acks([1], 0x87))
    assert one.is_refused
    one.resume()
    assert one.perhaps == 4
    assert np.flatnonzero(one.among(REFUSED)).tolist() == [0, 1, 4]
    assert one.reasons == {0x87: 3}
    ids = leave(one)
    assert len(ids) == 3
    one.answered(acks(ids))
    assert one.is_done
    assert np.flatnonzero(one.among(TAKEN)).tolist() == [2, 3, 5]


def test_a_payload_that_is_refused_says_nothing_of_its_topic() -> None:
    """Others of it go again."""
    one = shipment(3)
    leave(one)
    one.answered(acks([1], 0x99))
    one.resume()
    assert (one.perhaps, len(leave(one))) == (2, 2)
