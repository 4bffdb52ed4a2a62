"""`tidegate status` for people."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.control.summary import BOLD, NOT_FOR_IT, ON_PURPOSE, render
from gateway.core.contracts import Priority
from gateway.reporter import NO_LOSSES
from gateway.store.policy import Lane
from gateway.store.spots import Outlook
from gateway.uplinks.scheduling import Scheduler, WindowLeft

STATUS: dict[str, Any] = {
    "gateway": "site-7",
    "version": "0.1.0",
    "healthy": True,
    "uptime_s": 120.0,
    "hw_profile": "pi-4",
    "accepted": 12345,
    "store": {"used_bytes": 2048, "max_bytes": 4096},
    "events": ["salvaged tidegate.db"],
    "sources": {"direct": {"state": "listening", "clients": 3, "last_error": ""}},
    "uplinks": {
        "cloud": {
            "state": "waiting",
            "delivered": 12000,
            "held": 340,
            "ledger": {"malformed": 5},
            "maybe_twice": 7,
            "last_error": "connection refused",
            "backlog_eta_s": 60,
        }
    },
}


def test_an_uplink_of_files_says_what_is_there() -> None:
    """Where, how much and how much more; what was deleted, and a disk that is stuck."""
    stick = {"state": "sending", "directory": "/media/stick", "files": 3, "files_bytes": 3 << 20, "free_bytes": 1 << 30}
    quiet = render({"uplinks": {"stick": stick}}, colour=False)
    assert "to /media/stick" in quiet
    assert "3 files, 3 MiB; 1 GiB free on that disk" in quiet
    more = {"files_bytes_max": 4 << 20, "files_deleted": 1, "bytes_deleted": 1 << 20, "writing_s": 31.0}
    loud = render({"uplinks": {"stick": stick | more}}, colour=False)
    assert "3 MiB of 4 MiB" in loud
    assert "1 file deleted to make room, 1 MiB" in loud
    assert "one record for 31 s by now" in loud
    assert "deleted" not in quiet
    assert "takes long" not in quiet


def test_a_request_that_waits_is_said_to_wait() -> None:
    """For what, for how long by now and at most; nothing where answers come as they should."""
    waiting = {"state": "sending", "waiting_for": "an answer", "waiting_s": 7.4, "waiting_s_max": 10.0}
    assert "! has waited 7.4 s for an answer, of 10 s at most" in render({"uplinks": {"cloud": waiting}}, colour=False)
    assert "has waited" not in render({"uplinks": {"cloud": waiting | {"waiting_s": 0.4}}}, colour=False)


def test_a_person_sees_what_is_held_lost_and_wrong() -> None:
    """Every number that decides anything is in the text, without colour codes when not on a terminal."""
    text = render(STATUS, colour=False)
    for part in (
        "site-7",
        "12,345",
        "held 340",
        "malformed 5",
        "connection refused",
        "salvaged",
        "2 KiB of 4 KiB",
        "1 min",
    ):
        assert part in text
    assert "\x1b" not in text
    assert BOLD in render(STATUS, colour=True)


def test_who_was_turned_away_is_named() -> None:
    """Why, how full it is, and which settings say so; nothing where nobody was."""
    store = {"series": 1000, "max_series": 1000, "series_bytes": 2048, "max_series_bytes": 4096}
    for refused, is_said in (({}, False), ({"max_series": 1234, "share": 5}, True)):
        text = " ".join(render({**STATUS, "store": {**store, "series_refused": refused}}, colour=False).split())
        assert ("readings found no series: max_series 1,234, share 5" in text) == is_said
        assert ("of 1,000 series there may be 1,000, with 2 KiB of 4 KiB" in text) == is_said
        assert ("max_series and series_bytes in [gateway]" in text) == is_said


def test_series_without_a_name_are_said() -> None:
    """What their readings are called upstream; nothing where there are none."""
    said = "names of series lost to damage: 1,234; their readings leave as tidegate.lost_series"
    for lost, is_said in ((0, False), (1234, True)):
        text = " ".join(render({**STATUS, "store": {"series_lost": lost}}, colour=False).split())
        assert (said in text) == is_said


@pytest.mark.parametrize(
    ("ledger", "said"),
    [
        ({}, "held 3, lost 0 "),
        ({"malformed_json": 2, "dropped_by_mapping": 75}, "held 3, lost 2 (malformed_json 2), dropped on purpose 75 "),
        ({"before_uplink": 5, "while_removed": 1}, "held 3, lost 0, from before or while it was not configured 6 "),
    ],
)
def test_what_nobody_wanted_is_not_called_lost(ledger: dict[str, int], said: str) -> None:
    """What is dropped as a mapping says, and what was never an uplink's, is told apart from losses."""
    uplink = {"state": "idle", "delivered": 1, "held": 3, "ledger": ledger, "bytes_sent": 1}
    assert said in " ".join(render({**STATUS, "uplinks": {"cloud": uplink}}, colour=False).split())


