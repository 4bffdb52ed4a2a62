"""How the shelf is bounded: the `[store]` table of the configuration. Must not know how any bound is kept."""

from __future__ import annotations

from typing import Annotated, Final, Literal, NamedTuple

import msgspec

from gateway.core.checks import Checked, check
from gateway.core.units import Duration, Size

# Below this SQLite's own pages and log leave no room worth having.
MAX_BYTES_MIN: Final = 1 << 20


class BoardLimits(NamedTuple):
    """What the board gives the shelf: the size of the log at which it begins anew, and SQLite's caches, in bytes."""

    log_bytes_max: int = 8 << 20
    cache_bytes: int = 1 << 20


ANY_BOARD: Final = BoardLimits()


def _about(text: str) -> msgspec.Meta:
    return msgspec.Meta(description=text)


class StoreSettings(Checked, msgspec.Struct, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """What is kept, for how long, and what happens when there is no more room."""

    max_bytes: Annotated[Size, _about("How much disk the store may use, its write-ahead log included.")] = Size(
        512 << 20
    )
    max_age: Annotated[Duration, _about("How long a reading is kept at most; older ones go to the ledger.")] = Duration(
        30 * 86400
    )
    commit_interval: Annotated[
        Duration | None,
        _about("How long arrivals wait for others to share one commit; the hardware profile's if not given."),
    ] = None
    when_full: Annotated[
        Literal["dilute", "drop_oldest", "refuse"],
        _about(
            "dilute thins the least important and oldest step by step to the first, least, greatest and last reading "
            "of 10 s up to a day, counted, and lets it go only where that is not enough; drop_oldest lets it go at "
            "once, counted; refuse pushes back on the sources."
        ),
    ] = "dilute"
    uplink_grace: Annotated[
        Duration,
        _about(
            "How long what is held for an uplink is kept when it is configured no more, should it come back under its "
            'name; then it goes to the ledger. "0s" lets go at once.'
        ),
    ] = Duration(7 * 86400)
    quarantine_bytes: Annotated[
        Size, _about("Room for payloads of which not all could be used; the oldest make way.")
    ] = Size(1 << 20)
    refused_bytes: Annotated[Size, _about("Room for what an uplink refused for good; the oldest make way.")] = Size(
        4 << 20
    )
    pending_bytes: Annotated[
        Size,
        _about(
            "Memory for arrivals that wait for their commit, a quarter of max_bytes at most; beyond it sources are "
            "pushed back."
        ),
    ] = Size(2 << 20)
    recent_bytes: Annotated[
        Size, _about("Memory for the newest segments, so that live sending does not read the disk.")
    ] = Size(512 << 10)
    backlog_share: Annotated[
        float,
        msgspec.Meta(
            description="Which part of what an uplink sends is backlog as long as live data waits; 0.3 is 30 %.",
            ge=0,
            le=1,
        ),
    ] = 0.3

    @check("max_bytes")
    def _shelf_has_room(self) -> None:
        if self.max_bytes < MAX_BYTES_MIN:
            raise ValueError(f"is {self.max_bytes}; give the store at least {Size(MAX_BYTES_MIN)}")

    @check("pending_bytes")
    def _arrivals_have_room(self) -> None:
        if not self.pending_bytes:
            raise ValueError('is 0B, which lets nothing in; give arrivals room to wait, like "2MiB"')

    @check("max_age")
    def _readings_are_kept(self) -> None:
        if self.max_age <= 0:
            raise ValueError("must be longer than nothing")

    @check("commit_interval")
    def _commits_are_soon(self) -> None:
        if self.commit_interval is not None and not 0 <= self.commit_interval <= 60:
            raise ValueError(f"is {self.commit_interval}; at most 1m: nothing is acknowledged before it")
