"""What the connections of the MQTT server share, and who has which session. Must not read or write.

A will is handed in from here, since the connection that left it is gone by then. Nobody sends it again, and no
connection can be held back for it: so what wills may take is bounded here, on their way to the disk too.
"""

from __future__ import annotations

import asyncio
import enum
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from gateway.net.mqtt_fields import PacketType, ReasonCode
from gateway.net.mqtt_packets import answer_bytes
from gateway.sources.mqtt_server_holdings import Holdings
from gateway.sources.mqtt_server_intake import MESSAGE_BYTES, Receipt
from gateway.sources.mqtt_server_line import (
    READ_BYTES,
    READ_BYTES_FIRST,
    READ_BYTES_MIN,
    WRITE_BYTES_MAX,
    WRITE_BYTES_MIN,
    Pause,
)
from gateway.sources.mqtt_server_partials import Partials
from gateway.sources.mqtt_server_talk import TALK_MAX, Talkers

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.net.mqtt_packets import Connect, Will
    from gateway.sources.mqtt_server_admission import Limits
    from gateway.sources.mqtt_server_auth import Attempts, Authenticator
    from gateway.sources.mqtt_server_connection import Connection
    from gateway.sources.mqtt_server_intake import Intake
    from gateway.sources.mqtt_server_session import Session, SessionKey, Sessions

# How long one look at a connection should take: packets that are dear for their bytes are read in smaller portions.
# Each loop of events looks once at everybody, so what one look takes is what all others wait for.
LOOK_S_MAX: Final = 0.01
# A look that found its portion full makes the next one so much larger.
LOOK_GROWTH: Final = 4
# A rest is so much of what answers take, and not worth a timer below so many seconds.
REST_SHARE: Final = 4
REST_S_MIN: Final = 0.01
# What all wills that wait for their delay may take together; one more is said at once. As much again may be on its
# way to the disk, in no more wills than there may be connections: a fleet that goes dark at once leaves one each.
WILL_BYTES_MAX: Final = 1024 * 1024
# The ledger's reason for one more.
WILL_DROPPED: Final = "will_dropped"


class State(enum.Enum):
    """How far a connection is."""

    NEW = "new"  # nothing known; waits for CONNECT
    REFUSED = "refused"  # the answer to a wrong password waits
    OPEN = "open"
    ENDING = "ending"  # reads no more; what was taken is still acknowledged
    CLOSING = "closing"  # all is said; waits for the other side to hang up
    CLOSED = "closed"


