"""Checks for who may publish what, and for guessing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.net.secrets import Secret
from gateway.sources.mqtt_server_auth import (
    DELAY_S_MAX,
    FORGET_AFTER_S,
    GUESSES_MAX,
    TOPICS_ALLOWED_BYTES_MAX,
    TOPICS_ALLOWED_MAX,
    WAITING_PER_ADDRESS_MAX,
    WAITING_PER_NAME_MAX,
    Attempts,
    Authenticator,
    Grant,
    MqttCertificate,
    MqttUser,
    address_group,
    certificate_names,
    wrong_patterns,
)


@pytest.mark.parametrize(
    ("pattern", "topic", "answer"),
    [
        ("#", "a", True),
        ("#", "$aws/things", True),
        ("a/#", "a", True),
        ("a/#", "a/b/c", True),
        ("a/#", "ab", False),
        ("a/+", "a/b", True),
        ("a/+", "a", False),
        ("a/+", "a/b/c", False),
        ("+/b", "/b", True),
        ("a/{user}/#", "a/me/x", True),
        ("a/%u/#", "a/you/x", False),
        ("a", "a/", False),
    ],
)
def test_a_pattern_covers_a_topic(pattern: str, topic: str, answer: bool) -> None:
    """As MQTT's filters do; # takes topics with $ too."""
    grant = Grant("me", [pattern])
    assert grant.allows(topic.encode()) is answer
    assert grant.allows(topic.encode()) is answer
    assert grant.knows_all([topic.encode()]) is answer


def test_what_was_allowed_is_remembered_and_bounded() -> None:
    """A flood of topics costs time, not memory."""
    grant = Grant("me", ["a/+"])
    for k in range(TOPICS_ALLOWED_MAX + 5):
        assert grant.allows(b"a/%d" % k)
    assert not grant.knows_all([b"a/0"])
    assert grant.knows_all([b"a/%d" % (TOPICS_ALLOWED_MAX + 4)])


def test_long_topics_that_were_allowed_are_fewer() -> None:
    """They are bounded in bytes too."""
    grant = Grant("me", ["a/+"])
    for k in range(TOPICS_ALLOWED_MAX):
        assert grant.allows(b"a/%d" % k + b"x" * 10_000)
        assert sum(map(len, grant._allowed)) < TOPICS_ALLOWED_BYTES_MAX + 11_000


@pytest.mark.parametrize("pattern", ["", "a#", "#/a", "a/b+", "a/#/b", "+a"])
def test_patterns_that_mqtt_does_not_know(pattern: str) -> None:
    """Refused with what would be right."""
    ((path, what),) = wrong_patterns("topics", ["a/+", pattern])
    assert path == "topics[1]"
    assert "is not a topic pattern" in what


@pytest.mark.parametrize("name", ["", "a/b", "+", "a#"])
def test_names_that_would_open_more(name: str) -> None:
    """A user called + with the topics {user}/# would own everything."""
    with pytest.raises(ValueError, match="must not be empty or hold"):
        MqttUser(name=name, password=Secret(env="X"), topics=("#",))
    with pytest.raises(ValueError, match="must not be empty or hold"):
        MqttCertificate(common_name=name, topics=("#",))


@pytest.fixture
def authenticator(monkeypatch) -> Authenticator:
    monkeypatch.setenv("PUMP", "right")
    return Authenticator(
        users=[MqttUser(name="pump", password=Secret(env="PUMP"), topics=("#",))],
        certificates=[MqttCertificate(common_name="valve", topics=("v/#",))],
        anonymous_topics=None,
    )


def test_who_is_let_in(authenticator: Authenticator) -> None:
    """A listed certificate first, then the password; nobody else."""

    def name(*peer_names: str, **shown: object) -> str | None:
        grant = authenticator.admit(**({"username": None, "password": None} | shown), peer_names=peer_names)
        return None if grant is None else grant.name

    assert name(username="pump", password=b"right") == "pump"
    assert name(username="pump", password=b"wrong") is None
    assert name(username="pump") is None
    assert name(username="nobody", password=b"right") is None
    assert name() is None
    assert name("other", "valve", username="pump", password=b"wrong") == "valve"
    assert name("other") is None


