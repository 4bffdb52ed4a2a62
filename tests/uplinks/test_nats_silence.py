"""Subjects at which no stream listens wait, ask now and then, and keep nobody else waiting."""

from __future__ import annotations

from gateway.core.units import Duration
from gateway.uplinks.nats_silence import ASKS_MAX, ASKS_S, NEW_MAX, SUBJECTS_MAX, WAIT_S_MAX, Silence
from gateway.uplinks.settings import RetrySettings


class Time:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now_s = 1000.0


def silence(time: Time, *, most_s: float = 60) -> Silence:
    return Silence("cloud", RetrySettings(initial=Duration(1), max=Duration(most_s)), now_s=lambda: time.now_s)


def test_each_wait_is_longer_and_one_answer_ends_it() -> None:
    """Up to a minute, whatever the settings have for a road that is none."""
    time = Time()
    found = silence(time, most_s=600)
    waits = []
    for _ in range(9):
        found.unheard(b"a")
        waits.append(found.left_s([b"a"]))
        assert not found.may_ask(b"a")
        time.now_s += waits[-1]
        assert found.may_ask(b"a")
    assert waits == [1, 2, 4, 8, 16, 32, WAIT_S_MAX, WAIT_S_MAX, WAIT_S_MAX]
    found.heard(b"a")
    assert not found.is_quiet(b"a")
    assert found.left_s([b"a"]) == 1


def test_of_thousands_a_few_ask_until_one_is_answered() -> None:
    """What is not known costs a message each, for ever; a stream of all of them is found out with the first."""
    time = Time()
    found = silence(time)
    names = [b"d%d" % number for number in range(1000)]
    for name in names:
        found.unheard(name)
    time.now_s += WAIT_S_MAX
    assert sum(map(found.may_ask, names)) == ASKS_MAX
    time.now_s += ASKS_S
    assert sum(map(found.may_ask, names)) == ASKS_MAX
    found.heard(names[0])
    assert all(map(found.may_ask, names[1:]))


def test_there_is_room_for_so_many() -> None:
    """The one that is known for longest asks once more."""
    found = silence(Time())
    for number in range(SUBJECTS_MAX + 5):
        found.unheard(b"d%d" % number)
    assert found.subjects == SUBJECTS_MAX
    assert not found.is_quiet(b"d4")
    assert found.is_quiet(b"d5")


def test_it_is_the_road_where_nothing_was_stored_lately() -> None:
    """Then more are shown each time, lest the ones that are heard stand behind too many that are not."""
    time = Time()
    found = silence(time)
    assert not found.is_road
    found.nothing_stored()
    found.nothing_stored()
    assert found.new_max == 4 * NEW_MAX
    found.stored()
    assert found.is_road
    assert found.new_max == NEW_MAX
    time.now_s += 1000
    assert not found.is_road


def test_status_names_some_and_says_why() -> None:
    """The newest of them, fit for a terminal."""
    time = Time()
    found = silence(time)
    assert found.told() == {"subjects": 0, "some": [], "reason": "", "next_try_in_s": 0.0}
    for number in range(20):
        found.unheard(b"d\x1b%d" % number)
    told = found.told()
    assert (told["subjects"], len(told["some"]), told["next_try_in_s"]) == (20, 8, 1.0)
    assert "\x1b" not in told["reason"]
    assert told["reason"].endswith("and 19 other subjects; is there one, and does it have them?")
    assert found.why([b"x"]) == "no stream listens at x; is there one, and does it have that subject?"


def test_who_comes_in_vain_where_thousands_are_silent_comes_less_often() -> None:
    """Each try of a lease is work, and few of its subjects may ask."""
    time = Time()
    found = silence(time)
    for number in range(2 * ASKS_MAX):
        found.unheard(b"d%d" % number)
    time.now_s += WAIT_S_MAX
    assert found.left_s([b"d0"]) == 2 * ASKS_S
    for number in range(4000):
        found.unheard(b"e%d" % number)
    assert found.left_s([b"e0"]) == WAIT_S_MAX
    found.heard(b"e1")
    assert found.left_s([b"d0"]) == 1


def test_the_log_hears_of_them_once_a_minute(caplog) -> None:
    """With how many there are."""
    time = Time()
    found = silence(time)
    found.stored()
    for name in (b"a", b"b", b"c"):
        found.unheard(name)
    time.now_s += 60
    found.unheard(b"a")
    found.unheard(b"d")
    assert [record.getMessage() for record in caplog.records] == [
        "uplink cloud: no stream listens at a; is there one, and does it have that subject?",
        "uplink cloud: no stream listens at d and 3 other subjects; is there one, and does it have them?",
    ]
