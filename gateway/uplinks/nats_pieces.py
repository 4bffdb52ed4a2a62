"""What goes in one message to a stream, under an id that says which readings these are. Must not write or send it.

A stream keeps one message of each id. So the same readings must have the same id whenever they are sent: after an
answer that was lost, by another process, in another request among others. Requests are cut by what the link carries
just now, and by what is freshest; ids are not:

    segment, as it stands in the store → pieces, halved by place down to READINGS_MAX → messages, halved to what fits

The id names the segment by a hash of its bytes, and the piece by its place in it. What is marked (backfill), or how
well its time is known, may differ from one try to the next: they are the same readings.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, TypeAlias

import numpy as np

from gateway.core.batch import LogRecords
from gateway.core.contracts import Signal
from gateway.uplinks.guards import InTransitError
from gateway.uplinks.partly import PartlyTakenError
from gateway.uplinks.parts import LogsPart, MessagesPart, MetricsPart, late

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import numpy.typing as npt

    from gateway.codecs.otlp import Marks
    from gateway.core.batch import Batch
    from gateway.core.ragged import Numbers
    from gateway.uplinks.parts import PlainPart
    from gateway.uplinks.requests import Hand

    Mask = npt.NDArray[np.bool_]

# Readings in one message of OTLP at most, whatever the link carries.
READINGS_MAX: Final = 4096
# What a message has beside subject and payload: its line, its id, its reply's subject; and the answer to it.
MESSAGE_BYTES: Final = 400


@dataclass(frozen=True, slots=True)
class ReadingsPiece:
    """Readings of one segment, those at `start` up to `stop` in its order; `places` are theirs, group by group."""

    key: str
    groups: Sequence[tuple[Batch, Marks]]
    places: Sequence[Numbers]
    start: int
    stop: int
    sequence: int = 0  # of the segment, where it is of one alone
    signal: Signal = Signal.METRICS

    def __len__(self) -> int:
        return sum(len(batch) for batch, _ in self.groups)

    @property
    def ident(self) -> str:
        """The id of all of it in one message."""
        return f"{self.key}.{self.start}-{self.stop}"

    def halves(self) -> tuple[ReadingsPiece, ReadingsPiece]:
        """Return both halves of the stretch, of which one may have nothing in it."""
        middle = (self.start + self.stop) // 2
        is_left = np.concatenate(self.places) < middle
        return replace(self.only(is_left), stop=middle), replace(self.only(~is_left), start=middle)

    def only(self, mask: Mask) -> ReadingsPiece:
        """Return some of it, by a mask over all groups."""
        bounds = np.cumsum([len(batch) for batch, _ in self.groups])[:-1]
        each = np.split(mask, bounds)
        kept = [
            ((batch.take(some), marks), places[some])
            for (batch, marks), places, some in zip(self.groups, self.places, each, strict=True)
            if some.any()
        ]
        return replace(self, groups=[group for group, _ in kept], places=[places for _, places in kept])

    def plain(self) -> MetricsPart:
        """Return it as other uplinks have it."""
        return MetricsPart(list(self.groups))

    def late(self) -> ReadingsPiece:
        """Return it with a word that it comes late."""
        return replace(self, groups=late(self.groups))


@dataclass(frozen=True, slots=True)
class LogsPiece:
    """Log records of one segment."""

    key: str
    records: LogRecords
    marks: Marks
    start: int
    stop: int
    signal: Signal = Signal.LOGS

    def __len__(self) -> int:
        return self.stop - self.start

    @property
    def ident(self) -> str:
        """The id of all of it in one message."""
        return f"{self.key}.{self.start}-{self.stop}"

    def halves(self) -> tuple[LogsPiece, LogsPiece]:
        """Return both halves of the stretch."""
        middle = (self.start + self.stop) // 2
        return replace(self, stop=middle), replace(self, start=middle)

    def plain(self) -> LogsPart:
        """Return it as other uplinks have it."""
        some, records = slice(self.start, self.stop), self.records
        return LogsPart(LogRecords(records.series[some], records.time_ns[some], records.bodies[some]), self.marks)

    def late(self) -> LogsPiece:
        """Return it with a word that it comes late."""
        return replace(self, marks=replace(self.marks, backfill=True))


@dataclass(frozen=True, slots=True)
class MessagesPiece:
    """OTLP messages of one segment; `path` says which half of which half it is."""

    key: str
    part: MessagesPart
    path: str = ""

    def __len__(self) -> int:
        return len(self.part)

    @property
    def signal(self) -> Signal:
        """What they are messages of."""
        return self.part.signal

    @property
    def ident(self) -> str:
        """The id of all of it in one message."""
        return f"{self.key}.m{self.path}"

    def halves(self) -> tuple[MessagesPiece, MessagesPiece]:
        """Return about both halves."""
        left, right = self.part.halves()
        return MessagesPiece(self.key, left, f"{self.path}0"), MessagesPiece(self.key, right, f"{self.path}1")

    def plain(self) -> MessagesPart:
        """Return it as other uplinks have it."""
        return self.part

    def late(self) -> MessagesPiece:
        """Return it with a word that it comes late."""
        return replace(self, part=MessagesPart(self.part.records, replace(self.part.marks, backfill=True)))


Piece: TypeAlias = "ReadingsPiece | LogsPiece | MessagesPiece"


def small_pieces(piece: Piece, readings_max: int = READINGS_MAX) -> Iterator[Piece]:
    """Halve a piece until each is small enough; leave out what has nothing in it."""
    if len(piece) <= 1 or _stretch(piece) <= readings_max:
        if len(piece):
            yield piece
        return
    for half in piece.halves():
        yield from small_pieces(half, readings_max)


@dataclass(slots=True)
class PiecesPart:
    """Pieces that may go in one request. See `parts.Part`: it is cut between them, and one alone in halves."""

    pieces: list[Piece]
    signal: Signal

    def __len__(self) -> int:
        return sum(map(len, self.pieces))

    @property
    def may_be_cut(self) -> bool:
        """Whether it can be cut with all ids as they are."""
        return len(self.pieces) > 1

    def halves(self) -> tuple[PiecesPart, PiecesPart]:
        """Return about the first and the second half, neither of them empty."""
        if self.may_be_cut:
            return self.cut(len(self) // 2)
        assert len(self) > 1
        stretch, halves = _stretch(self.pieces[0]), list[Piece]()
        while len(halves) < 2:
            stretch = max(1, stretch // 2)
            halves = list(small_pieces(self.pieces[0], stretch))
        cut = len(halves) // 2
        return PiecesPart(halves[:cut], self.signal), PiecesPart(halves[cut:], self.signal)

    def plain(self) -> list[PlainPart]:
        """Return it as other uplinks have it."""
        return [piece.plain() for piece in self.pieces]

    def joined(self, others: Sequence[PiecesPart]) -> PiecesPart:
        """Return this and others of the same signal in one."""
        return PiecesPart([piece for part in (self, *others) for piece in part.pieces], self.signal)

    def mark_late(self) -> None:
        """Have it say that it comes late."""
        self.pieces = [piece.late() for piece in self.pieces]

    def cut(self, readings: int) -> tuple[PiecesPart, PiecesPart]:
        """Return the first `readings`, or fewer, but one piece at least, and the rest: nothing, where there is one."""
        count = int(np.searchsorted(np.cumsum(list(map(len, self.pieces))), readings, side="right"))
        count = max(1, min(count, len(self.pieces) - 1))
        return PiecesPart(self.pieces[:count], self.signal), PiecesPart(self.pieces[count:], self.signal)


def _stretch(piece: Piece) -> int:
    return piece.stop - piece.start if isinstance(piece, ReadingsPiece) else len(piece)


class Publications(bytes):
    """Payloads of many messages, one behind the other: message k ends at `ends[k]`.

    It goes to `subjects[subject_of[k]]`, and is `counts[k]` readings of `pieces[piece_of[k]]`: all of these, or the one
    at `places[k]`, where that is not -1. Beside them `overhead_bytes` go over the wire.
    """

    ends: Numbers
    subjects: list[bytes]
    subject_of: Numbers
    pieces: list[Piece]
    piece_of: Numbers
    places: Numbers
    counts: Numbers
    signal: Signal
    overhead_bytes: int

    def payload(self, message: int) -> bytes:
        """Return what one message carries."""
        return self[int(self.ends[message - 1]) if message else 0 : int(self.ends[message])]

    def subject(self, message: int) -> bytes:
        """Return where one message goes."""
        return self.subjects[int(self.subject_of[message])]

    def ident(self, message: int) -> str:
        """Return the id of one message."""
        piece, place = self.pieces[int(self.piece_of[message])], int(self.places[message])
        return piece.ident if place < 0 else f"{piece.key}.{place}"

    def each(self, pack: Callable[[bytes], bytes]) -> Publications:
        """Return the same with each payload packed by itself."""
        payloads = [pack(self.payload(message)) for message in range(len(self.ends))]
        packed = Publications(b"".join(payloads))
        vars(packed).update(vars(self))
        packed.ends = np.cumsum([len(payload) for payload in payloads], dtype=np.int64)
        return packed

    def left(self, mask: Mask) -> PiecesPart:
        """Return what messages are to be sent again, of those that `mask` names."""
        kept: list[Piece] = []
        for number, piece in enumerate(self.pieces):
            mine = mask[self.piece_of == number]
            if mine.all():
                kept.append(piece)
            elif mine.any():
                assert isinstance(piece, ReadingsPiece), "all else goes in one message"
                kept.append(piece.only(mine))
        return PiecesPart(kept, self.signal)


class SomeStoredError(PartlyTakenError):
    """Some messages were stored, those of `left` are to be sent again, of which `maybe` readings may be there already.

    `rejected` readings are never sent again, for the reason that is `said`.
    """

    def __init__(
        self, reason: str, *, left: PiecesPart, taken: int, maybe: int = 0, rejected: int = 0, said: str = "",
        after_s: float = 0.0,
    ) -> None:  # fmt: skip
        InTransitError.__init__(self, reason, after_s)
        self.is_held = False
        self.maybe, self.rejected, self.taken = maybe, rejected, taken
        self._rest, self._said = left, said

    def settle(self, hand: Hand) -> None:
        """Take off the first part of `hand` what has its answer."""
        self.settle_with(hand, self._rest)
