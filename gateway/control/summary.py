"""`tidegate status` for people: the running gateway's status, laid out. Must not change anything."""

from __future__ import annotations

import shlex
import textwrap
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from gateway.control.clocks import CLOCK_MISSING, CLOCKS, clock_astray
from gateway.core.contracts import Priority, Signal
from gateway.core.text import harmless
from gateway.core.units import Rate
from gateway.core.words import amount, plural, span

if TYPE_CHECKING:
    from collections.abc import Iterator

WIDTH: Final = 79
# What says that a part does its work; everything else deserves a second look.
# What waits for nothing but the end of its interval is no backlog, however much of it there is by then.
COMBINING: Final = "combining"
GOOD_STATES: Final = frozenset({"connected", "listening", "open", "reading", "idle", "sending", COMBINING, "up"})
# Of a source even when they are nothing: that is what one looks for when nothing arrives.
ALWAYS: Final = frozenset({"clients", "received", "acknowledged"})
# Above this share of its bound a shelf lets go of what is oldest: each commit makes a little more room than it needs.
FULL_FROM: Final = 0.97
# What stands in an uplink's ledger and is no loss: what a mapping drops as it is told to, and what was accepted while
# the uplink was not configured. The names are those of `reporter.NO_LOSSES`.
ON_PURPOSE: Final = "dropped_by_mapping"
NOT_FOR_IT: Final = frozenset({"before_uplink", "while_removed"})
WHO_GOES: Final = {
    "dilute": "what is least important and oldest is thinned to make room, counted as diluted, and what cannot be goes",
    "drop_oldest": "what is least important and oldest goes to make room, counted as evicted_full",
    "refuse": "sources are held back",
}
# A medium that takes so long for one record is worn out, or on its way out of its slot.
SLOW_WRITE_S: Final = 5.0
SLOW_ANSWER_S: Final = 2.0  # and of an answer that takes so long people hear before it is given up
# What a request takes whatever its size is worth a word from here on.
FAR_S: Final = 0.5
BOLD, RED, GREEN, YELLOW, PLAIN = "\x1b[1m", "\x1b[31m", "\x1b[32m", "\x1b[33m", "\x1b[0m"


def render(status: dict[str, Any], *, colour: bool) -> str:
    """Return the status as lines of at most WIDTH letters for a terminal."""
    text = "\n".join(_lines(harmless(status)))
    if colour:
        return text
    for code in (BOLD, RED, GREEN, YELLOW, PLAIN):
        text = text.replace(code, "")
    return text


def _lines(status: dict[str, Any]) -> Iterator[str]:
    well = f"{GREEN}healthy{PLAIN}" if status.get("healthy") else f"{RED}NOT healthy{PLAIN}"
    up = f"up {span(status['uptime_s'])}" if "uptime_s" in status else "up for an unknown time"
    yield f"{BOLD}{status.get('gateway', '?')}{PLAIN}  {well}, {up}"
    yield from _wrap(f"tidegate {status.get('version', '?')}, hardware profile {status.get('hw_profile', '?')}")
    yield from _wrap(_shelf(status))
    yield from _footprint(status)
    yield from _troubles(status)
    rooms = {"sources": _source, "links": _link, "uplinks": _uplink}
    for room, known in rooms.items():
        parts = status.get(room, {})
        if room == "links" and not parts:
            # Most boxes have one way out, which has no name.
            continue
        yield f"{BOLD}{room}{PLAIN}{'' if parts else ': none is configured'}"
        for name, part in parts.items():
            reason = f" ({part['reason']})" if part.get("reason") else ""
            mark = "" if is_good(part) else "! "
            yield from _wrap(f"{_state(part)}{reason}", head=f"{mark}{name}: ")
            for line in known(part):
                yield from _wrap(line, indent=4)
            if advice := part.get("advice"):
                yield from _wrap(str(advice), head="! ", indent=4, colour=YELLOW)
            error = part.get("last_error")
            said = {part.get("reason"), *part.get("refused_last", {}).values()}
            if error and error not in said:
                # One that is over is still worth knowing, as long as nobody takes it for a present one.
                head = "earlier error: " if is_good(part) else "last error: "
                yield from _wrap(str(error), head=head, indent=4)


