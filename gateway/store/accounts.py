"""Counting: accepted = delivered + held + ledger + left_out for each uplink, in the state row. Does no I/O."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from gateway.core.contracts import Priority

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gateway.store.spots import Shelf
    from gateway.store.taking import Takes

STATE_MAGIC: Final = b"TGs1"
HASH_BYTES: Final = 16
NAMES_ID_BYTES: Final = 8
# What is lost before any uplink is configured stands under this name.
NOBODY: Final = ""
# Reasons come from our own code; should one be made of what the world sends, the ledger stays small all the same.
REASONS_MAX: Final = 64
OTHER_REASON: Final = "other"
# What was held for an uplink that is configured no more, and what was accepted while it was not: never meant for it.
UPLINK_REMOVED: Final = "uplink_removed"
WHILE_REMOVED: Final = "while_removed"
# SQLite's integers end there; a sequence has 59 bits, a series' number 32, a boot's too, and some are still to come.
COUNT_MAX: Final = (1 << 63) - 1
SERIES_MAX: Final = (1 << 32) - 1
BOOT_MAX: Final = (1 << 31) - 1
# One bit of `done` each; SQLite's integers have 63 to give. Slot 0 is NOBODY's.
SLOTS_MAX: Final = 60
# All shares have to fit the page of the state row, or every commit would write another.
NOTE_BYTES_MAX: Final = 256
THINNED_SPANS_MAX: Final = 12
# Stretches of evidence that are still to be sent: so many of the newest are known after a kill.
UNSENT_EVIDENCE_MAX: Final = 8
# Stretches of evidence that stay whole as long as anything else can be diluted: of more, the nearest two become one.
EVIDENCE_SPANS_MAX: Final = 8
# Classes times steps of store/coarsening.
STRETCHES_MAX: Final = 21
STEP_S_MAX: Final = (1 << 32) - 1


class Stage(IntEnum):
    """How far an uplink that is configured no more has been let go."""

    KEPT = 0  # what was held for it is, should it come back
    LET_GO = 1  # it is in the ledger, and leaves the shelf bit by bit
    SWEPT = 2  # nothing is left of it


class Removal(msgspec.Struct, array_like=True, frozen=True):
    """Since when an uplink is configured no more."""

    boot: int
    at_ns: int  # that boot's monotonic clock
    sequence: int  # what was committed from here on was never for it
    accepted: int  # how many readings had been by then
    stage: Stage = Stage.KEPT


class Share(msgspec.Struct, array_like=True):
    """One uplink's side of the account, in readings."""

    name: str
    slot: int
    delivered: int = 0
    held: int = 0
    maybe_twice: int = 0
    # First and last row id of each lease at the time of the commit: a process that dies leaves them possibly sent.
    leased: list[tuple[int, int]] = []
    removal: Removal | None = None
    # How many readings may be leased from this commit to the next: a process that dies leaves them possibly sent.
    allowed: int = 0
    # What is held, by `Priority`. A row of an earlier version has none: then the sum is not `held`, and it is counted.
    held_by_class: tuple[int, int, int] = (0, 0, 0)
    # The uplink's own, which nobody else reads.
    note: bytes = b""
    # What was sent in thinned form: first and last row id of what lies side by side, and how many readings that made.
    thinned: list[tuple[int, int]] = []
    thinned_readings: int = 0
    # What it does not take (store/taking), and the number of what it takes: nothing else is held for it on the disk.
    left_out: int = 0
    takes: int = 0
    # First and last sequence of what came in around findings and is to be sent first.
    evidence: list[tuple[int, int]] = []
    # The earliest boot before its own time of which rests were kept apart (store/apart), and the last one's sequence.
    apart: tuple[int, int] = (0, 0)

    def hold(self, readings: int, *, priority: Priority) -> None:
        """Hold so many more of a class, or fewer, if negative; the classes make up what is held, whatever comes."""
        counts = list(self.held_by_class)
        counts[priority] += readings
        if counts[priority] < 0:
            # On a damaged shelf a row may say more than was ever held of its class.
            for other in Priority:
                taken = min(max(counts[other], 0), -counts[priority])
                counts[other] -= taken
                counts[priority] += taken
        critical, normal, bulk = counts
        self.held += readings
        self.held_by_class = (critical, normal, bulk)

    def hold_just(self, by_class: tuple[int, int, int], *, in_all: int | None = None) -> None:
        """Hold this and nothing else; where they are known to be `in_all`, the normal ones make up for the rest."""
        self.held, self.held_by_class = sum(by_class), by_class
        if in_all is not None:
            self.hold(in_all - self.held, priority=Priority.NORMAL)

    def wants(self, sequence: int) -> bool:
        """Whether a segment was for it at all; whether it has it already stands in the segment's row."""
        removal = self.removal
        return removal is None or (removal.stage is Stage.KEPT and sequence < removal.sequence)

    def left(self, sequence: int, done: int) -> bool:
        """Whether a segment that has this `done` was held for it until it was let go."""
        removal = self.removal
        is_let_go = removal is not None and removal.stage is not Stage.KEPT and sequence < removal.sequence
        return is_let_go and not done & self.bit

    @property
    def bit(self) -> int:
        """Its bit in `done`."""
        return 1 << self.slot