def test_what_is_no_loss_is_the_same_everywhere() -> None:
    """In what is shown here and in what is warned of."""
    assert {ON_PURPOSE, *NOT_FOR_IT} == NO_LOSSES


def test_an_uplink_that_is_configured_no_more_is_shown() -> None:
    """With what is held for it, until when, and what undoes it; later, that it was let go."""
    account = {"removed": True, "state": "removed", "delivered": 5, "held": 1200, "ledger": {"while_removed": 7}}
    text = render({**STATUS, "uplinks": {"old": {**account, "let_go_in_s": 86400 * 3}}}, colour=False)
    words = " ".join(text.split())
    said = "old: removed configured no more; what is held for it is let go in 3 days, unless it is configured again "
    assert said + "delivered 5, held 1,200, lost 0" in words
    words = " ".join(render({**STATUS, "uplinks": {"old": {**account, "let_go_in_s": 0}}}, colour=False).split())
    assert "what is held for it is about to be let go, unless it is configured again" in words
    for left in ({"let_go_in_s": 86400 * 7}, {}):
        nothing = account | {"held": 0} | left
        words = " ".join(render({**STATUS, "uplinks": {"old": nothing}}, colour=False).split())
        assert "old: removed configured no more delivered 5, held 0, lost 0" in words
    account |= {"held": 0, "ledger": {"uplink_removed": 1200}}
    words = " ".join(render({**STATUS, "uplinks": {"old": account}}, colour=False).split())
    assert "what was held for it was let go delivered 5, held 0, lost 1,200 (uplink_removed 1,200)" in words


def test_a_configuration_that_was_refused_is_shown() -> None:
    """The file is not what runs, and why; nothing is said where nothing was refused."""
    for refused, said in (("a: wrong; b: wrong too", True), ("", False)):
        words = " ".join(render({**STATUS, "config_refused": refused}, colour=False).split())
        assert ("! what runs is not what is in the configuration file, which was refused" in words) == said
        assert ("the last reload: a: wrong; b: wrong too; mend it (tidegate check -c FILE)" in words) == said


def test_what_a_start_met_and_is_still_so_is_said_once() -> None:
    """A shelf that can only be read."""
    sentence = "nothing can be written: the disk is read-only"
    status = {**STATUS, "store": {"trouble": sentence}, "events": [sentence, "something else"]}
    words = " ".join(render(status, colour=False).split())
    assert words.count(sentence) == 1
    assert "! something else" in words


def test_an_unhealthy_gateway_is_loud() -> None:
    """In capitals, since it may be read in a hurry."""
    assert "NOT healthy" in render({**STATUS, "healthy": False}, colour=False)


def test_a_gateway_of_another_version_is_shown_as_far_as_it_is_known() -> None:
    """What is not there is left out; and a gateway with nothing configured says so."""
    text = render({}, colour=False)
    assert "NOT healthy" in text
    assert "sources: none is configured" in text
    assert "uplinks: none is configured" in text
    assert "held 0" in render({"uplinks": {"cloud": {}}}, colour=False)


def test_an_error_that_is_over_is_told_apart() -> None:
    """Who reads "last error" beside "sending" looks for a fault that is none."""
    uplink = {"state": "sending", "last_error": "connection refused"}
    assert "earlier error: connection refused" in render({"uplinks": {"cloud": uplink}}, colour=False)
    assert "last error: connection refused" in render(
        {"uplinks": {"cloud": uplink | {"state": "waiting"}}}, colour=False
    )