def _shelf(status: dict[str, Any]) -> str:
    store = status.get("store", {})
    used, most = store.get("used_bytes", 0), store.get("max_bytes", 0)
    share = f" ({used / most:.0%})" if most else ""
    text = f"accepted {plural(status.get('accepted', 0), 'reading')} of {store.get('series', 0):,} series; "
    text += f"in the store {amount(used)} of {amount(most)}{share}"
    if quality := status.get("clock", {}).get("quality"):
        text += f"; clock {CLOCKS.get(quality, quality)}"
    return text


def _footprint(status: dict[str, Any]) -> Iterator[str]:
    memory, flash = status.get("memory", {}), status.get("flash", {})
    if memory.get("rss_bytes") is not None:
        yield from _wrap(f"memory {amount(memory['rss_bytes'])} of {amount(memory['max_bytes'])}")
    if flash.get("bytes_per_day") is not None:
        text = f"flash {amount(flash['bytes_per_day'])} a day of {amount(flash['bytes_per_day_max'])}"
        if flash.get("bytes_per_reading") is not None:
            text += f", {flash['bytes_per_reading']:,} bytes a reading"
        yield from _wrap(f"{text}; commits every {span(flash['commit_interval_s'])} at most")
    for part in (memory, flash):
        if part.get("advice"):
            yield from _wrap(str(part["advice"]), head="! ", colour=YELLOW)


def _troubles(status: dict[str, Any]) -> Iterator[str]:
    store = status.get("store", {})
    if trouble := store.get("trouble"):
        yield from _wrap(str(trouble), head="! ", colour=RED)
    if store.get("max_bytes") and store.get("used_bytes", 0) >= FULL_FROM * store["max_bytes"]:
        then = WHO_GOES.get(store.get("when_full", ""), WHO_GOES["dilute"])
        share = store["used_bytes"] / store["max_bytes"]
        yield from _wrap(
            f"the store is full to {share:.0%}: {then}; [store] max_bytes is the bound", head="! ", colour=RED
        )
    yield from _thinned(store)
    if status.get("clock", {}).get("quality") == "unknown":
        yield from _wrap(CLOCK_MISSING, head="! ", colour=YELLOW)
    if astray_s := (clock := status.get("clock", {})).get("astray_s"):
        text = clock_astray(astray_s, is_doubted=clock.get("is_doubted", False))
        yield from _wrap(text, head="! ", colour=YELLOW)
    if refused := status.get("config_refused"):
        text = f"what runs is not what is in the configuration file, which was refused at the last reload: {refused}"
        yield from _wrap(f"{text}; mend it (tidegate check -c FILE) and reload", head="! ", colour=YELLOW)
    for event in status.get("events", []):
        if event == store.get("trouble"):
            # What a shelf met at its start, and is in trouble with since.
            continue
        yield from _wrap(str(event), head="! ", colour=YELLOW)
    for name, times in status.get("restarts", {}).items():
        yield from _wrap(f"{name} failed and was started again {_times(times)}", head="! ", colour=YELLOW)
    yield from _drawers(store)
    if refused := store.get("series_refused"):
        told = f"of {store.get('series', 0):,} series there may be {store.get('max_series', 0):,}"
        told += f", with {amount(store.get('series_bytes', 0))} of {amount(store.get('max_series_bytes', 0))}"
        text = f"readings found no series: {_reasons(refused)} ({told}; see max_series and series_bytes in [gateway])"
        yield from _wrap(text, head="! ", colour=YELLOW)
    if lost := store.get("series_lost"):
        text = f"names of series lost to damage: {lost:,}; their readings leave as tidegate.lost_series"
        yield from _wrap(text, head="! ", colour=YELLOW)
    yield from _watchers(status)


