"""One request as messages that a broker answers one by one: what is next, under way, taken, refused. Must not send.

    waiting → under way → taken
       ↑          │    └→ refused
       └──────────┴ the broker asks for it later, or the connection broke

What a connection took with it when it broke may have been taken, and goes again: exactly those messages whose last byte
was handed to it and whose answer had not come. With QoS 1 a broker keeps nothing of a message that it has answered or
not: to it one that comes again is a new one, DUP or not, whoever's session it is (MQTT 5.0 section 4.3.2). So there is
no session to be resumed, and what is sent again on the next connection is counted as possibly twice.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

import numpy as np

from gateway.core.batch import distinct, is_among
from gateway.net.mqtt_fields import ProtocolError, ReasonCode
from gateway.uplinks.bridge_reasons import REFUSED_FROM, is_later

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    from gateway.core.ragged import Numbers
    from gateway.net.mqtt_bulk import Acks, Packets

    Mask = npt.NDArray[np.bool_]

WAITING: Final = 0
UNDER_WAY: Final = 1
TAKEN: Final = 2
REFUSED: Final = 3
LATER: Final = 4

MESSAGES_AT_ONCE: Final = 1024
# What says no to a topic and not to the message; so many of them are remembered.
ABOUT_TOPICS: Final = frozenset({ReasonCode.NOT_AUTHORIZED, ReasonCode.TOPIC_NAME_INVALID})
TOPICS_MAX: Final = 1024
# So many are refused until it seems that none is taken.
REFUSED_MAX: Final = 64
IDS: Final = 65_535
# So many for each place in the window: one whose answer is late holds up nobody soon.
IDS_PER_PLACE: Final = 4


class Shipment:
    """The messages of one request, to a broker that takes `window` at a time and none over `packet_bytes_max`.

    Where nothing `is_answered`, with QoS 0, `read` says that the broker has read all that was under way. With
    `keeps_unheard` what nobody subscribes to is not taken.
    """

    def __init__(
        self, packets: Packets, *, is_answered: bool, window: int, packet_bytes_max: int, keeps_unheard: bool = False
    ) -> None:
        self.unheard = 0  # messages that the broker took and nobody wants
        self.reasons: Counter[int] = Counter()  # of those that were refused, or asked for later
        self.last_refused = -1  # one of them
        self.under_way = 0
        self._packets = packets
        self._is_answered = is_answered
        self._keeps_unheard = keeps_unheard
        self._window = window
        self._sizes = packets.sizes
        self._states = np.zeros(len(packets), np.uint8)
        too_large = self._sizes > packet_bytes_max
        if too_large.any():
            self._refuse(
                np.flatnonzero(too_large), np.full(int(too_large.sum()), ReasonCode.PACKET_TOO_LARGE, np.uint8)
            )
        self._order = np.flatnonzero(self._states == WAITING)
        self._next = 0
        self._taken = self._refused = 0
        self._message_of = np.full(min(IDS, IDS_PER_PLACE * window, len(packets)) + 1, -1, np.int64)
        self._last_id = 0
        self._portion = self._order[:0]
        self.perhaps = 0  # messages under way when earlier connections broke, which went again on this one
        self._refused_topics: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._states)

    @property
    def is_done(self) -> bool:
        """Whether nothing is under way and nothing more is to leave."""
        return not self.under_way and (self._next == len(self._order) or self._is_over)

    @property
    def _is_over(self) -> bool:
        """Whether the broker wants no more now, or has refused so many and taken none that it would refuse them all."""
        return any(map(is_later, self.reasons)) or (not self._taken and self._refused >= REFUSED_MAX)

    @property
    def is_refused(self) -> bool:
        """Whether the broker has refused any."""
        return self._refused > 0

    @property
    def may_go(self) -> bool:
        """Whether more may leave now: half of a window at a time, so that they leave together."""
        left, room = len(self._order) - self._next, self._window - self.under_way
        is_worth = left > 0 and room > 0 and room >= min(left, self._window // 2)
        # One whose answer is late keeps its id.
        return (
            is_worth
            and not self._is_over
            and int(self._message_of[self._last_id % (len(self._message_of) - 1) + 1]) < 0
        )

    def portion(self, bytes_max: int) -> tuple[int, Iterator[bytes | memoryview[int]]]:
        """Return what leaves next, under way from here on: how many messages, and their packets.

        It is one message at least, and more where they stay within `bytes_max` together.
        """
        assert self.may_go
        room = min(self._window - self.under_way, MESSAGES_AT_ONCE, len(self._message_of) - 1)
        which = self._order[self._next : self._next + room]
        sizes = np.cumsum(self._sizes[which])
        which = which[: max(1, int(np.searchsorted(sizes, bytes_max, side="right")))]
        ids = (np.arange(self._last_id, self._last_id + len(which)) % (len(self._message_of) - 1) + 1).astype(np.uint16)
        if self._is_answered:
            is_free = self._message_of[ids] < 0
            count = len(ids) if is_free.all() else int(is_free.argmin())
            ids, which = ids[:count], which[:count]
            self._message_of[ids] = which
        self._last_id = int(ids[-1])
        self._states[which] = UNDER_WAY
        self._next += len(which)
        self.under_way += len(which)
        self._portion = which
        return len(which), self._packets.write(which, ids)

    def handed(self, size_bytes: int) -> None:
        """Take note that only so many bytes of the last portion were handed over: what is behind them has not left."""
        count = int(np.searchsorted(np.cumsum(self._sizes[self._portion]), size_bytes, side="right"))
        left = self._portion[count:]
        self._next -= len(left)
        left = left[self._states[left] == UNDER_WAY]
        self._states[left] = WAITING
        self.under_way -= len(left)

    def answered(self, acks: Acks) -> None:
        """Take note of PUBACKs; raise ProtocolError for one that nobody waits for."""
        ids = acks.ids
        which = self._message_of[ids] if int(ids.max()) < len(self._message_of) else np.array([-1])
        if int(which.min()) < 0 or len(distinct(which)) < len(which):
            raise ProtocolError(ReasonCode.PACKET_ID_NOT_FOUND, "the broker acknowledges what was not sent")
        self._message_of[ids] = -1
        self.under_way -= len(which)
        self._states[which] = TAKEN
        is_unheard = acks.codes == ReasonCode.NO_MATCHING_SUBSCRIBERS
        is_refused = acks.codes >= REFUSED_FROM
        if self._keeps_unheard:
            is_refused |= is_unheard
        else:
            self.unheard += int(np.count_nonzero(is_unheard))
        if is_refused.any():
            self._refuse(which[is_refused], acks.codes[is_refused])
            self._refused += int(is_refused.sum())
            for message, code in zip(which[is_refused].tolist(), acks.codes[is_refused].tolist(), strict=True):
                if code in ABOUT_TOPICS and len(self._refused_topics) < TOPICS_MAX:
                    self._refused_topics[self._packets.topic_number(message)] = code
        self._taken += int(np.count_nonzero(~is_refused))

    def read(self) -> None:
        """Take note that the broker has read all that is under way."""
        is_under_way = self._states == UNDER_WAY
        self._states[is_under_way] = TAKEN
        self._taken += self.under_way
        self.under_way = 0

    def resume(self) -> None:
        """Begin anew on another connection, with what has no answer; not with topics that were refused.

        A broker that hangs up when it refuses (mosquitto 2.0.11 does) would do so at each message of such a topic.
        """
        self.perhaps += int(self.among(UNDER_WAY).sum())
        self._states[self._states == UNDER_WAY] = WAITING
        for topic, code in self._refused_topics.items():
            same = np.flatnonzero((self._states == WAITING) & self._packets.has_topic(topic))
            if len(same):
                self._refuse(same, np.full(len(same), code, np.uint8))
        self._order, self._next, self.under_way = np.flatnonzero(self._states == WAITING), 0, 0
        self._message_of.fill(-1)

    def among(self, *states: int) -> Mask:
        """Return which messages are in one of `states`."""
        return is_among(self._states, np.array(sorted(states), np.uint8))

    def topic(self, message: int) -> bytes:
        """Return the topic of a message."""
        return self._packets.topic(message)

    def _refuse(self, which: Numbers, codes: npt.NDArray[np.uint8]) -> None:
        for code, count in Counter(codes.tolist()).items():
            self._states[which[codes == code]] = LATER if is_later(code) else REFUSED
            self.reasons[code] += count
        self.last_refused = int(which[-1])
