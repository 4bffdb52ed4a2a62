"""Mapping apart what could not be mapped together, so that a mistake of ours costs one message. Must not log.

What the world sends has reasons of its own in the ledger. This is for what nobody thought of: an exception in a decoder
must not cost the other messages of the same buffer, nor come back with them for ever when a broker sends them again.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from gateway.core.contracts import Lost
from gateway.core.text import sentence

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from gateway.codecs.mapping import Mapped
    from gateway.core.contracts import Arrivals

MAPPING_FAILED: Final = "mapping_failed"
# Of more than so many in one buffer the rest is set aside in larger pieces: looking for each would take too long.
CULPRITS_MAX: Final = 256


def map_apart(mapping: Callable[[Arrivals], Mapped], arrivals: Arrivals, into: Mapped) -> list[Exception]:
    """Map `arrivals`, whose mapping failed, in halves of halves; add to `into`, return what went wrong.

    Messages on which it fails alone are malformed, as `mapping_failed`.
    """
    errors: list[Exception] = []
    stretches = [(0, len(arrivals))]
    while stretches:
        start, stop = stretches.pop()
        part = replace(
            arrivals,
            topics=arrivals.topics[start:stop],
            payloads=arrivals.payloads[start:stop],
            users=list(cut_users(arrivals.users, start, stop)),
            lost=cut_lost(arrivals.lost, start, stop),
        )
        try:
            mapped = mapping(part)
        except Exception as error:  # noqa: BLE001  that it is any is the point
            middle = (start + stop) // 2
            if start < middle and len(errors) < CULPRITS_MAX:
                # The first half is next: order decides whose series are resolved first.
                stretches += [(middle, stop), (start, middle)]
                continue
            errors.append(error)
            why = sentence(f"a mistake of the gateway's own, please report it: {error!r}")
            into.malformed += [Lost(index, MAPPING_FAILED, why) for index in range(start, stop)]
        else:
            into.pieces += mapped.pieces
            into.malformed += [lost._replace(at=lost.at + start) for lost in mapped.malformed]
            into.readings += mapped.readings
    return errors


def cut_lost(lost: Sequence[Lost], start: int, stop: int) -> list[Lost]:
    """Return what is lost of the messages from `start` to `stop`."""
    return [one._replace(at=one.at - start) for one in lost if start <= one.at < stop]


def cut_users(users: Sequence[tuple[int, str]], start: int, stop: int) -> Iterator[tuple[int, str]]:
    """Yield the runs of messages from `start` to `stop`."""
    at = 0
    for count, user in users:
        inside = min(at + count, stop) - max(at, start)
        if inside > 0:
            yield inside, user
        at += count
