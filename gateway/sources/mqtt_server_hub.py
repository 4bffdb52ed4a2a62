"""What the connections of the MQTT server share, and who has which session. Must not read or write.

A will is handed in from here, since the connection that left it is gone by then.
"""

from __future__ import annotations

import asyncio
import enum
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from gateway.net.mqtt_fields import ReasonCode
from gateway.sources.mqtt_server_intake import MESSAGE_BYTES, Receipt

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.net.mqtt_packets import Connect, Will
    from gateway.sources.mqtt_server_admission import Limits
    from gateway.sources.mqtt_server_auth import Attempts, Doorkeeper
    from gateway.sources.mqtt_server_connection import Connection
    from gateway.sources.mqtt_server_intake import Intake
    from gateway.sources.mqtt_server_session import Session, SessionKey, Sessions

READ_BYTES: Final = 256 * 1024


class State(enum.Enum):
    """How far a connection is."""

    NEW = "new"  # nothing known; waits for CONNECT
    REFUSED = "refused"  # the answer to a wrong password waits
    OPEN = "open"
    ENDING = "ending"  # reads no more; what was taken is still acknowledged
    CLOSING = "closing"  # all is said; waits for the other side to hang up
    CLOSED = "closed"


class Pause(enum.IntFlag):
    """Why nothing is read from a connection now."""

    NONE = 0
    OWN = 1  # it has enough in flight
    SHARED = 2  # the gateway is full, or all connections together have enough in flight
    WRITE = 4  # it does not read its answers
    ENDING = 8


@dataclass(slots=True, kw_only=True, eq=False)
class Hub:
    """What the connections of one server share, handed to each of them."""

    limits: Limits
    intake: Intake
    sessions: Sessions
    doorkeeper: Doorkeeper
    attempts: Attempts
    refuse: Callable[[str, str], None]
    """Count a reason; the sentence is the last error."""
    is_stopping: bool = False
    is_pressed: bool = False
    partial_bytes: int = 0
    topics: dict[bytes, bytes] = field(default_factory=dict)
    buffer: memoryview = field(default_factory=lambda: memoryview(bytearray(READ_BYTES)))
    connections: dict[Connection, None] = field(default_factory=dict)
    connecting: dict[Connection, None] = field(default_factory=dict)
    all_gone: asyncio.Event = field(default_factory=asyncio.Event)
    by_session: dict[SessionKey, Connection] = field(default_factory=dict)

    def now_s(self) -> float:
        """Return the event loop's time; waits and silences are measured by it."""
        return asyncio.get_running_loop().time()

    def forget(self, connection: Connection) -> None:
        """Note that a connection is gone."""
        self.connections.pop(connection, None)
        self.connecting.pop(connection, None)
        if not self.connections:
            self.all_gone.set()

    def open_session(self, connection: Connection, key: SessionKey, connect: Connect) -> tuple[Session, bool]:
        """Give a client its session, and whether it was there before; whoever had it is told to go."""
        earlier = self.by_session.get(key)
        if earlier is not None:
            earlier.end(ReasonCode.SESSION_TAKEN_OVER, f"{earlier!r}: its client id connected again")
        waiting = self.sessions.find(key)
        if waiting is not None and waiting.will is not None:
            if not connect.clean_start:
                waiting.will = None
            self.wake_will(waiting)
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
        if delay_s:
            session.will = will
            session.will_timer = asyncio.get_running_loop().call_later(delay_s, self.wake_will, session)
        else:
            self.publish_will(will)

    def settle(self) -> None:
        """Nobody waits for an answer to a will."""

    def fail(self) -> None:
        """Nobody waits for an answer to a will."""

    def publish_will(self, will: Will) -> None:
        """Hand a will in as an ordinary message."""
        size = len(will.payload) + MESSAGE_BYTES
        self.intake.put(Receipt(self, b"", 1, size), [will.topic], [will.payload])

    def wake_will(self, session: Session) -> None:
        """Hand in a will that has waited, once."""
        will, session.will = session.will, None
        if session.will_timer is not None:
            session.will_timer.cancel()
            session.will_timer = None
        if will is not None:
            self.publish_will(will)