def _watchers(status: dict[str, Any]) -> Iterator[str]:
    """Say what was found, and what nobody looked at."""
    for name, detector in status.get("detectors", {}).items():
        if found := detector.get("findings"):
            yield from _wrap(f"detector {name}: {plural(found, 'finding')}")
    watched = status.get("watched_otlp", {})
    if unwatched := watched.get("points_over_limit"):
        told = f"{watched['series']:,} of {watched['max_series']:,} series, with "
        told += f"{amount(watched['bytes'])} of {amount(watched['max_bytes'])}"
        text = f"points of OTLP that no detector saw, for want of room: {unwatched:,} ({told} by now)"
        yield from _wrap(text, head="! ", colour=YELLOW)


def _drawers(store: dict[str, Any]) -> Iterator[str]:
    """Say what was set aside, and which command shows it."""
    look = "tidegate quarantine" + (f" --state-dir {shlex.quote(store['state_dir'])}" if store.get("state_dir") else "")
    for name, noun, what, command in (
        ("quarantined", "payload", "of which not all could be used", look),
        ("refused", "segment", "that an uplink refused for good", f"{look} --refused"),
    ):
        if count := store.get(name):
            last = f"the last {count:,} {noun}s {what} are" if count > 1 else f"1 {noun} {what} is"
            yield from _wrap(f"{last} set aside to be looked at:", head="! ", colour=YELLOW)
            yield f"    {command}"


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count:,} times"


def _source(source: dict[str, Any]) -> Iterator[str]:
    """Return the numbers that are not nothing, under their own names; where it listens; what it refused."""
    for key in ("address", "url", "port"):
        if source.get(key):
            yield f"{key} {source[key]}"
            break
    if source.get("grpc_address"):
        yield f"gRPC address {source['grpc_address']}"
    numbers = [
        f"{key.replace('_', ' ')} {value:,}"
        for key, value in source.items()
        if isinstance(value, int) and not isinstance(value, bool) and (value or key in ALWAYS)
    ]
    if numbers:
        yield ", ".join(numbers)
    for key in ("refused", "rejected"):
        reasons = source.get(key)
        if isinstance(reasons, dict) and reasons:
            yield f"{key}: {_reasons(reasons)}"
    for reason, sentence in source.get("refused_last", {}).items():
        yield f"{reason}: {sentence}"


def _link(link: dict[str, Any]) -> Iterator[str]:
    """Say by what the link goes, who uses it, and what went over it."""
    given = [f"{key} {link[key]}" for key in ("interface", "gateway", "probe") if link.get(key)]
    users = _listed(link.get("used_by")) or "nobody"
    yield f"{', '.join(given)}; {'metered' if link.get('metered') else 'free'}; used by {users}"
    if carried := link.get("wire_bytes"):
        yield f"carried {amount(carried)} since the start"
    if held_s := link.get("probes", {}).get("held_back_s"):
        cost = amount(link["probes"]["spent_bytes"])
        yield f"asked again in {span(held_s)}: probes have had their part, {cost}"
    if budget := link.get("budget"):
        yield from _budget(budget)


def _uplink(uplink: dict[str, Any]) -> Iterator[str]:
    if where := uplink.get("endpoint") or uplink.get("directory"):
        yield f"to {where}{f' over {over}' if (over := uplink.get('link')) else ''}"
    if takes := uplink.get("takes"):
        yield _takes(takes)
    if uplink.get("removed"):
        yield from _removed(uplink)
        return
    yield f"delivered {uplink.get('delivered', 0):,}, {_held(uplink)}, {_ledger(uplink)}"
    yield from _progress(uplink)
    for signal, reason in uplink.get("held_back", {}).items():
        if reason != uplink.get("reason"):
            yield f"! {signal} are held back: {reason}"
    yield from _put_off(uplink)
    if uplink.get("maybe_twice"):
        yield f"possibly sent twice {uplink['maybe_twice']:,}"
    if sent := uplink.get("bytes_sent"):
        yield f"sent {amount(sent)} in {plural(uplink.get('requests', 0), 'request')} since the start"
    yield from _speed(uplink)
    if budget := uplink.get("budget"):
        yield from _budget(budget)
        yield from _plan(budget.get("plan", {}), said=uplink.get("reason"))
    if thinned := uplink.get("thinned"):
        yield f"sent thinned {plural(thinned, 'reading')} in place of more, which go whole when there is room"
    yield from _endpoints(uplink.get("endpoints", []))
    yield from _files(uplink)
    if retry := uplink.get("retry_in_s"):
        yield f"next try in {span(retry)}"


