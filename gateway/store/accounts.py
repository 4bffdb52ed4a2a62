"""Counting: accepted = delivered + held + ledger for each uplink, and the state row it is kept in. Does no I/O."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable

STATE_MAGIC: Final = b"TGs1"
HASH_BYTES: Final = 16
# What is lost before any uplink is configured stands under this name.
NOBODY: Final = ""
# Reasons come from our own code; should one be made of what the world sends, the ledger stays small all the same.
REASONS_MAX: Final = 64
OTHER_REASON: Final = "other"
# One bit of `done` each; SQLite's integers have 63 to give. Slot 0 is NOBODY's.
SLOTS_MAX: Final = 60


class Share(msgspec.Struct, array_like=True):
    """One uplink's side of the account, in readings."""

    name: str
    slot: int
    delivered: int = 0
    held: int = 0
    maybe_twice: int = 0
    # First and last row id of each lease at the time of the commit: a process that dies leaves them possibly sent.
    leased: list[tuple[int, int]] = []

    @property
    def bit(self) -> int:
        """Its bit in `done`."""
        return 1 << self.slot


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


class DamagedStateError(ValueError):
    """These bytes are no state."""


def encode_state(state: State) -> bytes:
    """Return the bytes of the state row: magic, CRC-32, MessagePack."""
    body = msgspec.msgpack.encode(state)
    return STATE_MAGIC + zlib.crc32(body).to_bytes(4, "little") + body


def decode_state(data: bytes) -> State:
    """Read what `encode_state` wrote; raise DamagedStateError."""
    if not isinstance(data, bytes):
        raise DamagedStateError("the state row is no blob")
    body = data[8:]
    if data[:4] != STATE_MAGIC or zlib.crc32(body).to_bytes(4, "little") != data[4:8]:
        raise DamagedStateError("the state row's checksum does not match")
    try:
        return msgspec.msgpack.decode(body, type=State)
    except msgspec.DecodeError as error:
        raise DamagedStateError(f"the state row cannot be read: {error}") from error


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
    held: dict[str, int] = field(default_factory=dict)
    lost: list[tuple[str, str, Entry]] = field(default_factory=list)

    def add_held(self, name: str, readings: int) -> None:
        """Hold `readings` more (or fewer, if negative) for one uplink."""
        self.held[name] = self.held.get(name, 0) + readings

    def lose(self, name: str, reason: str, entry: Entry) -> None:
        """Put a line into one uplink's ledger."""
        self.lost.append((name, reason, entry))


class Accounts:
    """The live accounts of all uplinks. Every method keeps accepted = delivered + held + ledger for each."""

    def __init__(self, shares: Iterable[Share], ledger: dict[tuple[str, str], Entry], *, accepted: int) -> None:
        self.accepted = accepted
        self.shares = {share.name: share for share in shares}
        self.ledger = ledger
        assert self.shares

    def copy(self) -> Accounts:
        """Return accounts that may change without these."""
        shares = [msgspec.structs.replace(share) for share in self.shares.values()]
        return Accounts(shares, dict(self.ledger), accepted=self.accepted)

    @property
    def active(self) -> int:
        """The bits of all uplinks: a segment whose `done` has them all may go."""
        bits = 0
        for share in self.shares.values():
            bits |= share.bit
        return bits

    def lose(self, name: str, reason: str, entry: Entry) -> None:
        """Add to the ledger."""
        key = (name, reason)
        if key not in self.ledger and sum(owner == name for owner, _ in self.ledger) >= REASONS_MAX - 1:
            key = (name, OTHER_REASON)
        self.ledger[key] = self.ledger[key].add(entry) if key in self.ledger else entry

    def deliver(self, name: str, readings: int, *, lost: tuple[str, Entry] | None = None) -> None:
        """Settle `readings` that were held: delivered, but for those in `lost`."""
        share = self.shares[name]
        # On a damaged shelf a row may say more than was ever held.
        readings = min(readings, share.held)
        if lost and lost[1].readings > readings:
            lost = (lost[0], lost[1]._replace(readings=readings))
        lost_readings = lost[1].readings if lost else 0
        share.held -= readings
        share.delivered += readings - lost_readings
        if lost and lost_readings:
            self.lose(name, *lost)

    def apply(self, change: Change) -> None:
        """Take what a commit brought."""
        self.accepted += change.accepted
        for name, readings in change.held.items():
            self.shares[name].held += readings
        for name, reason, entry in change.lost:
            self.lose(name, reason, entry)

    def lost(self, name: str) -> dict[str, Entry]:
        """Return one uplink's ledger by reason."""
        return {reason: entry for (owner, reason), entry in self.ledger.items() if owner == name}

    def gap(self, name: str) -> int:
        """Return accepted - delivered - held - ledger: 0, or the account is wrong."""
        share = self.shares[name]
        lost = sum(entry.readings for entry in self.lost(name).values())
        return self.accepted - share.delivered - share.held - lost
