"""Messages that are answered one by one come to an answer, or to what is left and why."""

from __future__ import annotations

import numpy as np
import pytest

from gateway.codecs.otlp import NO_MARKS
from gateway.core.batch import Batch
from gateway.core.contracts import Signal, TryLaterError
from gateway.core.units import Duration
from gateway.net.nats import NotStored, Stored
from gateway.uplinks.guards import HoldError, InTransitError, StatusRefusedError, UnheardError
from gateway.uplinks.nats_pieces import Publications, ReadingsPiece, SomeStoredError
from gateway.uplinks.nats_shipment import REFUSED_MAX, Shipment
from gateway.uplinks.nats_silence import NEW_MAX, Silence
from gateway.uplinks.settings import RetrySettings

STORED = Stored("S", 1, is_duplicate=False)
AGAIN = Stored("S", 1, is_duplicate=True)
FULL = NotStored(503, 10077, "full")
NOBODY = NotStored(503, 0, "")
STRANGE = NotStored(400, 1, "strange")
CLOCK = [0.0]


def quiet(*subjects: bytes) -> Silence:
    """Return what knows of silent subjects; their time has come where the clock is set forward."""
    found = Silence("cloud", RetrySettings(initial=Duration(1)), now_s=lambda: CLOCK[0])
    CLOCK[0] = 0.0
    for subject in subjects:
        found.unheard(subject)
    return found


def shipment(count: int = 4, *, window: int = 100, silence: Silence | None = None) -> Shipment:
    """Return messages of one reading each, the odd ones to another subject."""
    batch = Batch.of(0, np.arange(count), np.arange(count, dtype=np.float64))
    body = Publications(b"x" * count)
    body.ends = np.arange(1, count + 1)
    body.subjects, body.subject_of = [b"even", b"odd"], np.arange(count) % 2
    body.pieces = [ReadingsPiece("K", [(batch, NO_MARKS)], [np.arange(count)], 0, count)]
    body.piece_of, body.places = np.zeros(count, np.int64), np.arange(count)
    body.counts, body.signal, body.overhead_bytes = np.ones(count, np.int64), Signal.METRICS, 0
    return Shipment(body, window=window, silence=silence or quiet())


def sent(count: int = 4, *, silence: Silence | None = None) -> Shipment:
    found = shipment(count, silence=silence)
    while found.pop() is not None:
        pass
    return found


def test_a_window_leaves_and_the_next_half_when_there_is_room() -> None:
    """Until all have their answer."""
    found = shipment(10, window=4)
    out: list[int] = []
    while not found.is_done:
        if found.may_go:
            before = len(out)
            while (message := found.pop()) is not None:
                out.append(message)
            assert len(out) > before
        assert found.under_way <= 4
        found.answered(out[10 - 10 + len(out) - found.under_way], STORED)
    assert out == list(range(10))
    assert found.answer().rejected == 0
    assert found.stream == "S"


def test_what_the_stream_had_already_is_counted_in_readings() -> None:
    """A second answer to one says nothing, nor one to what is not there."""
    found = sent()
    for message in (0, 0, 1, 7, -1, 2, 3):
        found.answered(message, AGAIN if message else STORED)
    assert (found.duplicates, found.is_done) == (3, True)
    assert found.answer().rejected == 0


@pytest.mark.parametrize(
    ("answer", "kind"), [(FULL, TryLaterError), (NOBODY, TryLaterError), (STRANGE, StatusRefusedError)]
)
def test_where_none_is_stored_it_is_what_the_answer_says(answer: NotStored, kind: type[Exception]) -> None:
    """Nothing is in doubt."""
    found = sent()
    for message in range(4):
        found.answered(message, answer)
    with pytest.raises(kind) as error:
        found.answer()
    assert not getattr(error.value, "answer_lost", False)


def test_where_some_are_stored_the_others_go_again() -> None:
    """And nothing more leaves after a word that is about all of them."""
    found = shipment(10, window=4)
    for _ in range(4):
        found.pop()
    for message in range(3):
        found.answered(message, STORED)
    found.answered(3, FULL)
    assert found.is_done
    assert found.pop() is None
    with pytest.raises(SomeStoredError, match="full") as error:
        found.answer()
    assert (error.value.taken, error.value.maybe, error.value.rejected) == (3, 0, 0)


def test_nobody_at_one_subject_says_nothing_of_the_other() -> None:
    """The others go on; what nobody heard goes again."""
    found = sent()
    for message in range(4):
        found.answered(message, NOBODY if message % 2 else STORED)
    answer = found.answer()
    assert answer.left is not None
    assert answer.left.why.startswith("no stream listens at odd")
    assert (len(answer.left.part), answer.left.wait_s, answer.rejected) == (2, 1.0, 0)


