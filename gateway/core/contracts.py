"""What rooms promise each other: the four errors that cross walls, arrivals, and who may be called how.

Must not import anything from another room, and must not hold behaviour.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING, Final, NamedTuple, NewType, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from gateway.core.batch import ResourceRecords

BootId = NewType("BootId", int)
"""A small number for one run of the kernel between two boots; the store keeps the table (0: not known)."""

DROPPED_BY_MAPPING: Final = "dropped_by_mapping"
"""The reason in the ledger of what a mapping throws away because it is told to: counted, and nobody's loss."""


OVERSIZE: Final = "oversize"
"""The ledger's reason for a message that a source found too large to be taken in."""
BAD_TOPIC: Final = "bad_topic"
"""And for one whose topic cannot be used."""
NO_ROOM: Final = "no_room"
"""And for one that was read, that nobody sends again, and that found no room until its source stopped."""


class Priority(IntEnum):
    """A mapping's `class`: what is sent first and let go last."""

    CRITICAL = 0
    NORMAL = 1
    BULK = 2


class Signal(IntEnum):
    """Which OTLP signal a segment carries."""

    METRICS = 0
    LOGS = 1
    TRACES = 2


class FullError(Exception):
    """There is no room now. Do not acknowledge; offer the same arrivals again after `after_s` seconds."""

    def __init__(self, reason: str, after_s: float = 1.0) -> None:
        super().__init__(reason)
        self.after_s = after_s


class MalformedError(ValueError):
    """This payload will never be understood. `reason` is a short, countable word; the message a sentence."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class TryLaterError(Exception):
    """The same segments may be taken later; wait at least `after_s` seconds (0: your own back-off).

    `answer_lost` is true when the far side may have taken them all the same, so that sending again may
    double. It may be about these alone: others go first for `put_off_s` seconds. `at_once`: there is another way,
    or others can go this one, so that there is nothing to wait for.
    """

    def __init__(self, reason: str, after_s: float = 0.0, *, answer_lost: bool = False, put_off_s: float = 0.0) -> None:
        super().__init__(reason)
        self.after_s = after_s
        self.answer_lost = answer_lost
        self.put_off_s = put_off_s
        self.at_once = False


class RefusedError(Exception):
    """The same segments will never be taken. Set them aside and go on."""


@dataclass(slots=True)
class Arrivals:
    """What a source has read in one go, not yet understood.

    `topics[k]` and `payloads[k]` belong together. A serial line's topic is the source's name, with
    `/channel` behind it where the device names one. `arrived_ns` is the boot's monotonic clock
    (CLOCK_BOOTTIME, ns) at which the buffer was read: one stamp for the whole buffer. `prepared` belongs to
    the pipeline: what it made of the arrivals, kept so that offering them again costs nothing twice. From then
    on `payloads` is empty, since what waits for the disk waits as columns; `len` still counts the messages, and
    `on_prepared` has been called with how many seconds it took to make that of them, if the source wants to know.
    `users` says who sent the messages where a source tells its users apart, in runs of (messages, user); "" is
    somebody without a name. What is scarce is shared out among them.
    `dropped` are messages that the source had answered for and had no room to hold, by reason: they go to the
    ledger with these arrivals, which may be none. `lost` are messages among these that are not to be used: the source
    has taken them only to answer them, and perhaps not whole. `is_last` says that nothing more comes from this sender
    before these are answered: waiting for others to share their commit would only make it wait too.
    """

    source: str
    topics: Sequence[bytes]
    payloads: Sequence[bytes]
    arrived_ns: int
    users: Sequence[tuple[int, str]] = field(default=(), kw_only=True)
    lost: Sequence[Lost] = field(default=(), kw_only=True)
    prepared: object = field(default=None, repr=False, compare=False)
    dropped: Mapping[str, int] = field(default_factory=dict)
    is_last: bool = False
    on_prepared: Callable[[float], None] | None = field(default=None, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.topics)

    @property
    def size_bytes(self) -> int:
        """Bytes of payloads, for the queues' bounds."""
        return sum(map(len, self.payloads))


class Lost(NamedTuple):
    """What of one payload cannot be used: index `at` in the arrivals, a countable `reason`, a `sentence` for people.

    `readings` says how many are lost by that; a payload that is lost whole is one.
    """

    at: int
    reason: str
    sentence: str
    readings: int = 1


@dataclass(slots=True)
class Accepted:
    """What became of arrivals that are now on disk and may be acknowledged, all of them.

    `malformed` is set aside in the quarantine, counted in the ledger, and acknowledged with the rest so that it
    doesn't poison the session.
    """

    readings: int
    malformed: list[Lost] = field(default_factory=list)


class Accept(Protocol):
    """The one door into the gateway.

    Returns when the group commit that holds the arrivals has been fsynced. Raises FullError when there is
    no room: then nothing of them was kept, nothing may be acknowledged, and the same may be offered again.
    """

    async def __call__(self, arrivals: Arrivals, /) -> Accepted:
        """Take `arrivals`."""
        ...


@dataclass(slots=True)
class Messages:
    """OTLP messages of one signal that a program sent in one request, and that are kept as they came.

    `records` are without a time: `arrived_ns` is the boot's monotonic clock, as with `Arrivals`. `dropped` are readings
    of the same request that cannot be kept, by reason: they go to the ledger, and their sender is told.
    """

    source: str
    records: ResourceRecords
    priority: Priority
    arrived_ns: int
    dropped: Mapping[str, int] = field(default_factory=dict)


class AcceptMessages(Protocol):
    """The door for what needs no mapping.

    Returns when the group commit that holds the messages has been fsynced. Raises FullError when there is no room: then
    nothing of them was kept, and nothing may be said of them but that.
    """

    async def __call__(self, messages: Messages, /) -> None:
        """Take `messages`."""
        ...
