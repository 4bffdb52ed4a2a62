"""Checks for the decisions: each answer, each fallback."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.contracts import RefusedError, Signal, TryLaterError
from gateway.core.units import Duration
from gateway.uplinks.guards import (
    OFFER_AGAIN_S,
    RETRY_AFTER_S_MAX,
    Answer,
    Compressing,
    HoldError,
    Packed,
    PassedOnError,
    Reply,
    Request,
    StatusRefusedError,
    TooLargeError,
    UnreachableError,
    check_reply,
    read_http_date,
    read_retry_after,
    wait_bound_s,
)
from gateway.uplinks.settings import RetrySettings

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.mark.parametrize("status", [200, 202, 204])
def test_success_is_success(status: int) -> None:
    """Any 2xx from a receiver means taken."""
    check_reply(Reply(status))


@pytest.mark.parametrize("status", [408, 429, 502, 503, 504, *range(520, 528), 530])
def test_what_passes_is_tried_later(status: int) -> None:
    """The server's wait and sentence come along; only a receiver's own busy says that nothing was taken."""
    with pytest.raises(TryLaterError, match=f"status {status}: asks to wait 7 s: busy") as caught:
        check_reply(Reply(status, message="busy", retry_after_s=7))
    assert (caught.value.after_s, caught.value.answer_lost) == (7, status not in {429, 503})
    # To who stands in between a smaller request may be the remedy.
    assert isinstance(caught.value, PassedOnError) is (status not in {429, 503})
    assert not isinstance(caught.value, HoldError)


def test_who_asks_to_wait_is_said_to() -> None:
    """An hour without an attempt is the receiver's wish; without one the status stands alone."""
    for after_s, said in ((3600, "status 429: asks to wait 3600 s"), (0, "status 429")):
        with pytest.raises(TryLaterError) as caught:
            check_reply(Reply(429, retry_after_s=after_s))
        assert str(caught.value) == said


@pytest.mark.parametrize(
    "status", [301, 302, 307, 308, 401, 402, 403, 404, 405, 407, 410, 421, 426, 451, 501, 505, 511]
)
def test_what_points_at_the_way_is_held(status: int) -> None:
    """A wrong token, path or redirect costs no data: it is tried again slowly."""
    with pytest.raises(HoldError) as caught:
        check_reply(Reply(status))
    assert caught.value.after_s == 60


def test_a_redirect_names_its_target() -> None:
    """Whoever reads the status sees what to correct."""
    with pytest.raises(HoldError, match="a redirect to http://login/, which is not followed; correct the endpoint"):
        check_reply(Reply(302, location="http://login/"))


@pytest.mark.parametrize("status", [400, 406, 409, 415, 422, 500])
def test_the_rest_is_refused(status: int) -> None:
    """As OTLP says: not to be sent again."""
    with pytest.raises(RefusedError, match=f"status {status}: bad name"):
        check_reply(Reply(status, message="bad name"))


@pytest.mark.parametrize("status", [520, 521, 522, 523, 524, 525, 526, 527, 530])
def test_a_cdn_whose_origin_is_down_costs_no_data(status: int) -> None:
    """The receiver never saw it, so it has refused nothing."""
    with pytest.raises(TryLaterError):
        check_reply(Reply(status, content_type="text/html", is_page=True))


def test_too_large_is_to_be_split() -> None:
    """413 is its own decision."""
    with pytest.raises(TooLargeError):
        check_reply(Reply(413))


def test_a_captive_portal_is_not_a_receiver() -> None:
    """200 with a web page is not a delivery."""
    with pytest.raises(TryLaterError, match="captive portal") as caught:
        check_reply(Reply(200, content_type="text/html", is_page=True))
    assert caught.value.answer_lost


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0),
        (" 120 ", 120),
        ("999999999999999999999999999", RETRY_AFTER_S_MAX),
        ("9" * 100_000, RETRY_AFTER_S_MAX),
        ("Thu, 01 Jan 1970 00:18:40 GMT", 120),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
        ("Fri, 31 Dec 2055 23:59:59 GMT", RETRY_AFTER_S_MAX),
        ("", 0),
        ("-5", 0),
        ("1.5", 0),
        ("٣", 0),
        ("soon", 0),
    ],
)
def test_retry_after(value: str, seconds: float) -> None:
    """Seconds or a date, seen from the server's own clock; capped; nonsense is nothing."""
    assert read_retry_after(value, now_s=1000) == seconds