class Stretch(msgspec.Struct, array_like=True, frozen=True):
    """What of a class was diluted to a step and may still be held. Times are Unix s, 0: not known."""

    priority: int
    step_s: int
    first_s: int
    last_s: int
    last_sequence: int


class Dilution(msgspec.Struct, array_like=True, frozen=True):
    """How far what is held was written anew to make room."""

    count: int = 0  # of all segments that were
    hash: bytes = b""  # of the last of them
    stretches: list[Stretch] = []
    evidence: list[tuple[int, int]] = []  # first and last sequence of what came in around findings
    places: list[int] = []  # by `Priority`: the sequence from which on it goes on

    @property
    def is_sane(self) -> bool:
        """Whether these numbers can be of our making."""
        numbers = [self.count, *self.places, *(number for span in self.evidence for number in span)]
        for stretch in self.stretches:
            numbers += [stretch.first_s, stretch.last_s, stretch.last_sequence]
        return (
            all(0 <= number <= COUNT_MAX for number in numbers)
            and len(self.hash) in {0, HASH_BYTES}
            and all(
                stretch.priority in set(Priority) and 0 < stretch.step_s <= STEP_S_MAX for stretch in self.stretches
            )
            and len(self.places) <= len(Priority)
        )


class State(msgspec.Struct, array_like=True):
    """The state row: all that changes with every commit, so that one page holds it."""

    commit: int = 0
    accepted: int = 0
    sequence: int = 1  # the next segment's
    previous_hash: bytes = bytes(HASH_BYTES)
    boot: int = 0
    boot_last_ns: int = 0
    clean: bool = True  # closed in order
    series_next: int = 1  # no series' number is given twice, even where the rows of some are lost
    shares: list[Share] = []
    slots: dict[str, int] = {}  # of every uplink there ever was, so that one that comes back is known
    log_bytes: int = 0  # how long the write-ahead log was by then at least; 0: closed in order, there is none
    dilution: Dilution = Dilution()
    names_id: bytes = b""  # by which its file of names is known (store/names); an earlier version has none

    @property
    def is_sane(self) -> bool:
        """Whether these numbers can be of our making: a checksum is soon made."""
        numbers = [self.commit, self.accepted, self.boot_last_ns, self.log_bytes]
        for share in self.shares:
            numbers += [share.delivered, share.held, share.maybe_twice, share.allowed, share.left_out, share.takes]
            spans = [*share.leased, *share.thinned, *share.evidence, share.apart]
            numbers += [share.thinned_readings, *(number for span in spans for number in span)]
            if share.removal is not None:
                numbers += [share.removal.boot, share.removal.at_ns, share.removal.sequence, share.removal.accepted]
        slots = [share.slot for share in self.shares]
        return (
            all(0 <= number <= COUNT_MAX for number in numbers)
            and 1 <= self.sequence < COUNT_MAX >> 4
            and 1 <= self.series_next <= SERIES_MAX
            and 0 <= self.boot <= BOOT_MAX
            and len(self.previous_hash) == HASH_BYTES
            and len(self.names_id) in {0, NAMES_ID_BYTES}
            and all(len(share.note) <= NOTE_BYTES_MAX for share in self.shares)
            and all(0 <= slot < SLOTS_MAX for slot in [*slots, *self.slots.values()])
            and len({share.name for share in self.shares}) == len(set(slots)) == len(slots)
            and self.dilution.is_sane
        )