def _put_off(uplink: dict[str, Any]) -> Iterator[str]:
    """Say what waits while others go."""
    put_off, unheard = uplink.get("put_off", {}), uplink.get("unheard")
    if unheard and not isinstance(unheard, dict):
        yield f"! messages that nobody subscribed to, taken by the broker and thrown away: {unheard:,}"
    elif unheard and unheard.get("subjects"):
        yield f"! {unheard['reason']} It waits, others go; the next try is in {span(unheard['next_try_in_s'])}"
    if leases := put_off.get("leases", 0) - put_off.get("unheard", 0):
        left = plural(put_off.get("readings", 0), "reading")
        yield f"! the receiver fails at {left} of {plural(leases, 'request')}: others go first, they are tried again"
    if given := put_off.get("gives_way"):
        yield f"{plural(given, 'reading')} of a request that has begun wait for fresh data to go first"


def _speed(uplink: dict[str, Any]) -> Iterator[str]:
    """Say what its way carries, as far as its own requests show it, and since when one has waited if that is long."""
    if (waiting_s := uplink.get("waiting_s", 0)) >= SLOW_ANSWER_S:
        yield f"! has waited {span(waiting_s)} for {uplink['waiting_for']}, of {span(uplink['waiting_s_max'])} at most"
    if goodput := uplink.get("goodput_bytes_s"):
        trip = f", round trip {1000 * seconds:.0f} ms" if (seconds := uplink.get("round_trip_s")) else ""
        fixed_s = uplink.get("request_fixed_s", 0.0)
        fixed = f", and each request {fixed_s:.1f} s whatever its size" if fixed_s >= FAR_S else ""
        yield f"the way takes about {amount(goodput)} a second{trip}{fixed}"


def _endpoints(endpoints: list[dict[str, Any]]) -> Iterator[str]:
    """Say how each of several receivers is; of one alone the uplink says all there is."""
    for one in endpoints if len(endpoints) > 1 else ():
        state, held, error, row = (one.get(key) for key in ("state", "held_back", "last_error", "failures_in_a_row"))
        is_left_out = state not in {"closed", "half-open"}
        well = "failed last" if row else "is well" if one.get("requests") else "was not asked yet"
        what = {"closed": well, "half-open": "was left out, and is tried in its turn"}
        said = [] if held and state == "closed" else [what.get(str(state), "is left out")]
        if is_left_out and one.get("retry_in_s"):
            said.append(f"for {span(one['retry_in_s'])} more")
        said += [f"{' and '.join(held)} are held back from it"] if held else []
        if error and (held or row or state != "closed"):
            said.append(error)
        elif one.get("requests"):
            said.append(f"{plural(one['requests'], 'request')}, answered in {one.get('rtt_ms', 0)} ms")
        yield f"{'! ' if is_left_out or held else ''}{one.get('endpoint')}: {', '.join(said)}"