@given(st.text(max_size=40))
def test_any_date_is_read_or_not(value: str) -> None:
    """Whatever a header says, reading it ends."""
    assert read_http_date(value) is None or isinstance(read_http_date(value), int)
    assert 0 <= read_retry_after(value, now_s=0) <= RETRY_AFTER_S_MAX


def test_where_no_connection_can_be_made_it_is_tried_again_sooner() -> None:
    """Such a try costs some packets, and it is how the end of an outage shows."""
    retry = RetrySettings(unreachable_max=Duration(15), max=Duration(60))
    assert wait_bound_s(UnreachableError("no connection"), retry) == 15
    assert wait_bound_s(TryLaterError("status 503"), retry) == 60


def test_where_another_way_is_there_nothing_is_waited_for() -> None:
    """Whatever was wrong with the first."""
    error = TryLaterError("no answer", answer_lost=True)
    error.at_once = True
    assert wait_bound_s(error, RetrySettings()) == 0


class ScriptedWire:
    """Answers by encoding: an error's status, or 0 for taken; and to what has "data" in it."""

    def __init__(self, **statuses: int) -> None:
        self.statuses = statuses
        self.sent: list[str] = []
        self.data_sent: list[str] = []

    def send(self, packed: Packed) -> Answer:
        self.sent.append(packed.encoding)
        if not packed.is_probe:
            self.data_sent.append(packed.encoding)
        status = self.statuses.get(packed.encoding or "none", 0)
        status = status or (0 if packed.is_probe else self.statuses.get("data", 0))
        if status:
            check_reply(Reply(status))
        return Answer()


def compressing(wire: ScriptedWire, mode: str = "auto", now_s: Callable[[], float] = lambda: 0.0) -> Compressing:
    return Compressing(wire, lambda request, encoding: request.body, mode, now_s)


def asking(wire: ScriptedWire, mode: str = "auto", now_s: Callable[[], float] = lambda: 0.0) -> Compressing:
    """One that may send a request for nothing."""
    return Compressing(wire, lambda request, encoding: request.body, mode, now_s, empty=dict.fromkeys(Signal, b""))


REQUEST = Request(Signal.METRICS, b"body", 1)


def test_a_servers_own_error_goes_to_another_one_once() -> None:
    """As it was, and counted; whoever has no other is asked as ever."""
    outcomes: list[bool] = [True, True]
    sent: list[str] = []

    def send(packed: Packed) -> Answer:
        sent.append(packed.encoding)
        if not outcomes:
            return Answer()
        error = StatusRefusedError("status 500", 500)
        error.at_once = outcomes.pop()
        raise error

    wire = ScriptedWire()
    wire.send = send
    sender = compressing(wire, "zstd")
    with pytest.raises(StatusRefusedError):
        sender.send(REQUEST)
    assert (sent, sender.failures) == (["zstd"] * 2, 1)
    outcomes.append(True)
    sender.send(REQUEST)
    assert (sent, sender.failures) == (["zstd"] * 4, 1)


@pytest.mark.parametrize("status", [400, 415, 500])
def test_a_receiver_without_zstd_gets_gzip_and_loses_nothing(status: int) -> None:
    """The same body goes again as gzip at once, and the next ones as gzip from the start."""
    wire = ScriptedWire(zstd=status)
    sender = compressing(wire)
    sender.send(REQUEST)
    sender.send(REQUEST)
    assert wire.sent == ["zstd", "gzip", "gzip"]
    assert sender.encoding == "gzip"