def test_a_wrong_password_is_not_made_good_by_anonymity(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who gives a name is that or nobody, where clients without one may publish too."""
    monkeypatch.setenv("PASSWORD", "right")
    user = MqttUser(name="me", password=Secret(env="PASSWORD"), topics=("a/#",))
    authenticator = Authenticator(users=(user,), certificates=(), anonymous_topics=("#",))
    assert authenticator.admit(username="me", password=b"wrong") is None
    assert authenticator.admit(username="me", password=None) is None
    assert authenticator.admit(username="nobody", password=b"right") is None
    assert authenticator.admit(username="me", password=b"right").name == "me"
    assert authenticator.admit(username=None, password=None).allows(b"a/b")


def test_anonymous_clients_have_topics_of_their_own() -> None:
    """If they are let in at all."""
    authenticator = Authenticator(users=(), certificates=(), anonymous_topics=("open/#",))
    grant = authenticator.admit(username=None, password=None)
    assert grant is not None
    assert grant.allows(b"open/x")
    assert not grant.allows(b"x")


def test_a_password_that_cannot_be_read_is_named(monkeypatch) -> None:
    """By its place, at the start."""
    monkeypatch.delenv("PUMP", raising=False)
    with pytest.raises(ValueError, match="PUMP is not set"):
        Authenticator(
            users=[MqttUser(name="pump", password=Secret(env="PUMP"), topics=("#",))],
            certificates=(),
            anonymous_topics=None,
        )


def test_names_of_a_certificate() -> None:
    """The common name and the alternative names that are names."""
    shown = {
        "subject": ((("organizationName", "o"),), (("commonName", "valve"),)),
        "subjectAltName": (("DNS", "valve.plant"), ("IP Address", "10.0.0.1"), ("URI", "urn:dev:1")),
    }
    assert certificate_names(shown) == ["valve", "valve.plant", "urn:dev:1"]
    assert certificate_names(None) == []
    assert certificate_names({}) == []


def test_each_wrong_password_waits_longer() -> None:
    """Doubling to a bound; after a while it begins anew."""
    attempts = Attempts()
    assert [attempts.failed("10.0.0.1", "pump", now_s=0) for _ in range(7)] == [0.5, 1, 2, 4, 8, 8, 8]
    assert attempts.failed("10.0.0.2", "pump", now_s=0) == 0.5
    assert attempts.failed("10.0.0.1", "pump", now_s=FORGET_AFTER_S + 1) == 0.5


def test_too_many_waiting_answers_shut_the_name_out() -> None:
    """Until one of them is given; other names and other addresses are listened to."""
    attempts = Attempts()
    for _ in range(WAITING_PER_NAME_MAX):
        assert not attempts.is_held("10.0.0.1", "pump", now_s=0)
        attempts.failed("10.0.0.1", "pump", now_s=0)
    assert attempts.is_held("10.0.0.1", "pump", now_s=0)
    assert not attempts.is_held("10.0.0.2", "pump", now_s=0)
    assert not attempts.is_held("10.0.0.1", "valve", now_s=0)
    attempts.answered("10.0.0.1", "pump")
    assert not attempts.is_held("10.0.0.1", "pump", now_s=0)
    attempts.answered("10.9.9.9", "pump")


def test_answers_that_wait_are_bounded_for_one_address() -> None:
    """Past that a wrong one is answered at once, and its name is held for as long as it would have waited."""
    attempts = Attempts()
    for k in range(WAITING_PER_ADDRESS_MAX):
        assert attempts.failed("10.0.0.1", f"u{k}", now_s=0)
    assert attempts.failed("10.0.0.1", "pump", now_s=0) == 0
    assert attempts.is_held("10.0.0.1", "pump", now_s=DELAY_S_MAX - 1)
    assert not attempts.is_held("10.0.0.1", "pump", now_s=DELAY_S_MAX)
    for k in range(WAITING_PER_ADDRESS_MAX):
        attempts.answered("10.0.0.1", f"u{k}")
    assert not attempts._waiting
    assert attempts.failed("10.0.0.1", "pump", now_s=DELAY_S_MAX)


def test_addresses_are_bounded() -> None:
    """The one that failed longest ago is forgotten."""
    attempts = Attempts()
    for k in range(GUESSES_MAX + 10):
        attempts.failed(f"10.0.{k // 256}.{k % 256}", "pump", now_s=k)
    assert len(attempts._guesses) == GUESSES_MAX
    assert attempts.failed("10.0.0.0", "pump", now_s=0) == 0.5


@pytest.mark.parametrize(
    ("address", "group"),
    [("::ffff:10.0.0.1", "10.0.0.1"), ("fe80::1%eth0", "fe80::/64"), ("2001:db8::1:2", "2001:db8::/64"), ("x", "x")],
)
def test_one_guesser_is_one_network(address: str, group: str) -> None:
    """A host has a whole /64 of IPv6 addresses to itself."""
    assert address_group(address) == group


@given(st.lists(st.sampled_from(["fail", "answer"]), max_size=40))
def test_waiting_answers_are_never_fewer_than_none(events: list[str]) -> None:
    """Whatever the order."""
    attempts = Attempts()
    for event in events:
        if event == "fail":
            attempts.failed("10.0.0.1", "pump", now_s=0)
        else:
            attempts.answered("10.0.0.1", "pump")
    assert all(entry.waiting >= 0 for entry in attempts._guesses.values())
    assert all(waiting > 0 for waiting in attempts._waiting.values())
