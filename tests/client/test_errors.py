"""What a program catches."""

from __future__ import annotations

from gateway.client import ClientError, FullError


def test_what_is_wrong_with_the_client_is_no_mistake_in_an_argument() -> None:
    """Nor is a store without room: who catches ValueError and TypeError catches what the program should not have said."""
    for kind in (ClientError, FullError):
        assert not issubclass(kind, ValueError | TypeError)
    assert issubclass(ClientError, RuntimeError)