def test_what_we_may_not_publish_is_rejected_beside_what_is_taken() -> None:
    """Under way and waiting; where nothing is taken it is held."""
    found = shipment(6, window=2)
    found.pop()
    found.pop()
    assert found.denied("odd", "Permissions Violation")
    assert not found.denied("other", "Permissions Violation")
    found.answered(0, STORED)
    while (message := found.pop()) is not None:
        found.answered(message, STORED)
    answer = found.answer()
    assert answer.rejected == 3
    assert "3 readings not taken: the server does not let us publish to odd" in answer.message
    found = sent()
    found.denied("odd", "no")
    found.denied("even", "no")
    with pytest.raises(HoldError):
        found.answer()


def test_what_is_denied_while_the_stream_is_full_is_left() -> None:
    """Both reasons: nothing is given up."""
    found = sent(6)
    found.answered(0, STORED)
    found.denied("odd", "no")
    found.answered(2, FULL)
    found.answered(4, FULL)
    with pytest.raises(SomeStoredError) as error:
        found.answer()
    assert (error.value.taken, error.value.rejected) == (1, 0)


def test_many_that_nobody_hears_are_enough() -> None:
    """A backlog is not shown to nobody: one message to each of so many subjects, and more of them the next time."""
    known = quiet()
    for most in (NEW_MAX, 2 * NEW_MAX):
        found = shipment(1000, window=10, silence=known)
        found.body.subjects, found.body.subject_of = (
            [b"%d" % (n + 1000 * most) for n in range(500)],
            np.arange(1000) // 2,
        )
        shown = 0
        while not found.is_done:
            while (message := found.pop()) is not None:
                shown += 1
                found.answered(message, NOBODY)
        assert shown == most
        with pytest.raises(TryLaterError, match=f"and {most - 1} other subjects") as error:
            found.answer()
        assert error.value.put_off_s == 1.0


def test_what_is_refused_for_its_subject_is_enough_too() -> None:
    """Where nothing is stored."""
    found = shipment(1000, window=10)
    shown = 0
    while not found.is_done:
        while (message := found.pop()) is not None:
            shown += 1
            found.answered(message, NotStored(403, 0, "no"))
    assert shown == REFUSED_MAX


def test_of_a_silent_subject_one_message_asks_and_the_others_follow_it() -> None:
    """Or stay, where nobody listens yet."""
    known = quiet(b"odd")
    found = sent(6, silence=known)
    assert found.under_way == 3
    for message in (0, 2, 4):
        found.answered(message, STORED)
    assert found.is_done
    left = found.answer().left
    assert left is not None
    assert (len(left.part), left.wait_s) == (3, 1.0)
    CLOCK[0] = 1.0
    found = sent(6, silence=known)
    assert found.under_way == 4
    found.answered(1, NOBODY)
    for message in (0, 2, 4):
        found.answered(message, STORED)
    left = found.answer().left
    assert left is not None
    assert (len(left.part), left.wait_s) == (3, 2.0)
    CLOCK[0] = 3.0
    found = sent(6, silence=known)
    found.not_sent(1)
    assert found.pop() == 1
    found.answered(1, STORED)
    assert not found.is_done
    assert found.may_go
    assert [found.pop(), found.pop(), found.pop()] == [3, 5, None]
    for message in (0, 2, 3, 4, 5):
        found.answered(message, STORED)
    assert found.answer().left is None
    assert known.subjects == 0


def test_where_nobody_hears_any_of_it_others_may_go() -> None:
    """If something was stored lately."""
    known = quiet()
    known.stored()
    found = sent(silence=known)
    for message in range(4):
        found.answered(message, NOBODY)
    with pytest.raises(UnheardError, match="no stream listens at even and 1 other subjects") as error:
        found.answer()
    assert (error.value.put_off_s, len(error.value.left.part)) == (1.0, 4)


def test_what_we_may_not_publish_is_rejected_beside_what_nobody_hears() -> None:
    """Each for its own reason."""
    found = shipment(6)
    found.body.subjects, found.body.subject_of = [b"even", b"odd", b"none"], np.arange(6) % 3
    while found.pop() is not None:
        pass
    found.denied("odd", "no")
    for message in (0, 3):
        found.answered(message, STORED)
    found.answered(2, NOBODY)
    found.answered(5, NOBODY)
    answer = found.answer()
    assert answer.left is not None
    assert (answer.rejected, len(answer.left.part)) == (2, 2)


def test_a_break_leaves_in_doubt_what_was_under_way() -> None:
    """What has not left is not; with none stored it is the error itself."""
    found = shipment(6)
    for _ in range(4):
        found.pop()
    found.not_sent(3)
    found.not_sent(3)
    error = found.broken(InTransitError("it broke"))
    assert error.answer_lost
    found.answered(0, STORED)
    error = found.broken(InTransitError("it broke", 7.0))
    assert isinstance(error, SomeStoredError)
    assert (error.taken, error.maybe, error.after_s) == (1, 2, 7.0)
    found = shipment(2)
    assert not found.broken(InTransitError("it broke")).answer_lost
    found.pop()
    found.answered(0, STORED)
    held = found.broken(HoldError("no"))
    assert isinstance(held, SomeStoredError)
    assert (held.is_held, held.maybe) == (True, 0)