def test_what_another_gateway_says_commands_no_terminal() -> None:
    """This command may ask a gateway of another version, or what only looks like one."""
    nasty = "\x1b[2J\u202e\n! fake" + "n" * 10_000
    status = {
        "gateway": nasty, "version": nasty, "events": [nasty], "restarts": {nasty: 1}, "clock": {"quality": nasty},
        "sources": {nasty: {"state": nasty, "reason": nasty, "url": nasty, "refused": {nasty: 1}, "last_error": nasty}},
        "uplinks": {nasty: {"endpoint": nasty, "ledger": {nasty: 5}}},
    }  # fmt: skip
    lines = render(status, colour=False).split("\n")
    assert all(line.isprintable() for line in lines)
    assert not any(line.strip().startswith("! fake") for line in lines)
    assert len(lines) < 200


def uplink_text(**uplink: Any) -> str:
    return " ".join(render({"uplinks": {"cloud": uplink}}, colour=False).split())


def test_what_is_lost_is_a_sum_with_its_reasons() -> None:
    """So that delivered, held and lost can be added up by eye."""
    text = uplink_text(delivered=5, held=6, ledger={"malformed": 1000, "refused": 4})
    assert "delivered 5, held 6, lost 1,004 (malformed 1,000, refused 4)" in text
    assert "lost 0" in uplink_text(delivered=5)


def test_what_is_held_is_told_by_class_where_it_is_of_several() -> None:
    """Of those that there are; of one alone nothing more need be said, whether the uplink is configured or not."""
    several, one = {"critical": 1200, "normal": 0, "bulk": 5}, {"critical": 0, "normal": 1205, "bulk": 0}
    for removed in (False, True):
        text = uplink_text(delivered=5, held=1205, held_by_class=several, removed=removed)
        assert "delivered 5, held 1,205 (critical 1,200, bulk 5), lost 0" in text
        text = uplink_text(delivered=5, held=1205, held_by_class=one, removed=removed)
        assert "delivered 5, held 1,205, lost 0" in text


def test_a_signal_that_is_held_back_is_told_beside_what_flows() -> None:
    """Once: where nothing flows it is the reason already."""
    lost = "status 404, there is no OTLP receiver at this path"
    uplink = STATUS["uplinks"]["cloud"] | {"state": "sending", "held_back": {"logs": lost}}
    assert f"! logs are held back: {lost}" in " ".join(
        render(STATUS | {"uplinks": {"cloud": uplink}}, colour=False).split()
    )
    uplink |= {"state": "holding", "reason": lost}
    assert "are held back" not in render(STATUS | {"uplinks": {"cloud": uplink}}, colour=False)


def test_what_a_receiver_fails_at_is_told() -> None:
    """Else nobody knows why so much is held though all that is fresh arrives."""
    text = uplink_text(state="idle", held=300, put_off={"leases": 1, "readings": 2, "overflowed": 0})
    assert "! the receiver fails at 2 readings of 1 request: others go first, they are tried again" in text
    assert "fails at" not in uplink_text(state="idle", put_off={"leases": 0, "readings": 0, "overflowed": 0})
    fresh_first = uplink_text(state="sending", put_off={"leases": 0, "readings": 0, "overflowed": 0, "gives_way": 5502})
    assert "5,502 readings of a request that has begun wait for fresh data to go first" in fresh_first
    assert "fails at" not in fresh_first


def test_what_no_stream_listens_for_is_told() -> None:
    """With the subject, and that nobody else waits for it."""
    unheard = {"subjects": 2, "some": ["a", "b"], "reason": "no stream listens at b?", "next_try_in_s": 5.0}
    put_off = {"leases": 3, "readings": 9, "overflowed": 0, "unheard": 3}
    text = uplink_text(state="idle", held=9, put_off=put_off, unheard=unheard)
    assert "messages that nobody subscribed to" not in text
    assert "messages that nobody subscribed to, taken by the broker and thrown away: 7" in uplink_text(unheard=7)
    assert "! no stream listens at b? It waits, others go; the next try is in 5 s" in text
    assert "fails at" not in text


def test_a_class_that_cannot_be_thinned_is_told() -> None:
    """Else nobody knows why it goes though it was to be thinned."""
    text = " ".join(render({"store": {"too_many_series": {"bulk": 40_000}}}, colour=False).split())
    assert "! bulk readings are of 40,000 series, too many to be thinned: the oldest of them go instead" in text