@dataclass(slots=True, kw_only=True, eq=False)
class Hub:
    """What the connections of one server share, handed to each of them."""

    limits: Limits
    intake: Intake
    sessions: Sessions
    authenticator: Authenticator
    attempts: Attempts
    refuse: Callable[[str, str], None]
    """Count a reason; the sentence is the last error."""
    is_stopping: bool = False
    is_pressed: bool = False
    partials: Partials = field(default_factory=Partials)
    kept: Holdings = field(default_factory=Holdings)
    """What connections keep as long as they are open: wills, topic aliases, the ids of QoS 2 messages."""
    unread: Holdings = field(default_factory=Holdings)
    """Answers that wait for those who do not read."""
    talkers: Talkers = field(default_factory=Talkers)
    will_bytes: int = 0
    """What the wills that wait for their delay take."""
    wills_offered: int = 0
    """How many wills are on their way to the disk, and what these take."""
    will_bytes_offered: int = 0
    topics: dict[bytes, bytes] = field(default_factory=dict)
    """What the connections' scanners have checked; and below that the same of property blocks."""
    blocks: dict[bytes, int] = field(default_factory=dict)
    buffer: memoryview = field(default_factory=lambda: memoryview(bytearray(READ_BYTES)))
    connections: dict[Connection, None] = field(default_factory=dict)
    connecting: dict[Connection, None] = field(default_factory=dict)
    """Those that have not said who they are; and below those that were nobody, and those to whom all is said."""
    refused: dict[Connection, None] = field(default_factory=dict)
    closing: dict[Connection, None] = field(default_factory=dict)
    all_gone: asyncio.Event = field(default_factory=asyncio.Event)
    by_session: dict[SessionKey, Connection] = field(default_factory=dict)
    resting: list[Connection] = field(default_factory=list)

    def rest(self, connection: Connection) -> None:
        """Let a connection that sends little at a time rest a moment, so that the next look finds several messages.

        Waking up costs a cold processor more than a dozen messages do. No answer comes later for it: what was read
        waits for its commit, of which a rest is a quarter at most, and the answer ends the rest.
        """
        rest_s = min(self.limits.coalesce_s, self.intake.wait_s / REST_SHARE)
        if rest_s < REST_S_MIN:
            return
        if not self.resting:
            asyncio.get_running_loop().call_later(rest_s, self._wake)
        self.resting.append(connection)
        connection.pause(Pause.REST)

    def _wake(self) -> None:
        resting, self.resting = self.resting, []
        # What they have sent meanwhile is found in one turn of the loop.
        self.intake.is_round = True
        for connection in resting:
            connection.resume(Pause.REST)

    def looked(self, connection: Connection, size_bytes: int, *, portion: int, talk: int) -> int:
        """Note that bytes of a connection were looked at since it was heard; return how many to read the next time.

        Whoever was looked at is last in line when all may go on after a pause: some that have much to say would
        otherwise use up what room there is each time, before the others' turn. Whoever has said `talk` things that
        are no messages may have to stand in line.
        """
        if connection in self.connections:
            self.connections[connection] = self.connections.pop(connection)
        took_s = self.now_s() - connection.heard_s
        if talk > TALK_MAX and connection.state is State.OPEN:
            self.talkers.wait(connection, took_s=took_s)
            portion = min(portion, READ_BYTES_FIRST)
        elif size_bytes >= portion:
            portion = min(READ_BYTES, LOOK_GROWTH * portion)
        if took_s > LOOK_S_MAX:
            return min(portion, max(READ_BYTES_MIN, int(size_bytes * LOOK_S_MAX / took_s)))
        return portion

    def in_turn(self) -> list[Connection]:
        """Return all connections in the order in which they may go on after a pause: one of each owner, then the next.

        Whoever was looked at least recently is first, of the owners and of the connections of each: who has a hundred
        gets no more of the room there is than who has one.
        """
        by_owner: dict[tuple[str, str], list[Connection]] = {}
        for connection in self.connections:
            # Taken out and put in again: an owner's place is that of its last one.
            of_one = by_owner.pop(connection.owner, [])
            of_one.append(connection)
            by_owner[connection.owner] = of_one
        places = [
            (turn, rank, connection)
            for rank, of_one in enumerate(by_owner.values())
            for turn, connection in enumerate(of_one)
        ]
        return [connection for *_, connection in sorted(places, key=lambda place: place[:2])]

    def now_s(self) -> float:
        """Return the event loop's time; waits and silences are measured by it."""
        return asyncio.get_running_loop().time()

    def forget(self, connection: Connection) -> None:
        """Note that a connection is gone."""
        self.connections.pop(connection, None)
        self.place(connection, State.CLOSED)
        self.talkers.forget(connection)
        self.unread.weigh(connection, 0)
        if not self.connections:
            self.all_gone.set()

    def place(self, connection: Connection, state: State) -> None:
        """Note how far a connection is, for whoever has to make room."""
        for state_then, those in (
            (State.NEW, self.connecting),
            (State.REFUSED, self.refused),
            (State.CLOSING, self.closing),
        ):
            if state is state_then:
                those[connection] = None
            else:
                those.pop(connection, None)

    def weigh_partial(self, connection: Connection, held: int, *, fed: int) -> None:
        """Note what a connection holds of an unfinished packet; whoever holds most goes, strangers first."""
        self.partials.weigh(connection, held, fed=fed, now_s=self.now_s())
        while self.partials.total > self.limits.partial_bytes_max:
            largest = self.partials.largest(self.connecting)
            self.partials.weigh(largest, 0)
            largest.end(ReasonCode.QUOTA_EXCEEDED, "unfinished packets hold too much memory", reason="partial_packets")

    def weigh_kept(self, connection: Connection, kept: int) -> None:
        """Note what a connection keeps; whoever keeps most goes where it is too much."""
        self.kept.weigh(connection, kept)
        while self.kept.total > self.limits.kept_bytes_max:
            largest = self.kept.largest()
            self.kept.weigh(largest, 0)
            largest.end(
                ReasonCode.QUOTA_EXCEEDED, "wills, topic aliases and open QoS 2 messages are too many", reason="kept"
            )

    @property
    def write_bytes_max(self) -> int:
        """How much may wait for one more connection before nothing is read of it."""
        share = self.limits.unread_bytes_max // (len(self.connections) + 1)
        return max(WRITE_BYTES_MIN, min(share, WRITE_BYTES_MAX))

    def weigh_unread(self, connection: Connection, held: int) -> None:
        """Note how much waits for a connection that does not read; whoever lets most wait goes where it is too much."""
        self.unread.weigh(connection, held)
        while self.unread.total > self.limits.unread_bytes_max:
            largest = self.unread.largest()
            self.unread.weigh(largest, 0)
            largest.drop("answers_not_read", "does not read its answers, and too many wait to be read")

    @property
    def topic_alias_max(self) -> int:
        """How many topic aliases a client may have that connects now; none where others keep much already."""
        return self.limits.topic_alias_max if 2 * self.kept.total <= self.limits.kept_bytes_max else 0

    def has_place(self, key: SessionKey, owner: tuple[str, str]) -> bool:
        """Whether somebody who is known now may stay; where all places are taken, whoever has most may lose one."""
        if len(self.by_session) < self.limits.connections_max or key in self.by_session:
            return True
        spare = self._to_spare(owner)
        if spare is None:
            return False
        self.refuse("connections_of_one", f"{spare!r} made room: its owner has most of all connections")
        is_idle = spare.is_idle
        spare.end(ReasonCode.QUOTA_EXCEEDED)
        if is_idle:
            spare.abort()
        return True

    def _to_spare(self, owner: tuple[str, str]) -> Connection | None:
        """Return the connection that is silent for longest, of whoever has most of them.

        None if that is no more than `owner` has, who wants one more: or two would push out each other without end. Of
        more than half of all places one goes to whoever comes, the same owner too, unless each waits for an answer.
        """
        by_owner: defaultdict[tuple[str, str], list[Connection]] = defaultdict(list)
        for connection in self.by_session.values():
            by_owner[connection.owner].append(connection)
        most = max(by_owner.values(), key=len, default=[])
        candidates = [connection for connection in most if connection.is_idle]
        if len(most) > len(by_owner.get(owner, ())):
            candidates = candidates or most
        elif 2 * len(most) <= self.limits.connections_max:
            return None
        return min(candidates, key=lambda connection: connection.heard_s, default=None)

    def open_session(self, connection: Connection, key: SessionKey, connect: Connect) -> tuple[Session, bool]:
        """Give a client its session, and whether it was there before; whoever had it is told to go."""
        earlier = self.by_session.get(key)
        if earlier is not None:
            earlier.end(ReasonCode.SESSION_TAKEN_OVER, "its client id connected again")
        waiting = self.sessions.find(key)
        if waiting is not None and waiting.will is not None:
            will = self._take_will(waiting)
            if connect.clean_start:
                self.publish_will(will, user=key[0])
        opened = self.sessions.open(key, connect, expiry_s_max=self.limits.session_expiry_s_max, now_s=self.now_s())
        self.by_session[key] = connection
        return opened

    def close_session(self, connection: Connection, session: Session, will: Will | None) -> None:
        """Take a session back from a connection that ends, and see to its will, if that is to be said."""
        if self.by_session.get(session.key) is connection:
            del self.by_session[session.key]
        self.sessions.close(session, now_s=self.now_s())
        # When it is the gateway that leaves, nothing is known of the device.
        if will is None or self.is_stopping:
            return
        delay_s = min(will.delay_s, session.expiry_s)
        size = will_size(will)
        if delay_s and self.will_bytes + size > WILL_BYTES_MAX:
            self.refuse("wills_waiting", "too many wills wait; one was said before its delay was over")
            self.publish_will(will, user=session.key[0])
        elif delay_s:
            self.will_bytes += size
            session.will = will
            session.will_timer = asyncio.get_running_loop().call_later(delay_s, self.wake_will, session)
        else:
            self.publish_will(will, user=session.key[0])

    def remember(self, receipt: Receipt, *, of: Connection) -> None:
        """Note QoS 2 messages as kept; tell a newer connection of the client that has sent them again."""
        assert receipt.session is not None
        owed = receipt.session.keep(receipt.exactly_once)
        now_here = self.by_session.get(receipt.session.key)
        if now_here is not None and now_here is not of:
            now_here.write(b"".join(answer_bytes(PacketType.PUBREC, packet_id) for packet_id in owed))

    def lose(self, receipt: Receipt) -> None:
        """Note QoS 2 messages as not kept; a newer connection that has sent them again must do so once more."""
        assert receipt.session is not None
        now_here = self.by_session.get(receipt.session.key)
        if receipt.session.lose(receipt.exactly_once) and now_here is not None:
            now_here.abort()

    def publish_will(self, will: Will, *, user: str) -> None:
        """Hand a will in as an ordinary message of the user who left it, or drop it where too many are on their way.

        A will was never acknowledged as stored, but the CONNACK has said that the server has it (section
        3.1.2.5), and whoever left it is gone: one that is dropped is a loss like any other and stands in the
        ledger, not only among what was refused. So does one that fails by a mistake of ours.
        """
        size = will_size(will)
        if self.wills_offered >= self.limits.wills_max or self.will_bytes_offered + size > WILL_BYTES_MAX:
            self.refuse(WILL_DROPPED, "too many wills wait for the disk; one was dropped")
            self.intake.drop(WILL_DROPPED)
            return
        self.wills_offered += 1
        self.will_bytes_offered += size
        self.intake.put(Receipt(_OfferedWill(self, size), b"", 1, size, user=user), [will.topic], [will.payload])

    def wake_will(self, session: Session) -> None:
        """Hand in a will that has waited, once."""
        if session.will is not None:
            self.publish_will(self._take_will(session), user=session.key[0])

    def _take_will(self, session: Session) -> Will:
        will, session.will = session.will, None
        assert will is not None
        if session.will_timer is not None:
            session.will_timer.cancel()
            session.will_timer = None
            self.will_bytes -= will_size(will)
        return will


@dataclass(slots=True, eq=False)
class _OfferedWill:
    """A will on its way to the disk. Nobody waits for an answer; its room is given back."""

    hub: Hub
    size: int

    def settle(self) -> None:
        """Give the room back."""
        self.hub.wills_offered -= 1
        self.hub.will_bytes_offered -= self.size

    def fail(self) -> None:
        """Give the room back; the will is lost."""
        self.settle()
        self.hub.intake.drop(WILL_DROPPED)


def will_size(will: Will) -> int:
    """Return what a will takes in memory."""
    return len(will.topic) + len(will.payload) + MESSAGE_BYTES
