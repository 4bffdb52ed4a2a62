"""Checks for the answer to a CONNECT."""

from __future__ import annotations

from gateway.net.mqtt_fields import CONNECT_PROPERTIES, Property, ReasonCode, read_properties
from gateway.net.mqtt_packets import Connect, Will
from gateway.net.secrets import Secret
from gateway.sources.mqtt_server_admission import Limits, Refusal, Welcome, decide, welcome_bytes
from gateway.sources.mqtt_server_auth import Attempts, Authenticator, MqttUser

LIMITS = Limits(
    packet_bytes_max=1000,
    topic_bytes_max=100,
    topic_alias_max=4,
    receive_maximum=65535,
    connect_timeout_s=10,
    keep_alive_s_max=600,
    session_expiry_s_max=100,
    in_flight_bytes_max=1000,
    wills_max=64,
    connections_max=1000,
    partial_bytes_max=1000,
    kept_bytes_max=1000,
    unread_bytes_max=1000,
)


def ask(
    connect: Connect, *, attempts: Attempts | None = None, authenticator: Authenticator | None = None
) -> Welcome | Refusal:
    return decide(
        connect,
        limits=LIMITS,
        authenticator=authenticator or Authenticator(users=(), certificates=(), anonymous_topics=("a",)),
        attempts=attempts or Attempts(),
        address="10.0.0.1",
        peer_names=(),
        now_s=0,
    )


def connect(**fields: object) -> Connect:
    values = {"version": 5, "client_id": b"d", "clean_start": True, "keep_alive_s": 60} | fields
    return Connect(**values)


def test_a_welcome_names_the_session() -> None:
    """By who it is and the client id, assigned where there is none."""
    welcome = ask(connect())
    assert isinstance(welcome, Welcome)
    assert welcome.session_key == ("", b"d")
    assert welcome.keep_alive_s == 60
    assigned = ask(connect(client_id=b""))
    assert isinstance(assigned, Welcome)
    assert assigned.client_id.startswith(b"tidegate-")


def test_the_keep_alive_of_version_5_has_a_bound() -> None:
    """None and too long become the longest; 3.1.1 cannot be told, so its wish stands."""
    for version, wish, given in ((5, 0, 600), (5, 6000, 600), (4, 0, 0), (4, 6000, 6000)):
        answer = ask(connect(version=version, keep_alive_s=wish))
        assert isinstance(answer, Welcome)
        assert answer.keep_alive_s == given


def test_refusals() -> None:
    """Another authentication, a will that is not allowed, a wrong name, too many wrong names."""
    attempts = Attempts()
    refusals = [
        ask(connect(authentication_method=b"x")),
        ask(connect(will=Will(b"b", b"", 0))),
        ask(connect(username="u", password=b"p"), attempts=attempts),
    ]
    for _ in range(7):
        ask(connect(username="u"), attempts=attempts)
    refusals.append(ask(connect(username="u"), attempts=attempts))
    assert isinstance(ask(connect(), attempts=attempts), Welcome)
    codes = [refusal.code for refusal in refusals if isinstance(refusal, Refusal)]
    assert codes == [
        ReasonCode.BAD_AUTHENTICATION_METHOD,
        ReasonCode.NOT_AUTHORIZED,
        ReasonCode.BAD_USER_NAME_OR_PASSWORD,
        ReasonCode.CONNECTION_RATE_EXCEEDED,
    ]
    assert [refusal.delay_s > 0 for refusal in refusals] == [False, False, True, False]


def test_a_name_where_there_are_no_users_is_told_as_what_it_is() -> None:
    """Not as a wrong one: many devices always send a name, and whoever reads it would look for another password."""
    attempts = Attempts()
    for _ in range(9):
        answer = ask(connect(username="dev", password=b"p"), attempts=attempts)
        assert isinstance(answer, Refusal)
        assert answer.sentence == (
            "10.0.0.1 gave the name 'dev' and there are no users: name it in users, or let it send none"
        )
    assert answer.reason == "attempts_limited"


def test_wrong_passwords_do_not_lock_out_another_name(monkeypatch) -> None:
    """From the same address, however many names were tried."""
    monkeypatch.setenv("PUMP", "right")
    user = MqttUser(name="pump", password=Secret(env="PUMP"), topics=("#",))
    authenticator = Authenticator(users=(user,), certificates=(), anonymous_topics=None)
    attempts = Attempts()
    for k in range(200):
        ask(connect(username=f"u{k % 20}"), attempts=attempts, authenticator=authenticator)
    answer = ask(connect(username="pump", password=b"right"), attempts=attempts, authenticator=authenticator)
    assert isinstance(answer, Welcome)


def test_a_connack_says_what_differs_and_no_more() -> None:
    """A client that asked for what it gets reads the limits only."""
    asked = connect(session_expiry_s=50)
    welcome = ask(asked)
    assert isinstance(welcome, Welcome)
    data = welcome_bytes(asked, welcome, limits=LIMITS, topic_alias_max=3, session_present=True, session_expiry_s=50)
    assert data[2:4] == b"\1\0"
    properties, _ = read_properties(data, 4, len(data), CONNECT_PROPERTIES | {Property.SERVER_KEEP_ALIVE})
    assert properties == {Property.MAXIMUM_PACKET_SIZE: 1000, Property.TOPIC_ALIAS_MAXIMUM: 3}
    old = connect(version=4)
    assert (
        welcome_bytes(old, welcome, limits=LIMITS, topic_alias_max=4, session_present=False, session_expiry_s=0)
        == b"\x20\2\0\0"
    )