def test_a_backlog_has_an_end_or_grows() -> None:
    """With how quickly; what a slow road has taken of a large lease is told."""
    text = uplink_text(
        state="sending", held=5000, leased=4000, in_hand_taken=1500, backlog_eta_s=120, backlog_change_per_s=-40
    )
    assert "backlog gone in about 2 min, 40 readings a second" in text
    assert "of what is being sent, 1,500 of 4,000 are taken already" in text
    text = uplink_text(state="sending", held=5000, backlog_eta_s=None, backlog_change_per_s=12.4)
    assert "the backlog grows by about 12 readings a second: more arrives than leaves" in text
    assert "backlog" not in uplink_text(state="idle", held=0, backlog_eta_s=None, backlog_change_per_s=0.0)
    assert "backlog" not in uplink_text(state="idle", held=0, backlog_eta_s=52.6, backlog_change_per_s=0.0)
    assert "backlog" not in uplink_text(state="idle", held=0, backlog_eta_s=None, backlog_change_per_s=4.0)
    assert "backlog" not in uplink_text(state="combining", held=200, backlog_eta_s=None, backlog_change_per_s=40.0)


def test_while_nothing_leaves_one_knows_since_when() -> None:
    """The first question about a link that is down."""
    assert "last delivery 2 h ago" in uplink_text(state="waiting", held=5, last_success_age_s=7200)
    assert "nothing delivered since the start" in uplink_text(state="waiting", held=5, last_success_age_s=None)
    assert "last delivery" not in uplink_text(state="sending", held=5, last_success_age_s=7200)


def test_an_error_that_is_the_reason_is_not_said_twice() -> None:
    """Once is enough."""
    text = uplink_text(state="waiting", reason="connection refused", last_error="connection refused")
    assert text.count("connection refused") == 1


@pytest.mark.parametrize(
    ("when_full", "said"),
    [
        ("dilute", "counted as diluted"),
        ("drop_oldest", "counted as evicted_full"),
        ("refuse", "sources are held back"),
    ],
)
def test_a_full_shelf_is_loud(when_full: str, said: str) -> None:
    """With what happens now, which depends on the configuration."""
    store = {"used_bytes": 990, "max_bytes": 1000, "when_full": when_full}
    text = " ".join(render({"store": store}, colour=False).split())
    assert "! the store is full to 99%: " in text
    assert said in text
    assert "full" not in render({"store": store | {"used_bytes": 900}}, colour=False)


def test_what_is_held_diluted_is_said() -> None:
    """From when to when, and how coarse it is."""
    part = {"class": "normal", "step_s": 900, "first_ns": 1_790_000_000 * 10**9, "last_ns": 1_790_090_000 * 10**9}
    text = " ".join(render({"store": {"diluted": [part, part | {"first_ns": 0}]}}, colour=False).split())
    said = "UTC are held diluted: first, least, greatest and last of each 15 min"
    assert f"! normal readings of 2026-09-21 14:13 to 2026-09-22 15:13 {said}" in text
    assert f"! normal readings of ? to 2026-09-22 15:13 {said}" in text


def test_a_clock_that_is_astray_is_said() -> None:
    """Readings leave with its time."""
    clock = {"quality": "unsynced", "astray_s": 7200}
    text = " ".join(render({"clock": clock}, colour=False).split())
    assert "! the clock of this box is 2 h ahead of what receivers say" in text
    assert "leave with its time" in text
    assert "leave with theirs" in " ".join(render({"clock": clock | {"is_doubted": True}}, colour=False).split())
    assert "!" not in render({"clock": clock | {"astray_s": 0}}, colour=False)


def test_what_is_set_aside_names_its_command() -> None:
    """Ready to be pasted, whatever the directory is called; an empty drawer is not named."""
    text = render({"store": {"quarantined": 1, "state_dir": "/my data"}}, colour=False)
    assert "! 1 payload of which not all could be used is set aside to be looked at:" in text
    assert "    tidegate quarantine --state-dir '/my data'\n" in text
    assert "refused" not in text
    assert "quarantine" not in render({"store": {"quarantined": 0, "refused": 0}}, colour=False)


def test_what_would_help_is_said_beside_the_source() -> None:
    """In full, though it needs several lines."""
    advice = "the broker lets only 20 messages wait: raise max_inflight_messages in its configuration"
    status = STATUS | {"sources": {"plant": {"state": "connected", "advice": advice}}}
    assert advice in " ".join(render(status, colour=False).replace("!", " ").split())


