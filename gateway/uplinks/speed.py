"""How fast a way is, as an uplink's own sends show it: bytes a second, and the round trip. Does no I/O.

A small request takes as long as the way there and back and the receiver's own time, so its bytes by its seconds say
little of the line. What each takes whatever its size is found by how the time grows with the size (pacing.Toll), and
left out. The round trip is the kernel's, of packets and their acknowledgements: what the receiver thinks is not in it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from gateway.uplinks.pacing import Toll

if TYPE_CHECKING:
    from gateway.uplinks.guards import Answer

# How many ways are told apart: an uplink names eight links at most.
WAYS_MAX: Final = 8


@dataclass(slots=True)
class Speed:
    """One way's."""

    round_trip_s: float = 0.0
    _toll: Toll = field(default_factory=Toll)
    _size_bytes: int = 0

    def sent(self, size_bytes: int, answer: Answer) -> None:
        """Learn from a request of so many bytes that was answered."""
        if answer.seconds > 0 and size_bytes:
            self._toll.measured(size_bytes, answer.seconds)
            self._size_bytes = size_bytes
        # The kernel has smoothed it already.
        self.round_trip_s = answer.round_trip_s or self.round_trip_s

    @property
    def fixed_s(self) -> float:
        """How long a request takes whatever its size: the way, the receiver, and who answers packets in between."""
        return self._toll.fixed_s

    @property
    def goodput(self) -> float:
        """Bytes of requests that it takes in a second; 0 where nothing is known yet."""
        own_s = self._toll.expected_s(self._size_bytes) - self._toll.fixed_s
        return self._size_bytes / own_s if own_s > 0 else 0.0


class Speeds:
    """One uplink's, by the link that it used; `current` is that of the last request."""

    def __init__(self) -> None:
        self.current = Speed()
        self._by_link: dict[str, Speed] = {"": self.current}

    def sent(self, size_bytes: int, answer: Answer) -> None:
        """Learn from a request of so many bytes that was answered."""
        found = self._by_link.get(answer.link)
        if found is None:
            if len(self._by_link) > WAYS_MAX:
                self._by_link.clear()
            found = self._by_link[answer.link] = Speed()
        self.current = found
        found.sent(size_bytes, answer)

    def told(self) -> dict[str, object]:
        """Return this as `tidegate status` shows it."""
        speed = self.current
        return {
            "goodput_bytes_s": round(speed.goodput),
            "round_trip_s": round(speed.round_trip_s, 4),
            "request_fixed_s": round(speed.fixed_s, 3),
        }