class DamagedStateError(ValueError):
    """These bytes are no state."""


def encode_state(state: State) -> bytes:
    """Return the bytes of the state row: magic, CRC-32, MessagePack."""
    body = msgspec.msgpack.encode(state)
    return STATE_MAGIC + zlib.crc32(body).to_bytes(4, "little") + body


def decode_state(data: object) -> State:
    """Read what `encode_state` wrote; raise DamagedStateError."""
    if not isinstance(data, bytes):
        raise DamagedStateError("the state row is no blob")
    body = data[8:]
    if data[:4] != STATE_MAGIC or zlib.crc32(body).to_bytes(4, "little") != data[4:8]:
        raise DamagedStateError("the state row's checksum does not match")
    try:
        state = msgspec.msgpack.decode(body, type=State)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DamagedStateError(f"the state row cannot be read: {error}") from error
    if not state.is_sane:
        raise DamagedStateError("the state row says what cannot be")
    return state


class Entry(NamedTuple):
    """One line of the ledger. Times are Unix ns, 0: not known."""

    readings: int
    first_ns: int = 0
    last_ns: int = 0
    since_ns: int = 0
    until_ns: int = 0

    def add(self, other: Entry) -> Entry:
        """Return both together."""
        return Entry(
            self.readings + other.readings,
            _earliest(self.first_ns, other.first_ns),
            max(self.last_ns, other.last_ns),
            _earliest(self.since_ns, other.since_ns),
            max(self.until_ns, other.until_ns),
        )


def _earliest(one: int, other: int) -> int:
    return min(one, other) if one and other else one or other


@dataclass(slots=True)
class Change:
    """What one commit adds to the accounts, on top of what acks have changed already."""

    accepted: int = 0
    held: dict[tuple[str, Priority], int] = field(default_factory=dict)
    lost: list[tuple[str, str, Entry]] = field(default_factory=list)
    left_out: dict[str, int] = field(default_factory=dict)
    delivered: dict[str, int] = field(default_factory=dict)
    apart: list[tuple[str, int, int]] = field(default_factory=list)  # what rests of an earlier boot, and which sequence

    def add_held(self, name: str, readings: int, *, priority: Priority) -> None:
        """Hold `readings` of a class more (or fewer, if negative) for one uplink."""
        self.held[name, priority] = self.held.get((name, priority), 0) + readings

    def deliver(self, name: str, readings: int, *, priority: Priority) -> None:
        """Settle `readings` of a class that were held for one uplink: they have arrived."""
        self.add_held(name, -readings, priority=priority)
        self.delivered[name] = self.delivered.get(name, 0) + readings

    def deliver_not(self, name: str, reason: str, entry: Entry) -> None:
        """Take note that some of what is settled has not arrived, and never will."""
        self.delivered[name] = self.delivered.get(name, 0) - entry.readings
        self.lose(name, reason, entry)

    def leave_out(self, name: str, readings: int) -> None:
        """Note that one uplink does not take so many that came."""
        self.left_out[name] = self.left_out.get(name, 0) + readings

    def lose(self, name: str, reason: str, entry: Entry) -> None:
        """Put a line into one uplink's ledger."""
        self.lost.append((name, reason, entry))