def test_both_ports_of_a_receiver_are_shown() -> None:
    """Where it has two."""
    source = {"state": "listening", "address": "127.0.0.1:4318", "grpc_address": "127.0.0.1:4317"}
    text = render(STATUS | {"sources": {"local": source}}, colour=False)
    assert "address 127.0.0.1:4318" in text
    assert "gRPC address 127.0.0.1:4317" in text


def test_memory_and_flash_stand_beside_their_limits() -> None:
    """With what would help where one is passed; nothing where nothing is known."""
    memory = {"rss_bytes": 40 << 20, "max_bytes": 64 << 20, "advice": ""}
    flash = {
        "bytes_per_day": 600 << 20,
        "bytes_per_day_max": 512 << 20,
        "bytes_per_reading": 6.1,
        "commit_interval_s": 1.5,
        "advice": "a longer commit_interval",
    }
    text = render(STATUS | {"memory": memory, "flash": flash}, colour=False)
    assert "memory 40 MiB of 64 MiB" in text
    sentence = "flash 600 MiB a day of 512 MiB, 6.1 bytes a reading; commits every 1.5 s at most"
    assert sentence in " ".join(text.split())
    assert "! a longer commit_interval" in text
    text = render(STATUS | {"memory": {"rss_bytes": None}, "flash": {"bytes_per_day": None}}, colour=False)
    assert "memory" not in text
    assert "flash" not in text


def test_who_was_refused_last_is_named() -> None:
    """By reason, below the counts, and not a second time as an error."""
    source = {"state": "listening", "refused": {"wrong_password": 7}, "refused_last": {"wrong_password": "for 'pump'"}}
    text = render(STATUS | {"sources": {"direct": source | {"last_error": "for 'pump'"}}}, colour=False)
    assert "refused: wrong_password 7" in text
    assert "wrong_password: for 'pump'" in text
    assert "earlier error" not in text
    text = render(STATUS | {"sources": {"direct": source | {"last_error": "other"}}}, colour=False)
    assert "earlier error: other" in text


def test_a_budget_is_shown_with_what_is_spent_of_it() -> None:
    """Each window, how long it lasts where that is known, and the rate."""
    budget = {
        "rate_bit_s": 64_000,
        "per_day": {"limit_bytes": 20 << 20, "spent_bytes": 5 << 20, "ends_in_s": 7200},
        "per_month": {"limit_bytes": 400 << 20, "spent_bytes": 0, "ends_in_s": None},
        "wire_bytes": 5 << 20,
    }
    text = render({**STATUS, "uplinks": {"cloud": {**STATUS["uplinks"]["cloud"], "budget": budget}}}, colour=False)
    assert "budget: 5 MiB of 20 MiB this day, which ends in 2 h; 0 B of 400 MiB this month; at most 64kbit/s" in (
        " ".join(text.split())
    )


def test_who_pays_from_a_links_budget_alone_has_a_plan_and_no_budget() -> None:
    """The link says what is spent."""
    budget = {"wire_bytes": 5 << 20, "plan": {"why": "all that comes in fits"}}
    text = render({**STATUS, "uplinks": {"cloud": {**STATUS["uplinks"]["cloud"], "budget": budget}}}, colour=False)
    assert "budget:" not in text
    assert "plan: all that comes in fits" in " ".join(text.split())


@pytest.mark.parametrize(
    ("fixed_s", "said"),
    [(0.2, "a second, round trip 1 ms"), (2.04, "a second, round trip 1 ms, and each request 2.0 s whatever its size")],
)
def test_a_way_that_keeps_each_request_waiting_is_said(fixed_s: float, said: str) -> None:
    """A round trip of a millisecond is to whom acknowledges on the way; the answer comes from farther."""
    way = {"goodput_bytes_s": 1000, "round_trip_s": 0.001, "request_fixed_s": fixed_s}
    text = render({**STATUS, "uplinks": {"cloud": {**STATUS["uplinks"]["cloud"], **way}}}, colour=False)
    assert f"{said} " in " ".join(text.split())
    assert ("whatever its size" in text.replace("\n    ", " ")) is (fixed_s > 1)


