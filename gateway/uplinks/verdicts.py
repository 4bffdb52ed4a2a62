"""Whether what was refused is given up: a refusal may be about the data, or about a road that takes nothing. No I/O.

By OTLP's rules each refusal is final for the data in it. But a receiver out of memory that answers 500, a wrong port
or a proxy with a limit of its own refuse whatever comes, and by the rules a week's backlog would be in the ledger
within seconds. So a few may go in a row; after that nothing is given up until something was taken.

| answer              | given up                                               | in a row at most |
| ------------------- | ------------------------------------------------------ | ---------------- |
| 4xx                 | at once                                                | 3 requests       |
| 5xx                 | when the same data met it again and again              | 1 request        |
| 413 for one reading | at once                                                | 8 readings       |
"""

from __future__ import annotations

from typing import Final

from gateway.core.contracts import TryLaterError
from gateway.uplinks.guards import HoldError

REFUSED_MAX: Final = 3
FAILED_MAX: Final = 1
TOO_LARGE_MAX: Final = 8
# How often the same data meets a server's own error until it counts as its cause; with back-off that is some minutes.
TRIES_MAX: Final = 8
SERVER_ERROR: Final = 500
LEASES_KEPT: Final = 64


class Verdicts:
    """What one road has refused since it last took anything."""

    def __init__(self) -> None:
        self.in_a_row = 0
        self._tries: dict[int, int] = {}  # by the first segment of the lease

    def took(self) -> None:
        """Take note that a request was taken: the road is one."""
        self.in_a_row = 0

    def refuse(self, reason: str, *, status: int, first_id: int) -> None:
        """Return where a request that was refused by `status` is given up; raise what to do instead.

        `first_id` is the row id of the lease's first segment: by it the same data is known again.
        """
        if status < SERVER_ERROR:
            self._count(reason, REFUSED_MAX)
            return
        tries = self._tries.pop(first_id, 0) + 1
        if tries < TRIES_MAX:
            self._tries[first_id] = tries
            while len(self._tries) > LEASES_KEPT:
                del self._tries[next(iter(self._tries))]
            raise TryLaterError(reason)
        self._tries[first_id] = tries
        self._count(reason, FAILED_MAX)
        del self._tries[first_id]

    def too_large(self, reason: str) -> None:
        """Return where one reading that is too large is given up; raise HoldError where it is not."""
        self._count(reason, TOO_LARGE_MAX)

    def _count(self, reason: str, most: int) -> None:
        if self.in_a_row >= most:
            raise HoldError(
                f"{reason}; nothing was taken since then and nothing more is given up for it: correct the endpoint, "
                "or see why the receiver refuses",
                after_s=0.0,
            )
        self.in_a_row += 1