class Accounts:
    """The live accounts of all uplinks. Every method keeps accepted = delivered + held + ledger + left_out for each."""

    def __init__(self, shares: Iterable[Share], ledger: dict[tuple[str, str], Entry], *, accepted: int) -> None:
        self.accepted = accepted
        self.takes: dict[int, Takes] = {}  # by bit, of those that leave out something
        self.shares = {share.name: share for share in shares}
        self.ledger = ledger
        assert self.shares

    def copy(self) -> Accounts:
        """Return accounts that may change without these."""
        shares = [msgspec.structs.replace(share) for share in self.shares.values()]
        return Accounts(shares, dict(self.ledger), accepted=self.accepted)

    @property
    def configured(self) -> list[Share]:
        """The shares of all uplinks that there are."""
        return [share for share in self.shares.values() if share.removal is None]

    @property
    def kept(self) -> list[tuple[Share, Removal]]:
        """The shares that wait for their uplink to come back."""
        pairs = [(share, share.removal) for share in self.shares.values()]
        return [(share, removal) for share, removal in pairs if removal is not None and removal.stage is Stage.KEPT]

    @property
    def active(self) -> int:
        """The bits of all uplinks that there are."""
        bits = 0
        for share in self.configured:
            bits |= share.bit
        return bits

    @property
    def may_be_unwanted(self) -> bool:
        """Whether something may have come that no uplink takes."""
        return min((share.left_out for share in self.configured), default=0) > 0

    def takes_none_of(self, shelf: Shelf) -> bool:
        """Whether no uplink that there is takes anything of a class and signal."""
        bits = sum(bit for bit, takes in self.takes.items() if not takes.has_shelf(shelf))
        return bits > 0 and not self.active & ~bits

    def needed(self, sequence: int) -> int:
        """Return the bits of all who want a segment: one whose `done` has them all may go."""
        bits = 0
        for share in self.shares.values():
            bits |= share.bit if share.wants(sequence) else 0
        return bits

    def let_go(self, name: str, entry: Entry) -> None:
        """Put what is held for an uplink that did not come back into its ledger; `entry` says of when it is."""
        share = self.shares[name]
        assert share.removal is not None
        stage = Stage.LET_GO if share.held else Stage.SWEPT
        if share.held:
            self.lose(name, UPLINK_REMOVED, entry._replace(readings=share.held))
        share.hold_just((0, 0, 0))
        share.removal = msgspec.structs.replace(share.removal, stage=stage)

    def lose(self, name: str, reason: str, entry: Entry) -> None:
        """Add to the ledger."""
        key = (name, reason)
        if key not in self.ledger and sum(owner == name for owner, _ in self.ledger) >= REASONS_MAX - 1:
            key = (name, OTHER_REASON)
        self.ledger[key] = self.ledger[key].add(entry) if key in self.ledger else entry

    def deliver(self, name: str, readings: int, *, priority: Priority, lost: tuple[str, Entry] | None = None) -> None:
        """Settle `readings` of a class that were held: delivered, but for those in `lost`."""
        share = self.shares[name]
        # On a damaged shelf a row may say more than was ever held.
        readings = min(readings, share.held)
        if lost and lost[1].readings > readings:
            lost = (lost[0], lost[1]._replace(readings=readings))
        lost_readings = lost[1].readings if lost else 0
        share.hold(-readings, priority=priority)
        share.delivered += readings - lost_readings
        if lost and lost_readings:
            self.lose(name, *lost)

    def leave_out(self, name: str, readings: int, *, priority: Priority) -> None:
        """Take note that an uplink takes `readings` of a class no more that were held for it."""
        share = self.shares[name]
        readings = min(readings, share.held)
        share.hold(-readings, priority=priority)
        share.left_out += readings

    def apply(self, change: Change) -> None:
        """Take what a commit brought."""
        self.accepted += change.accepted
        for (name, priority), readings in change.held.items():
            self.shares[name].hold(readings, priority=priority)
        for name, reason, entry in change.lost:
            self.lose(name, reason, entry)
        for name, readings in change.left_out.items():
            self.shares[name].left_out += readings
        for name, readings in change.delivered.items():
            self.shares[name].delivered += readings
        for name, boot, sequence in change.apart:
            earliest, last = self.shares[name].apart
            self.shares[name].apart = min(boot, earliest or boot), max(sequence, last)

    def lost(self, name: str) -> dict[str, Entry]:
        """Return one uplink's ledger by reason.

        What was accepted since it is configured no more is reckoned and written nowhere: that would cost each commit
        a page.
        """
        lost = {reason: entry for (owner, reason), entry in self.ledger.items() if owner == name and entry.readings}
        removal = self.shares[name].removal if name in self.shares else None
        if removal is not None and self.accepted > removal.accepted:
            since = Entry(self.accepted - removal.accepted)
            lost[WHILE_REMOVED] = lost[WHILE_REMOVED].add(since) if WHILE_REMOVED in lost else since
        return lost

    def delivered_since(self, shares: Iterable[Share]) -> int:
        """Return how many readings were delivered since the accounts were these."""
        before = {share.name: share.delivered for share in shares}
        return sum(max(share.delivered - before.get(share.name, 0), 0) for share in self.configured)

    def gap(self, name: str) -> int:
        """Return accepted - delivered - held - ledger - left_out: 0, or the account is wrong."""
        share = self.shares[name]
        lost = sum(entry.readings for entry in self.lost(name).values())
        return self.accepted - share.delivered - share.held - lost - share.left_out