def test_a_receiver_that_takes_nothing_compressed_gets_it_plain() -> None:
    """415 says nothing about the data: what was sent compressed goes again as it is, and the next ones at once."""
    wire = ScriptedWire(zstd=415, gzip=415)
    sender = compressing(wire)
    sender.send(REQUEST)
    sender.send(REQUEST)
    assert wire.sent == ["zstd", "gzip", "", ""]


@pytest.mark.parametrize("mode", ["auto", "gzip"])
def test_a_receiver_that_takes_no_protobuf_is_held(mode: str) -> None:
    """415 however it is compressed points at the address: nothing is refused for good."""
    wire = ScriptedWire(zstd=415, gzip=415, none=415)
    with pytest.raises(
        HoldError, match="status 415: not taken in any encoding; correct endpoint, protocol or compression"
    ):
        compressing(wire, mode).send(REQUEST)


def test_a_refusal_that_persists_is_about_the_data() -> None:
    """Refused as zstd and as gzip: the data is refused, and zstd is still what comes next."""
    wire = ScriptedWire(zstd=400, gzip=400)
    sender = compressing(wire)
    with pytest.raises(StatusRefusedError):
        sender.send(REQUEST)
    wire.statuses.clear()
    sender.send(REQUEST)
    assert wire.sent == ["zstd", "gzip", "zstd"]


def test_once_zstd_was_taken_only_encoding_answers_are_doubted() -> None:
    """A 500 is then about the data; a 400 may still come from another server behind the same name."""
    wire = ScriptedWire()
    sender = compressing(wire)
    sender.send(REQUEST)
    wire.statuses["zstd"] = 500
    with pytest.raises(StatusRefusedError):
        sender.send(REQUEST)
    assert wire.sent == ["zstd", "zstd"]
    wire.statuses["zstd"] = 400
    sender.send(REQUEST)
    assert sender.encoding == "gzip"


def test_a_receiver_that_had_a_bad_moment_gets_zstd_again() -> None:
    """A 500 at the very first request says little: an hour later it is offered once more, and then kept."""
    wire, now = ScriptedWire(zstd=500), [0.0]
    sender = compressing(wire, now_s=lambda: now[0])
    sender.send(REQUEST)
    wire.statuses.clear()
    for now[0] in (OFFER_AGAIN_S - 1, OFFER_AGAIN_S, OFFER_AGAIN_S + 1):
        sender.send(REQUEST)
    assert wire.sent == ["zstd", "gzip", "gzip", "zstd", "zstd"]
    wire.statuses["zstd"] = 415
    for now[0] in (9 * OFFER_AGAIN_S, 10 * OFFER_AGAIN_S - 1, 10 * OFFER_AGAIN_S):
        sender.send(REQUEST)
    assert wire.sent[5:] == ["zstd", "gzip", "gzip", "zstd", "gzip"]


def test_what_a_receiver_never_takes_is_offered_less_and_less() -> None:
    """Each offer is a request in vain: eleven in the first week, whatever else goes wrong meanwhile."""
    wire, now = ScriptedWire(zstd=415), [0.0]
    sender = compressing(wire, now_s=lambda: now[0])
    offered_at = []
    for minute in range(7 * 24 * 60):
        now[0] = minute * 60.0
        wire.statuses["gzip"] = 503 if minute % 3 else 0
        before = wire.sent.count("zstd")
        with contextlib.suppress(TryLaterError):
            sender.send(REQUEST)
        if wire.sent.count("zstd") > before:
            offered_at.append(now[0] / OFFER_AGAIN_S)
    assert offered_at == [0, 1, 3, 7, 15, 31, 55, 79, 103, 127, 151]
    assert sender.encoding == "gzip"