def _files(uplink: dict[str, Any]) -> Iterator[str]:
    """Say what an uplink of files has there, what was deleted to make room, and whether it is stuck."""
    if uplink.get("files"):
        most = uplink.get("files_bytes_max")
        of = f" of {amount(most)}" if most else ""
        there = f"{plural(uplink['files'], 'file')}, {amount(uplink.get('files_bytes', 0))}{of}"
        yield f"{there}; {amount(uplink.get('free_bytes', 0))} free on that disk"
    if deleted := uplink.get("files_deleted"):
        yield f"! {plural(deleted, 'file')} deleted to make room, {amount(uplink.get('bytes_deleted', 0))}"
    if uplink.get("writing_s", 0) >= SLOW_WRITE_S:
        yield f"! the disk takes long: one record for {span(uplink['writing_s'])} by now"


def _thinned(store: dict[str, Any]) -> Iterator[str]:
    """Say what was thinned to make room, and what can't be."""
    for part in store.get("diluted", ()):
        yield from _wrap(_diluted(part), head="! ", colour=YELLOW)
    for priority, series in store.get("too_many_series", {}).items():
        text = f"{priority} readings are of {series:,} series, too many to be thinned: the oldest of them go instead"
        yield from _wrap(text, head="! ", colour=RED)


def _diluted(part: dict[str, Any]) -> str:
    """Say what of a class is held at which step, and from when to when."""
    times = [
        datetime.fromtimestamp(part[key] / 1e9, UTC).strftime("%Y-%m-%d %H:%M") if part.get(key) else "?"
        for key in ("first_ns", "last_ns")
    ]
    return (
        f"{part.get('class')} readings of {times[0]} to {times[1]} UTC are held diluted: first, least, greatest and "
        f"last of each {span(part.get('step_s', 0))}"
    )


def _budget(budget: dict[str, Any]) -> Iterator[str]:
    """Say what the link may carry, and how much of it is spent; nothing of who pays from its links' alone."""
    windows = {key.removeprefix("per_"): value for key, value in budget.items() if key.startswith("per_")}
    said = [
        f"{amount(spent['spent_bytes'])} of {amount(spent['limit_bytes'])} this {window}"
        + (f" ({amount(over)} of it overdrawn)" if (over := spent.get("overdrawn_bytes")) else "")
        + ("" if spent["ends_in_s"] is None else f", which ends in {span(spent['ends_in_s'])}")
        for window, spent in windows.items()
    ]
    if free := budget.get("free"):
        said.append(_free(free))
    if rate := budget.get("rate_bit_s"):
        said.append(f"at most {Rate(rate / 8)}")
    if said:
        yield f"budget: {'; '.join(said)}"


def _free(free: dict[str, Any]) -> str:
    """Say whether what goes is free just now, and how much went so."""
    spent = f"{amount(free.get('spent_bytes', 0))} went free"
    if free.get("is_free"):
        return f"free for another {span(free.get('ends_in_s') or 0)}, {spent} so far"
    begins_in_s = free.get("begins_in_s")
    return f"free again in {span(begins_in_s)}, {spent}" if begins_in_s is not None else spent


def _plan(plan: dict[str, Any], *, said: str | None) -> Iterator[str]:
    """Say what goes of what comes in, and why, unless that is said; where not all of it goes whole it stands out."""
    if plan.get("why") and plan["why"] != said:
        is_thinning = any(part.get("step_s") for part in plan.get("classes", {}).values())
        yield f"{'! ' if is_thinning else ''}plan: {plan['why']}"


def _takes(takes: dict[str, Any]) -> str:
    """Say what an uplink takes, which is not all there is."""
    signals, classes, mappings = takes.get("signals") or [], takes.get("classes") or [], takes.get("mappings")
    kinds = "all" if len(signals) == len(Signal) else _listed(signals)
    if len(classes) < len(Priority):
        kinds += f" of {_listed(classes)} class"
    if mappings is not None:
        kinds += f" from the mapping{'s' if len(mappings) > 1 else ''} {_listed(mappings)}"
    return f"takes {kinds} alone"


def _listed(words: list[str] | None) -> str:
    return " and ".join(words or [])


