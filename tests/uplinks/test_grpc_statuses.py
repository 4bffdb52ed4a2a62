"""What each status of gRPC has an uplink do."""

from __future__ import annotations

import pytest

from gateway.codecs.grpc import Code, Status
from gateway.core.contracts import TryLaterError
from gateway.uplinks.grpc_statuses import check_status
from gateway.uplinks.guards import HoldError, PassedOnError, StatusRefusedError, TooLargeError


@pytest.mark.parametrize(
    ("status", "kind", "after_s", "is_lost"),
    [
        (Status(14, "later"), TryLaterError, 0.0, False),
        (Status(14, "later", 7.0), TryLaterError, 7.0, False),
        (Status(14, "upstream connect error or disconnect/reset before headers. reset reason: x"), TryLaterError, 0.0, True),
        (Status(10), TryLaterError, 0.0, False),
        (Status(8, "quota", 2.0), TryLaterError, 2.0, False),
        (Status(8, "received message larger than max", 2.0), TryLaterError, 2.0, False),
        (Status(8, "", 0.0), TryLaterError, 0.0, False),
        (Status(8, "", 1e9), TryLaterError, 3600.0, False),
        (Status(1), PassedOnError, 0.0, True),
        (Status(4, "", 1.0), PassedOnError, 1.0, True),
        (Status(15), PassedOnError, 0.0, True),
        (Status(11), PassedOnError, 0.0, False),
        (Status(5), HoldError, 60.0, False),
        (Status(7), HoldError, 60.0, False),
        (Status(12, "unknown service"), HoldError, 60.0, False),
        (Status(16), HoldError, 60.0, False),
    ],
)  # fmt: skip
def test_what_is_tried_again(status: Status, kind: type[TryLaterError], after_s: float, is_lost: bool) -> None:
    """With the wait that was asked for, and whether it may have been taken."""
    with pytest.raises(TryLaterError) as caught:
        check_status(status, encoding="gzip")
    error = caught.value
    assert type(error) is kind
    assert (error.after_s, error.answer_lost) == (after_s, is_lost)
    assert status.name in str(error)
    assert status.message in str(error)
    if status.retry_s:
        assert f"asks to wait {after_s:.0f} s" in str(error)


@pytest.mark.parametrize(
    ("status", "as_http"),
    [
        (Status(3, "bad name"), 400),
        (Status(6), 409),
        (Status(8, "no quota left"), 429),
        (Status(9), 412),
        (Status(2), 500),
        (Status(13), 500),
        (Status(77), 500),
    ],
)
def test_what_is_refused(status: Status, as_http: int) -> None:
    """As the status of HTTP would be that says the same: without RetryInfo nobody says that a quota comes back."""
    with pytest.raises(StatusRefusedError, match=f"{status.name}.*{status.message}") as caught:
        check_status(status, encoding="gzip")
    assert caught.value.status == as_http


@pytest.mark.parametrize(
    "message",
    [
        "grpc: received message larger than max (5000000 vs. 4194304)",
        "Received message larger than max (5000000 vs. 4194304)",
        "grpc: received message after decompression larger than max 4194304",
        "gRPC message exceeds maximum size 4194304: 5000000",
        "Received message exceeds the maximum configured message size.",
        "Error, decoded message length too large: found 5000000 bytes, the limit is: 4194304 bytes",
    ],
)
@pytest.mark.parametrize("code", [Code.RESOURCE_EXHAUSTED, Code.OUT_OF_RANGE])
def test_what_is_too_large_is_split(code: Code, message: str) -> None:
    """In the words of gRPC's implementations; of which one says OUT_OF_RANGE, that would poison for ever."""
    with pytest.raises(TooLargeError, match="."):
        check_status(Status(code, message))


@pytest.mark.parametrize("message", ["rate limit exceeded", "Concurrent RPC limit exceeded!", "quota is used up"])
def test_a_quota_is_not_a_size(message: str) -> None:
    """Less at once would be of no use."""
    with pytest.raises(StatusRefusedError, match=message):
        check_status(Status(8, message))


def test_an_encoding_that_is_not_known_is_another_decision() -> None:
    """By what is said, or by what the receiver says that it takes; never where nothing was compressed."""
    for status, accepts in (
        (Status(12, 'grpc: Decompressor is not installed for grpc-encoding "gzip"'), None),
        (Status(12, "no"), "identity, deflate"),
        (Status(13, "Error parsing 'grpc-encoding' metadata"), None),
    ):
        with pytest.raises(StatusRefusedError) as caught:
            check_status(status, encoding="gzip", accepts=accepts)
        assert caught.value.status == 415
    with pytest.raises(HoldError):
        check_status(Status(12, "no"), encoding="gzip", accepts="identity,gzip")
    with pytest.raises(HoldError):
        check_status(Status(12, "no gzip"), accepts="identity")
    with pytest.raises(StatusRefusedError, match="INTERNAL: boom") as caught:
        check_status(Status(13, "boom"), encoding="gzip")
    assert caught.value.status == 500


def test_what_was_taken_is_nobodys_concern() -> None:
    """OK is."""
    check_status(Status(0, "fine"))