def test_what_is_overdrawn_is_said_beside_what_is_spent() -> None:
    """Nothing, where it is nothing."""
    day = {"limit_bytes": 20 << 20, "spent_bytes": 21 << 20, "ends_in_s": 7200, "overdrawn_bytes": 1 << 20}
    for over_bytes, said in (
        (1 << 20, "21 MiB of 20 MiB this day (1 MiB of it overdrawn), which"),
        (0, "this day, which"),
    ):
        budget = {"per_day": {**day, "overdrawn_bytes": over_bytes}}
        uplinks = {"cloud": {**STATUS["uplinks"]["cloud"], "budget": budget}}
        assert said in " ".join(render({**STATUS, "uplinks": uplinks}, colour=False).split())


def test_what_a_budget_lets_go_is_said_in_a_sentence() -> None:
    """As the scheduler tells it: that readings are thinned stands out, and how many left for all of them."""
    scheduler = Scheduler(1.0)
    windows = [WindowLeft("day", 1e6, 86_400.0)]
    for now_s, arrived in ((0.0, 0), (100.0, 20_000)):
        outlook = Outlook(frozenset({(Lane.LIVE, Priority.NORMAL)}), 0, (0, arrived, 0), 0.3)
        scheduler.decide(now_s, windows=windows, rate=None, outlook=outlook)
    budget = {"per_day": {"limit_bytes": 1 << 20, "spent_bytes": 0, "ends_in_s": 7200}, "plan": scheduler.told()}
    uplink = {**STATUS["uplinks"]["cloud"], "budget": budget, "thinned": 1234}

    def shown(**more: Any) -> str:
        return " ".join(render({**STATUS, "uplinks": {"cloud": {**uplink, **more}}}, colour=False).split())

    text = shown(state="sending")
    assert "budget: 0 B of 1 MiB this day, which ends in 2 h ! plan: normal readings thinned to four" in text
    assert "sent thinned 1,234 readings in place of more, which go whole when there is room" in text
    text = shown(state="pacing", reason=scheduler.why)
    assert text.count("normal readings thinned to four") == 1
    assert "sent thinned" not in shown(thinned=0)
    scheduler = Scheduler(1.0)
    scheduler.decide(0.0, windows=[WindowLeft("day", 1e9, 86_400.0)], rate=None, outlook=outlook)
    assert "! plan" not in shown(budget={**budget, "plan": scheduler.told()})
    assert "plan: all that comes in fits" in shown(budget={**budget, "plan": scheduler.told()})


def test_receivers_are_shown_where_they_are_several() -> None:
    """Who is left out stands out, with why and for how long; of one alone the uplink says all there is."""
    well = {"endpoint": "https://b", "state": "closed", "requests": 12, "rtt_ms": 80.5, "held_back": []}
    away = {"endpoint": "https://a", "state": "open", "retry_in_s": 7.5, "last_error": "no connection", "requests": 3}
    due = {**away, "endpoint": "https://d", "state": "half-open", "retry_in_s": 0.0}
    odd = {"endpoint": "https://c", "state": "closed", "held_back": ["logs"], "last_error": "status 404"}
    text = render({"uplinks": {"cloud": {"endpoints": [away, well, due, odd]}}}, colour=False)
    text = " ".join(text.split())
    assert "! https://a: is left out, for 7.5 s more, no connection" in text
    assert "https://b: is well, 12 requests, answered in 80.5 ms" in text
    assert "https://d: was left out, and is tried in its turn, no connection" in text
    failed = {**well, "endpoint": "https://e", "failures_in_a_row": 1, "last_error": "no answer within 2 s"}
    one_failed = render({"uplinks": {"cloud": {"endpoints": [well, failed]}}}, colour=False)
    spare = {**well, "endpoint": "https://f", "requests": 0}
    assert "https://f: was not asked yet" in render({"uplinks": {"cloud": {"endpoints": [well, spare]}}}, colour=False)
    assert "https://e: failed last, no answer within 2 s" in one_failed
    assert "! https://d" not in text
    assert "! https://c: logs are held back from it, status 404" in text
    assert "is well" not in render({"uplinks": {"cloud": {"endpoints": [well]}}}, colour=False)