def _removed(uplink: dict[str, Any]) -> Iterator[str]:
    """Say what is held for an uplink that is configured no more, if anything is, and until when."""
    left = uplink.get("let_go_in_s")
    if not uplink.get("held") and "uplink_removed" not in uplink.get("ledger", {}):
        yield "configured no more"
    elif left is None:
        yield "configured no more; what was held for it was let go"
    else:
        when = f"let go in {span(left)}" if left else "about to be let go"
        yield f"configured no more; what is held for it is {when}, unless it is configured again"
    yield f"delivered {uplink.get('delivered', 0):,}, {_held(uplink)}, {_ledger(uplink)}"


def _ledger(uplink: dict[str, Any]) -> str:
    """Say what is lost and why, and apart from it what nobody wanted there; all of it together is the ledger."""
    ledger = uplink.get("ledger", {})
    lost = {reason: count for reason, count in ledger.items() if reason != ON_PURPOSE and reason not in NOT_FOR_IT}
    text = f"lost {sum(lost.values()):,}" + (f" ({_reasons(lost)})" if lost else "")
    if dropped := ledger.get(ON_PURPOSE):
        text += f", dropped on purpose {dropped:,}"
    if left_out := uplink.get("left_out"):
        text += f", left out {left_out:,}"
    if others := sum(ledger.get(reason, 0) for reason in NOT_FOR_IT):
        text += f", from before or while it was not configured {others:,}"
    return text


def _held(uplink: dict[str, Any]) -> str:
    """Say how much is held, and of which classes where they are several."""
    classes = {word: count for word, count in uplink.get("held_by_class", {}).items() if count}
    return f"held {uplink.get('held', 0):,}" + (f" ({_reasons(classes)})" if len(classes) > 1 else "")


def _progress(uplink: dict[str, Any]) -> Iterator[str]:
    """Say when something was delivered last, and when what is held will be."""
    if uplink.get("held") and uplink.get("state") not in GOOD_STATES:
        age_s = uplink.get("last_success_age_s")
        yield f"last delivery {span(age_s)} ago" if age_s is not None else "nothing delivered since the start"
    if taken := uplink.get("in_hand_taken"):
        yield f"of what is being sent, {taken:,} of {uplink.get('leased', 0):,} are taken already"
    change = uplink.get("backlog_change_per_s", 0)
    # Both are of the last look, a second ago: by now it may be gone.
    if (eta := uplink.get("backlog_eta_s")) and uplink.get("held"):
        yield f"backlog gone in about {span(eta)}" + (f", {-change:,.0f} readings a second" if change <= -1 else "")
    elif change >= 1 and uplink.get("held") and uplink.get("state") != COMBINING:
        yield f"the backlog grows by about {change:,.0f} readings a second: more arrives than leaves"


def _reasons(reasons: dict[str, Any]) -> str:
    return ", ".join(f"{reason} {count:,}" for reason, count in reasons.items())


def is_good(part: dict[str, Any]) -> bool:
    """Whether a source or an uplink does its work, or is configured no more with nothing left to do."""
    return part.get("state") in GOOD_STATES or (bool(part.get("removed")) and not part.get("held"))


def _state(part: dict[str, Any]) -> str:
    state = str(part.get("state", "?"))
    return f"{GREEN if is_good(part) else YELLOW}{state}{PLAIN}"


def _wrap(text: str, *, head: str = "", indent: int = 2, colour: str = "") -> Iterator[str]:
    """Return lines of at most WIDTH letters; those after the first stand below the text."""
    first = " " * indent + head
    if len(first) > WIDTH // 2:
        # A name as long as a line stands alone, cut at the edge; what is said of it comes below.
        yield f"{colour}{first[:WIDTH]}{PLAIN if colour else ''}"
        first = " " * (indent + 2)
    lines = textwrap.wrap(text, WIDTH - len(first), break_on_hyphens=False) or [""]
    for number, line in enumerate(lines):
        start = first if not number else " " * len(first)
        yield f"{colour}{start}{line}{PLAIN if colour else ''}"
