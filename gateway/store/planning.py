"""One commit on paper: what it changes in the accounts, and what it writes. Does no I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from gateway.store.accounts import THINNED_SPANS_MAX, Accounts, Change, Entry, State
from gateway.store.records import where_from
from gateway.store.room import Candidate, wall_of
from gateway.store.spans import Spans

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from gateway.core.clock import BootTimes, Timeline
    from gateway.store.leases import Desk
    from gateway.store.records import Loss
    from gateway.store.rewriting import Rewriting
    from gateway.store.writer import Sealed

EVICTED: Final = "evicted_full"
EXPIRED: Final = "expired_age"
# Of what went for want of room or age, what is there in thinned form, here or at the far side: not all of it is lost.
DILUTED: Final = "diluted"
DAMAGED: Final = "damaged"
BEFORE: Final = "before_uplink"
# Leases that stand each by itself in the state row, which is to fit its page; of more the nearest stand as one.
LEASED_SPANS_MAX: Final = 32


def make_change(
    accounts: Accounts,
    *,
    sealed: Sealed,
    losses: Iterable[Loss],
    victims: Iterable[tuple[str, Candidate]],
    done: Mapping[int, int],
    timeline: Timeline,
    now_ns: int,
    rewritings: Iterable[Rewriting] = (),
) -> Change:
    """Return what a commit adds to the accounts: what comes for who takes it, what goes for who lacks it."""
    change = Change(accepted=sealed.readings)
    for moving in sealed.apart:
        moving.settle(change, now_ns=now_ns)
    # What is kept apart was held before, and is.
    for segment in (segment for segment in sealed.segments if not segment.is_apart):
        priority = where_from(segment.row.id)[0]
        for share in accounts.configured:
            if segment.left_out & share.bit:
                change.leave_out(share.name, segment.row.readings)
            else:
                change.add_held(share.name, segment.row.readings, priority=priority)
    for loss in losses:
        change.accepted += loss.readings
        for share in accounts.configured:
            change.lose(share.name, loss.reason, Entry(loss.readings, loss.first_ns, loss.last_ns, now_ns, now_ns))
    thinned = {share.name: Spans(share.thinned, spans_max=THINNED_SPANS_MAX) for share in accounts.shares.values()}
    for reason, victim in victims:
        first_ns, last_ns = victim.first_ns, victim.last_ns
        if not first_ns:
            first_ns = last_ns = wall_of(timeline, victim.stored_ns, victim.boot)
        for share in accounts.shares.values():
            if share.wants(victim.sequence) and not (victim.done | done.get(victim.id, 0)) & share.bit:
                change.add_held(share.name, -victim.readings, priority=where_from(victim.id)[0])
                why = DILUTED if victim.id in thinned[share.name] else reason
                change.lose(share.name, why, Entry(victim.readings, first_ns, last_ns, now_ns, now_ns))
    _lose_diluted(change, accounts, rewritings, timeline=timeline, now_ns=now_ns)
    return change


def _lose_diluted(
    change: Change, accounts: Accounts, rewritings: Iterable[Rewriting], *, timeline: Timeline, now_ns: int
) -> None:
    """Take what is left out of segments that are written anew from all who lack them."""
    for rewriting in rewritings:
        # All of its segments are lacked by the same.
        first = rewriting.members[0]
        for share in accounts.shares.values() if rewriting.lost else ():
            if share.wants(first.row.sequence) and not first.done & share.bit:
                change.add_held(share.name, -rewriting.lost, priority=where_from(rewriting.id)[0])
                change.lose(share.name, DILUTED, rewriting.entry(timeline, now_ns=now_ns))


def next_state(
    state: State,
    after: Accounts,
    *,
    sealed: Sealed,
    timeline: Timeline,
    desks: Mapping[str, Desk],
    series_next: int,
    log_bytes: int,
    allowed: Mapping[str, int],
) -> State:
    """Return the state row of a commit that leaves the accounts as `after`; `log_bytes` is 0 for the very last one.

    `allowed` is what each uplink may lease until the next one, in readings.
    """
    for name, desk in desks.items():
        share = after.shares[name]
        share.leased = _few(desk.spans)
        share.allowed = allowed[name]
        share.note = desk.note(share.note, is_last=not log_bytes)
        share.thinned = [*desk.thinned]
        share.evidence = desk.unsent_evidence(state.sequence, sealed.sequence)
    return State(
        commit=state.commit + 1,
        accepted=after.accepted,
        sequence=sealed.sequence,
        previous_hash=sealed.previous_hash,
        boot=timeline.current.boot,
        boot_last_ns=timeline.current.last_ns,
        clean=not log_bytes,
        series_next=series_next,
        shares=list(after.shares.values()),
        slots=state.slots,
        log_bytes=log_bytes,
        dilution=state.dilution,
        names_id=state.names_id,
    )


def _few(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return so many spans at most that hold all of these: a process that dies leaves what lies in them in doubt."""
    return [*Spans(spans, spans_max=LEASED_SPANS_MAX)] if len(spans) > LEASED_SPANS_MAX else spans


def encode_boot(times: BootTimes) -> tuple[int, str, bytes]:
    """Return a row of the table of boots."""
    samples = [(sample.monotonic_ns, sample.offset_ns, int(sample.quality)) for sample in times.samples]
    return times.boot, times.uuid, msgspec.msgpack.encode((times.last_ns, samples))