def test_an_uplink_that_takes_only_some_says_what() -> None:
    """And how much of what came in that leaves out."""
    takes = {"classes": ["critical"], "signals": ["metrics", "logs"], "mappings": None}
    uplink = {"state": "ok", "delivered": 5, "held": 0, "ledger": {}, "left_out": 1234, "takes": takes}
    text = render({**STATUS, "uplinks": {"cloud": uplink}}, colour=False)
    assert "takes metrics and logs of critical class alone" in text
    assert "delivered 5, held 0, lost 0, left out 1,234" in text
    by_mapping = {"classes": ["critical", "normal", "bulk"], "signals": ["metrics"], "mappings": ["boiler", "pump"]}
    text = " ".join(render({**STATUS, "uplinks": {"cloud": uplink | {"takes": by_mapping}}}, colour=False).split())
    assert "takes metrics from the mappings boiler and pump alone" in text
    every = {"classes": ["critical", "normal", "bulk"], "signals": ["metrics", "logs", "traces"], "mappings": ["pump"]}
    text = render({**STATUS, "uplinks": {"cloud": uplink | {"takes": every}}}, colour=False)
    assert "takes all from the mapping pump alone" in text
    two = every | {"classes": ["critical", "normal"], "mappings": None}
    text = render({**STATUS, "uplinks": {"cloud": uplink | {"takes": two}}}, colour=False)
    assert "takes all of critical and normal class alone" in text


@pytest.mark.parametrize(
    ("free", "said"),
    [
        (
            {"is_free": True, "ends_in_s": 7200, "begins_in_s": None, "spent_bytes": 3 << 20},
            "free for another 2 h, 3 MiB went free so far",
        ),
        (
            {"is_free": False, "ends_in_s": None, "begins_in_s": 3600, "spent_bytes": 0},
            "free again in 1 h, 0 B went free",
        ),
        ({"is_free": False, "ends_in_s": None, "begins_in_s": None, "spent_bytes": 9}, "; 9 B went free"),
    ],
)
def test_free_hours_are_said_beside_what_is_spent(free: dict[str, object], said: str) -> None:
    """Whether it is free, and how much went so; without a clock nobody knows when it will be."""
    budget = {"per_day": {"limit_bytes": 20 << 20, "spent_bytes": 5 << 20, "ends_in_s": 7200}, "free": free}
    uplinks = {"cloud": {**STATUS["uplinks"]["cloud"], "budget": budget}}
    assert said in " ".join(render({**STATUS, "uplinks": uplinks}, colour=False).split())


def test_links_are_shown_where_there_are_any() -> None:
    """Whether each is up, by what it is recognised, and who uses it; an uplink says which one it uses."""
    links = {
        "ethernet": {
            "state": "down", "reason": "eth0 has no carrier", "interface": "eth0", "metered": False, "used_by": [],
            "wire_bytes": 0,
        },
        "lte": {
            "state": "up", "reason": "", "gateway": "192.168.8.1", "metered": True, "used_by": ["cloud"],
            "wire_bytes": 2048, "budget": {"per_day": {"limit_bytes": 4096, "spent_bytes": 1024, "ends_in_s": 60}},
        },
    }  # fmt: skip
    uplink = {"state": "sending", "endpoint": "https://otel.example", "link": "lte"}
    text = render({"links": links, "uplinks": {"cloud": uplink}}, colour=False)
    assert "! ethernet: down (eth0 has no carrier)\n    interface eth0; free; used by nobody" in text
    assert "lte: up\n    gateway 192.168.8.1; metered; used by cloud\n    carried 2 KiB since the start" in text
    assert "    budget: 1 KiB of 4 KiB this day, which ends in 1 min" in text
    assert "to https://otel.example over lte" in text
    assert "asked again" not in text
    links["lte"]["probes"] = {"spent_bytes": 102_400, "held_back_s": 2280}
    text = render({"links": links}, colour=False)
    assert "    asked again in 38 min: probes have had their part, 100 KiB" in text
    assert "\nlinks" not in render({"uplinks": {"cloud": uplink}}, colour=False)