@pytest.mark.parametrize(("mode", "encoding"), [("zstd", "zstd"), ("gzip", "gzip"), ("none", "")])
def test_a_chosen_compression_is_kept(mode: str, encoding: str) -> None:
    """Without `auto` no data goes in another one behind people's backs."""
    wire = ScriptedWire(zstd=400, gzip=400, none=400)
    sender = asking(wire, mode)
    for _ in range(3):
        with pytest.raises(StatusRefusedError):
            sender.send(REQUEST)
    assert wire.data_sent == [encoding] * 3
    # Whether it knows the encoding was asked once, and it takes nothing either way.
    assert wire.sent == [encoding, encoding, "", encoding, encoding] if encoding else ["", "", ""]


@pytest.mark.parametrize("status", [400, 415, 422])
@pytest.mark.parametrize("mode", ["zstd", "gzip"])
def test_a_chosen_compression_that_nobody_takes_there_holds_all(mode: str, status: int) -> None:
    """Requests for nothing tell it from bad data; it is said what to set, and tried anew with each attempt."""
    wire = ScriptedWire(**{mode: status})
    sender = asking(wire, mode)
    said = (
        f'^status {status}; a request for nothing is taken there as it is and not in {mode}: set compression = "auto"'
    )
    for _ in range(2):
        with pytest.raises(HoldError, match=said):
            sender.send(REQUEST)
    assert wire.data_sent == [mode] * 2
    wire.statuses.clear()
    sender.send(REQUEST)
    assert wire.sent == [mode, mode, "", mode, mode, "", mode]


@pytest.mark.parametrize("mode", ["zstd", "gzip"])
def test_whose_compression_is_taken_refuses_the_data(mode: str) -> None:
    """What a request for nothing has shown holds for an hour."""
    wire, now = ScriptedWire(data=400), [0.0]
    sender = asking(wire, mode, lambda: now[0])
    for now[0] in (0, 1, OFFER_AGAIN_S - 1, OFFER_AGAIN_S):
        with pytest.raises(StatusRefusedError):
            sender.send(REQUEST)
    assert wire.sent == [mode, mode, mode, mode, mode, mode]
    assert wire.data_sent == [mode] * 4


@pytest.mark.parametrize("mode", ["zstd", "gzip"])
def test_a_receiver_that_is_replaced_by_one_that_knows_less_loses_nothing(mode: str) -> None:
    """What was taken yesterday says nothing of who is there now."""
    wire = ScriptedWire()
    sender = asking(wire, mode)
    sender.send(REQUEST)
    wire.statuses[mode] = 400
    with pytest.raises(HoldError, match="a request for nothing is taken there as it is"):
        sender.send(REQUEST)


def test_a_server_that_fails_is_asked_nothing_more() -> None:
    """What fails costs its own request alone, and nothing is given up for it anyway."""
    wire = ScriptedWire(zstd=500)
    with pytest.raises(StatusRefusedError):
        asking(wire, "zstd").send(REQUEST)
    assert wire.sent == ["zstd"]


def test_who_answers_400_to_all_that_is_compressed_gets_it_plain() -> None:
    """The status of bad data, and all the same nothing of it is given up."""
    wire = ScriptedWire(zstd=400, gzip=400)
    sender = asking(wire)
    sender.send(REQUEST)
    sender.send(REQUEST)
    assert wire.data_sent == ["zstd", "gzip", "", ""]


def test_a_road_that_breaks_while_it_is_asked_decides_nothing() -> None:
    """The next attempt asks again."""
    wire = ScriptedWire(zstd=400, none=503)
    sender = asking(wire, "zstd")
    for _ in range(2):
        with pytest.raises(TryLaterError, match="503"):
            sender.send(REQUEST)
    assert wire.sent == ["zstd", "zstd", ""] * 2


def test_a_link_that_breaks_during_the_fallback_decides_nothing() -> None:
    """Refused as zstd, then no answer as gzip: later it starts with zstd again."""
    wire = ScriptedWire(zstd=400, gzip=503)
    sender = compressing(wire)
    with pytest.raises(TryLaterError):
        sender.send(REQUEST)
    assert sender.encoding == "zstd"
