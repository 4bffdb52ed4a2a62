"""A PUBLISH that is larger than may be taken, while it is read past. Must keep no more of it than a glimpse."""

from __future__ import annotations

from typing import Final

from gateway.net.mqtt_fields import read_binary, read_variable_integer

# How much of the payload is kept, for people who ask what it was.
GLIMPSE_BYTES: Final = 1024
_ID_BYTES: Final = 2
_QOS: Final = 0x06


class Oversize:
    """One of `packet_bytes` whose topic's length stands at `body`; `take` it until none is `left`.

    Held is its beginning: header, topic, packet id, and a glimpse of what follows.
    """

    __slots__ = ("_body", "_head", "left", "packet_bytes")

    def __init__(self, *, packet_bytes: int, body: int) -> None:
        self.packet_bytes = packet_bytes
        self.left = packet_bytes
        self._body = body
        self._head = bytearray()

    @property
    def bytes_held(self) -> int:
        """Bytes of it that are kept."""
        return len(self._head)

    @property
    def is_known(self) -> bool:
        """Whether there is a `glimpse`."""
        return len(self._head) == self._head_bytes

    @property
    def _head_bytes(self) -> int:
        topic_at = self._body + 2
        if len(self._head) < topic_at:
            return topic_at
        topic_bytes = int.from_bytes(self._head[self._body : topic_at], "big")
        return min(topic_at + topic_bytes + _ID_BYTES + GLIMPSE_BYTES, self.packet_bytes)

    def take(self, data: bytes, position: int) -> int:
        """Take what is at `position`; return where it ends there, or the end of `data`."""
        end = position + min(self.left, len(data) - position)
        self.left -= end - position
        # Twice: the first bytes say how long the topic is.
        for _ in range(2):
            part = data[position : min(end, position + self._head_bytes - len(self._head))]
            self._head += part
            position += len(part)
        return end

    def glimpse(self, *, has_properties: bool) -> tuple[bytes, int, int]:
        """Return a PUBLISH that says the beginning of this one, and where its body begins and ends.

        Of properties it says none. Raises ProtocolError where topic or packet id are not there.
        """
        head = bytes(self._head)
        if has_properties:
            _, at = read_binary(head, self._body, len(head))
            at += _ID_BYTES if head[0] & _QOS else 0
            length, after = read_variable_integer(head, at, len(head))
            head = head[:at] + b"\0" + head[after + length :]
        return head, self._body, len(head)
