"""Whatever a decoder stumbles over is set aside alone; its neighbours are mapped as ever."""

from __future__ import annotations

import numpy as np
import pytest

from gateway.codecs.apart import CULPRITS_MAX, MAPPING_FAILED, cut_lost, map_apart
from gateway.codecs.mapping import Mapped
from gateway.core.batch import Batch
from gateway.core.contracts import Arrivals, Lost, Priority


def arrivals_of(payloads: list[bytes]) -> Arrivals:
    users = [(1, f"u{k}") for k in range(len(payloads))]
    return Arrivals("direct", [b"t"] * len(payloads), payloads, 7, users=users)


def mapping(arrivals: Arrivals) -> Mapped:
    """Take numbers of users whose name is the number, say that empty ones are malformed, fail at "x"."""
    assert all(user == f"u{int(payload)}" for (_, user), payload in zip(arrivals.users, arrivals.payloads) if payload)  # noqa: B905
    if b"x" in arrivals.payloads:
        raise KeyError("x")
    numbers = [int(payload) for payload in arrivals.payloads if payload]
    mapped = Mapped(readings=len(numbers))
    mapped.pieces = [(Priority.NORMAL, Batch.of(1, 0, np.array(numbers)))] if numbers else []
    mapped.malformed = [Lost(k, "empty", "") for k, payload in enumerate(arrivals.payloads) if not payload]
    return mapped


def mapping_that_fails(arrivals: Arrivals) -> Mapped:
    if b"x" in arrivals.payloads:
        raise KeyError("x")
    return mapping(arrivals)


@pytest.mark.parametrize("bad", [{0}, {99}, {3, 4, 77}, set(range(100))])
def test_the_culprits_alone_are_set_aside(bad) -> None:
    """All others are there once, in order, each with its own user and index."""
    payloads = [b"x" if k in bad else b"" if k == 50 else b"%d" % k for k in range(100)]
    found = Mapped()
    errors = map_apart(mapping_that_fails, arrivals_of(payloads), found)
    values = [value for _, batch in found.pieces for value in batch.bits.tolist()]
    assert values == [k for k in range(100) if k not in bad and k != 50]
    assert found.readings == len(values)
    assert {index for index, reason, *_ in found.malformed if reason == MAPPING_FAILED} == bad
    assert [index for index, reason, *_ in found.malformed if reason == "empty"] == ([50] if 50 not in bad else [])
    assert len(errors) == len(bad)


def test_of_very_many_the_rest_goes_in_larger_pieces() -> None:
    """Nobody waits for a million looks; none is lost uncounted."""
    calls = []

    def fails(arrivals: Arrivals) -> Mapped:
        calls.append(len(arrivals))
        raise RecursionError("deep")

    found = Mapped()
    payloads = [b"x"] * 10_000
    errors = map_apart(fails, arrivals_of(payloads), found)
    assert sorted(index for index, *_ in found.malformed) == list(range(10_000))
    assert "please report it" in found.malformed[0][2]
    assert len(errors) <= CULPRITS_MAX + 20
    assert len(calls) < 4 * CULPRITS_MAX


def test_what_the_source_has_lost_keeps_its_place() -> None:
    """In each part that is tried, and in what comes out."""
    arrivals = arrivals_of([b"%d" % k for k in range(10)])
    arrivals.lost = [Lost(2, "oversize", ""), Lost(7, "oversize", "")]

    def fails_together(part: Arrivals) -> Mapped:
        if len(part) > 1:
            raise KeyError("x")
        return Mapped(malformed=list(part.lost))

    found = Mapped()
    map_apart(fails_together, arrivals, found)
    assert found.malformed == arrivals.lost
    assert cut_lost(arrivals.lost, 3, 8) == [Lost(4, "oversize", "")]
