"""Each refusal of a stream, and each -ERR of a server, has what to do next."""

from __future__ import annotations

import pytest

from gateway.core.contracts import TryLaterError
from gateway.net.nats import NotStored
from gateway.uplinks.guards import HoldError, StatusRefusedError, TooLargeError
from gateway.uplinks.nats_reasons import decide, decide_error, denied_subject, is_of_subject


@pytest.mark.parametrize(
    ("answer", "kind", "said"),
    [
        (NotStored(503, 0, ""), TryLaterError, "no stream listens at a.b; is there one"),
        (NotStored(503, 10077, "maximum bytes exceeded"), TryLaterError, "does not take a.b: maximum bytes exceeded"),
        (NotStored(503, 10008, "not available"), TryLaterError, "not available"),
        (NotStored(500, 1, ""), TryLaterError, "error 500"),
        (NotStored(429, 10167, "too many requests"), TryLaterError, "too many requests"),
        (NotStored(409, 10158, "in process"), TryLaterError, "in process"),
        (NotStored(0, 0, ""), TryLaterError, "error 0"),
        (NotStored(-1, 0, "nonsense"), TryLaterError, "nonsense"),
        (NotStored(200, 0, "fine"), TryLaterError, "fine"),
        (NotStored(400, 10054, "message size exceeds"), TooLargeError, "message size exceeds"),
        (NotStored(400, 10060, "expected stream does not match"), HoldError, "correct stream or subject"),
        (NotStored(400, 10109, "sealed"), HoldError, "name another stream"),
        (NotStored(503, 10076, "not enabled"), HoldError, "turn JetStream on"),
        (NotStored(403, 0, "Permissions Violation"), HoldError, "give the user that right"),
        (NotStored(400, 10002, "resource limits exceeded for account"), TryLaterError, "limits exceeded for account"),
        (NotStored(400, 10120, "no applicable limit"), HoldError, "give this account room for JetStream"),
        (NotStored(400, 10099, "strange"), StatusRefusedError, "strange (error 400)"),
    ],
)
def test_a_streams_no(answer: NotStored, kind: type[Exception], said: str) -> None:
    """By its number, else by its code."""
    found = decide(answer, subject="a.b")
    assert type(found) is kind
    assert said in str(found)


@pytest.mark.parametrize(
    ("reason", "kind", "said"),
    [
        ("Authorization Violation", HoldError, "are username, password, token or certificate right?"),
        ("User Authentication Expired", HoldError, "give the uplink another user or token"),
        ("User Authentication Revoked", HoldError, "give the uplink another user or token"),
        ("Account Authentication Expired", HoldError, "give the uplink another user or token"),
        ("Authentication Timeout", TryLaterError, "ended the connection"),
        ('Permissions Violation for Subscription to "_INBOX.x.*"', HoldError, "let the user subscribe below inbox"),
        ('Permissions Violation for Publish to "a"', HoldError, "does not let us publish"),
        ("Maximum Payload Violation", TooLargeError, "Maximum Payload"),
        ("maximum connections exceeded", TryLaterError, "maximum connections exceeded"),
        ("Stale Connection", TryLaterError, "Stale Connection"),
        ("", TryLaterError, "ended the connection"),
    ],
)
def test_a_servers_no(reason: str, kind: type[Exception], said: str) -> None:
    """What a person has to mend is held, all else is tried again."""
    found = decide_error(reason, host="h:1")
    assert type(found) is kind
    assert said in str(found)


def test_what_is_about_one_subject_says_nothing_of_others() -> None:
    """No right, or nobody there."""
    assert is_of_subject(NotStored(403, 0, "no"))
    assert is_of_subject(NotStored(503, 0, ""))
    assert is_of_subject(NotStored(503, 10077, "maximum messages per subject exceeded"))
    assert not is_of_subject(NotStored(503, 10077, "full"))
    assert denied_subject("Permissions Violation for Publish") == ""
    assert denied_subject("Stale Connection") == ""
    # As a server writes it, which is how Go quotes.
    assert denied_subject(r'Permissions Violation for Publish to "a.\"b\".c"') == 'a."b".c'
    assert denied_subject(r'Permissions Violation for Publish to "a.\\.c"') == r"a.\.c"