FULL: dict[str, Any] = STATUS | {
    "store": STATUS["store"]
    | {"series": 1200, "trouble": "nothing can be written: disk I/O error", "quarantined": 3, "refused": 1, "state_dir": "/var/lib/tidegate"},
    "clock": {"quality": "unsynced"},
    "restarts": {"source line1": 2},
    "events": ["tidegate.db was damaged (the file is cut short): 12 segments with 1200 readings were salvaged, lost: nothing"],
    "detectors": {"zscore": {"findings": 7}, "iqr": {"findings": 0}},
    "watched_otlp": {"series": 9500, "max_series": 10_000, "bytes": 5 << 20, "max_bytes": 5 << 20, "points_over_limit": 1234},
    "sources": {
        "direct": {
            "state": "listening", "address": "127.0.0.1:1884", "tls": False, "clients": 0, "received": 0,
            "acknowledged": 0, "in_flight_bytes": 0, "refused": {"keep_alive_timeout": 1}, "last_error": "",
        },
        "line1": {"state": "waiting", "port": "/dev/ttyUSB0", "received": 1234567, "malformed": 2, "since_s": 5.5,
                  "rejected": {"checksum": 2}, "last_error": "cannot open /dev/ttyUSB0: No such file or directory"},
    },
    "uplinks": {
        "cloud": STATUS["uplinks"]["cloud"]
        | {
            "reason": "no connection to otel.example: Name or service not known", "retry_in_s": 12.5,
            "endpoint": "https://otel.example:4318", "bytes_sent": 123456, "requests": 17,
        }
    },
}  # fmt: skip


def test_everything_that_is_wrong_is_said_within_eighty_columns() -> None:
    """A terminal of a small box is narrow; nothing runs over its edge, nothing is left out."""
    lines = render(FULL, colour=False).splitlines()
    assert all(len(line) < 80 for line in lines)
    text = " ".join(" ".join(lines).split())
    for part in (
        "1,200 series", "(50%)", "clock set, but no time server", "! nothing can be written", "! tidegate.db was damaged",
        "source line1 failed and was started again 2 times", "3 payloads of which not all could be used",
        "1 segment that an uplink refused", "tidegate quarantine --state-dir /var/lib/tidegate ",
        "tidegate quarantine --state-dir /var/lib/tidegate --refused", "detector zscore: 7 findings",
        "points of OTLP that no detector saw, for want of room: 1,234 (9,500 of 10,000 series, with 5 MiB of 5 MiB by now)",
        "address 127.0.0.1:1884", "clients 0, received 0",
        "refused: keep_alive_timeout 1", "received 1,234,567, malformed 2", "rejected: checksum 2",
        "last error: cannot open /dev/ttyUSB0", "waiting (no connection to otel.example: Name or service not known)",
        "to https://otel.example:4318", "sent 120.6 KiB in 17 requests", "next try in 12.5 s",
    ):  # fmt: skip
        assert part in text, part
    assert "iqr" not in text
    assert "since" not in text.replace("since the start", "")


@pytest.mark.parametrize(
    ("room", "part", "is_marked"),
    [
        ("uplinks", {"state": "holding", "reason": "status 401"}, True),
        ("uplinks", {"state": "waiting", "reason": "connection refused"}, True),
        ("uplinks", {"state": "sending"}, False),
        ("uplinks", {"state": "idle"}, False),
        ("uplinks", {"state": "removed", "removed": True, "held": 0}, False),
        ("uplinks", {"state": "removed", "removed": True, "held": 5, "let_go_in_s": 60}, True),
        ("sources", {"state": "disconnected"}, True),
        ("sources", {"state": "refused"}, True),
        ("sources", {"state": "waiting for port"}, True),
        ("sources", {"state": "connected"}, False),
        ("sources", {"state": "listening"}, False),
        ("sources", {"state": "reading"}, False),
    ],
)
def test_what_does_not_do_its_work_is_marked(room: str, part: dict[str, Any], is_marked: bool) -> None:
    """Like all that deserves a look: on paper and in a pipe there is no colour."""
    for colour in (False, True):
        lines = render({"healthy": True, room: {"one": part}}, colour=colour).splitlines()
        assert any(line.startswith("  ! one: ") for line in lines) == is_marked
        assert any(line.startswith("  one: ") for line in lines) != is_marked


def test_a_clock_that_is_not_known_is_said_with_what_to_do() -> None:
    """It keeps data from leaving."""
    text = " ".join(render({"clock": {"quality": "unknown"}}, colour=False).split())
    assert "! the time is not known since this boot" in text
    assert "check the time server" in text
    assert "clock right" in render({"clock": {"quality": "synced"}}, colour=False)
