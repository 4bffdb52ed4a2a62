"""What the MQTT server remembers of a client between connections. Does no I/O.

Since nothing is ever sent to a client, a session is little: the packet ids of QoS 2 messages that are kept
and not yet released, and a will that waits. It lives in memory only. After a crash or a restart of the
gateway a client is told that its session is gone; what it then sends again is taken again: so QoS 2 is
exactly once while the gateway runs, and at least once across its crash.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeAlias

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterable

    from gateway.net.mqtt_packets import Connect, Will

SessionKey: TypeAlias = "tuple[str, bytes]"
"""User and client id: an id means nothing to another user, so nobody can push somebody else out."""

# Ids by page; what a page takes in memory, with its place, and what the first one costs beside that.
PAGE_IDS: Final = 1024
PAGE_BYTES: Final = 256
# What packet ids may take that were left by clients that are gone.
GONE_IDS_BYTES_MAX: Final = 1 << 20


class PacketIdSet:
    """A set of packet ids: half a kilobyte for a few in a row, 16 KiB for all that there are."""

    __slots__ = ("_count", "_pages")

    def __init__(self) -> None:
        self._pages: dict[int, int] = {}  # bits by page
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __contains__(self, packet_id: bytes) -> bool:
        page, bit = divmod(int.from_bytes(packet_id, "big"), PAGE_IDS)
        return bool(self._pages.get(page, 0) >> bit & 1)

    @property
    def size_bytes(self) -> int:
        """How much memory it takes."""
        return PAGE_BYTES * (len(self._pages) + 1) if self._pages else 0

    def add(self, packet_id: bytes) -> None:
        """Add one; adding it twice is adding it once."""
        if packet_id in self:
            return
        page, bit = divmod(int.from_bytes(packet_id, "big"), PAGE_IDS)
        self._pages[page] = self._pages.get(page, 0) | 1 << bit
        self._count += 1

    def discard(self, packet_id: bytes) -> bool:
        """Take one out; return whether it was there. The last one gives the memory back."""
        if packet_id not in self:
            return False
        page, bit = divmod(int.from_bytes(packet_id, "big"), PAGE_IDS)
        self._pages[page] ^= 1 << bit
        self._count -= 1
        if not self._pages[page]:
            del self._pages[page]
        if not self._count:
            self._pages = {}
        return True


@dataclass(slots=True)
class Session:
    """One client's memory. `offered` QoS 2 messages are on their way to disk, `kept` ones are there.

    `owed` are ids that a new connection has sent again while they were still offered by an earlier one.
    """

    key: SessionKey
    expiry_s: int = 0
    is_connected: bool = False
    expires_at_s: float = 0.0
    kept: PacketIdSet = field(default_factory=PacketIdSet)
    offered: set[bytes] = field(default_factory=set)
    owed: set[bytes] = field(default_factory=set)
    will: Will | None = None
    will_timer: asyncio.TimerHandle | None = None

    @property
    def ids_bytes(self) -> int:
        """What its packet ids take, or may take when all that is on its way is kept."""
        return self.kept.size_bytes + PAGE_BYTES * len(self.offered)

    def keep(self, packet_ids: Iterable[bytes]) -> list[bytes]:
        """Note QoS 2 messages as being on disk; return those that were sent again meanwhile."""
        owed: list[bytes] = []
        for packet_id in packet_ids:
            self.offered.discard(packet_id)
            self.kept.add(packet_id)
            if packet_id in self.owed:
                self.owed.discard(packet_id)
                owed.append(packet_id)
        self._give_back()
        return owed

    def lose(self, packet_ids: Iterable[bytes]) -> bool:
        """Note that QoS 2 messages were not kept; return whether one of them was sent again meanwhile."""
        lost = set(packet_ids)
        was_owed = not self.owed.isdisjoint(lost)
        self.offered -= lost
        self.owed -= lost
        self._give_back()
        return was_owed

    def _give_back(self) -> None:
        """Give memory back: a set takes what it took when it was largest, and a session may be remembered for days."""
        self.offered = self.offered or set()
        self.owed = self.owed or set()


class Sessions:
    """All sessions of a server, at most `sessions_max`: past that one goes of whoever has most, the next to expire.

    So no user's clients push out another's. The same where the packet ids of those whose client is gone take more than
    GONE_IDS_BYTES_MAX. A session that ends here may have a will that waits: `on_evicted`, or whoever calls `expire`,
    has to see to it.
    """

    def __init__(self, *, sessions_max: int, on_evicted: Callable[[Session], None]) -> None:
        self._sessions: dict[SessionKey, Session] = {}
        self._sessions_max = sessions_max
        self._on_evicted = on_evicted
        self._gone_with_ids: dict[SessionKey, int] = {}  # what these take
        self._gone_ids_bytes = 0

    def __len__(self) -> int:
        return len(self._sessions)

    def find(self, key: SessionKey) -> Session | None:
        """Return what is remembered of a client."""
        return self._sessions.get(key)

    def open(self, key: SessionKey, connect: Connect, *, expiry_s_max: int, now_s: float) -> tuple[Session, bool]:
        """Return the session of a client that connects, and whether it was there before.

        The caller has ended an earlier connection of the same key, and seen to a will that waits.
        """
        found = self._sessions.pop(key, None)
        is_resumed = found is not None and not connect.clean_start and found.expires_at_s > now_s
        session = found if found is not None and is_resumed else Session(key)
        session.expiry_s = min(connect.session_expiry_s, expiry_s_max)
        session.is_connected = True
        # The connection that sent them again is gone. Once this one has, it is answered; before that it would be twice.
        session.owed.clear()
        self._sessions[key] = session
        self._weigh_gone(key, 0)
        if len(self._sessions) > self._sessions_max:
            self._evict(session for session in self._sessions.values() if not session.is_connected)
        return session, is_resumed

    def close(self, session: Session, *, now_s: float) -> None:
        """Note that the client has gone; the session waits for it as long as it asked for."""
        session.is_connected = False
        session.expires_at_s = now_s + session.expiry_s
        if self._sessions.get(session.key) is not session:
            return
        if not session.expiry_s:
            del self._sessions[session.key]
        elif session.ids_bytes:
            self._weigh_gone(session.key, session.ids_bytes)
            # Not this one: whoever closes it may still have its will to see to.
            while self._gone_ids_bytes > GONE_IDS_BYTES_MAX and len(self._gone_with_ids) > 1:
                self._evict(self._sessions[key] for key in self._gone_with_ids if key != session.key)

    def expire(self, *, now_s: float) -> list[Session]:
        """Forget and return sessions whose time is over."""
        over = [s for s in self._sessions.values() if not s.is_connected and s.expires_at_s <= now_s]
        for session in over:
            self._forget(session)
        return over

    def waiting_wills(self) -> list[Session]:
        """Return the sessions whose client is gone and whose will is still to be said."""
        return [session for session in self._sessions.values() if session.will is not None]

    def _evict(self, candidates: Iterable[Session]) -> None:
        waiting = list(candidates)
        if waiting:
            of_user = Counter(session.key[0] for session in waiting)
            first = min(waiting, key=lambda session: (-of_user[session.key[0]], session.expires_at_s))
            self._forget(first)
            self._on_evicted(first)

    def _forget(self, session: Session) -> None:
        del self._sessions[session.key]
        self._weigh_gone(session.key, 0)

    def _weigh_gone(self, key: SessionKey, size_bytes: int) -> None:
        self._gone_ids_bytes += size_bytes - self._gone_with_ids.pop(key, 0)
        if size_bytes:
            self._gone_with_ids[key] = size_bytes
