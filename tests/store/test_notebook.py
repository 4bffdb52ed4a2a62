"""Checks for notes: each commit writes what its notebook says, and the next start finds what was written last."""

from __future__ import annotations

import sqlite3

import pytest

from gateway.core.contracts import FullError
from gateway.store import committer as committer_module
from gateway.store.accounts import NOTE_BYTES_MAX, DamagedStateError, Share, State, decode_state, encode_state
from gateway.store.starting import mark_suspect


class Counting:
    """Says which plan this is."""

    def __init__(self) -> None:
        self.plans: list[bytes] = []
        self.was_written = 0

    def plan(self, *, is_last: bool = False) -> bytes:
        self.plans.append(b"%d%s" % (len(self.plans), b" last" if is_last else b""))
        return self.plans[-1]

    def written(self) -> None:
        self.was_written = len(self.plans)


async def test_what_was_written_last_is_found_by_the_next_start(shelves) -> None:
    """At first there is nothing; a stop in order says that it is the last."""
    store = await shelves.open()
    assert store.notes.last("cloud") == b""
    notebook = Counting()
    store.notes.keep("cloud", notebook)
    await shelves.put(store)
    await shelves.put(store)
    assert (notebook.plans, notebook.was_written) == ([b"0", b"1"], 2)
    await shelves.close()
    assert notebook.plans[-1] == b"2 last"
    store = await shelves.open()
    assert store.notes.last("cloud") == b"2 last"
    await shelves.put(store)
    await shelves.close()
    store = await shelves.open()
    assert store.notes.last("cloud") == b"2 last"


async def test_each_uplink_has_its_own(shelves) -> None:
    """One that was not configured for a while finds it again."""
    store = await shelves.open(uplinks=["a", "b"])
    store.notes.keep("b", Counting())
    await shelves.put(store)
    await shelves.close()
    store = await shelves.open(uplinks=["a"])
    await shelves.put(store)
    await shelves.close()
    store = await shelves.open(uplinks=["a", "b"])
    assert (store.notes.last("a"), store.notes.last("b")) == (b"", b"1 last")


async def test_a_commit_that_fails_is_not_said_to_be_written(shelves, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether it is on the disk nobody knows; the next one is."""
    store = await shelves.open()
    notebook = Counting()
    store.notes.keep("cloud", notebook)

    async def fail(*_: object) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    with monkeypatch.context() as patched:
        patched.setattr(committer_module, "write", fail)
        with pytest.raises(FullError):
            await shelves.put(store)
        assert len(notebook.plans) > notebook.was_written == 0
    await shelves.put(store)
    assert notebook.was_written == len(notebook.plans)


async def test_who_asks_waits_for_a_commit(shelves) -> None:
    """Though nothing arrives; at a stop there is none to wait for."""
    store = await shelves.open(commit_interval_s=60)
    notebook = Counting()
    store.notes.keep("cloud", notebook)
    assert await store.notes.write("cloud")
    assert notebook.was_written == 1
    await shelves.close()
    assert not await store.notes.write("cloud")


async def test_a_disk_that_takes_nothing_is_not_waited_for(shelves) -> None:
    """Data leaves then, uncounted, and so do its bytes."""
    store = await shelves.open()
    store._desks["cloud"].allowance.mute()
    assert not await store.notes.write("cloud")


def test_a_state_with_a_note_that_nobody_wrote_is_damaged() -> None:
    """They are short."""
    good = State(shares=[Share("cloud", 1, note=bytes(NOTE_BYTES_MAX))])
    assert decode_state(encode_state(good)) == good
    with pytest.raises(DamagedStateError):
        decode_state(encode_state(State(shares=[Share("cloud", 1, note=bytes(NOTE_BYTES_MAX + 1))])))


async def test_a_note_says_whether_it_can_be_of_an_older_commit(shelves) -> None:
    """After a salvage or a log that was cut; at a start like any other it is of the last one, and so is the count."""
    store = await shelves.open()
    await shelves.put(store)
    lease = await store.lease("cloud", readings_max=100, bytes_max=10_000)
    store.ack(lease)
    assert store.notes.delivered("cloud") == lease.readings > 0
    await shelves.close()
    store = await shelves.open()
    assert store.notes.is_sure
    assert store.notes.delivered("cloud") == lease.readings
    await shelves.close()
    mark_suspect(shelves.state_dir, "a test")
    store = await shelves.open()
    assert not store.notes.is_sure
    assert "was damaged" in store.events[0]
