"""What links have spent stands in a file: after a restart, a power cut, and beside who does not wait any more."""

from __future__ import annotations

import asyncio
import os
import threading
from typing import TYPE_CHECKING

from gateway.uplinks import link_notes
from gateway.uplinks.link_notes import LINKS_MAX, NAME, Known, LinkNotes

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


class Counting:
    """Says how often it was asked."""

    def __init__(self) -> None:
        self.plans = self.was_written = 0

    def plan(self, *, is_last: bool = False) -> bytes:
        self.plans += 1
        return b"%d%s" % (self.plans, b" last" * is_last)

    def written(self) -> None:
        self.was_written += 1


async def test_what_was_noted_is_there_after_a_restart(tmp_path: Path) -> None:
    """Of each link; of one that is configured no more too."""
    notes = LinkNotes(tmp_path / NAME)
    assert notes.last("lte") == b""
    notes.keep("lte", Counting())
    notes.keep("sat", Counting())
    assert await notes.write()
    assert await notes.write(is_last=True)
    again = LinkNotes(tmp_path / NAME)
    assert (again.last("lte"), again.last("sat")) == (b"2 last", b"2 last")
    again.keep("lte", Counting())
    assert await again.write()
    assert (LinkNotes(tmp_path / NAME).last("lte"), LinkNotes(tmp_path / NAME).last("sat")) == (b"1", b"2 last")


async def test_what_is_told_to_be_written_survives_a_power_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file before it has its name, then the name; only then may be spent what it covers."""
    notes, notebook = LinkNotes(tmp_path / NAME), Counting()
    notes.keep("lte", notebook)
    synced: list[tuple[bool, int]] = []
    monkeypatch.setattr(os, "fsync", lambda _: synced.append(((tmp_path / NAME).exists(), notebook.was_written)))
    assert await notes.write()
    assert synced == [(False, 0), (True, 0)]
    assert notebook.was_written == 1


async def test_of_links_that_are_gone_only_so_many_are_remembered(tmp_path: Path) -> None:
    """Whoever makes names up fills no disk."""
    for number in range(2 * LINKS_MAX):
        notes = LinkNotes(tmp_path / NAME)
        notes.keep(f"link{number}", Counting())
        await notes.write()
    assert len(LinkNotes(tmp_path / NAME)._notes) == LINKS_MAX + 1


async def test_of_a_file_that_is_damaged_the_one_before_is_known(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It is said; what comes is written again."""
    path = tmp_path / NAME
    notes = LinkNotes(path)
    assert notes.known is Known.ALL
    notes.keep("lte", Counting())
    await notes.write()
    await notes.write()
    whole = path.read_bytes()
    for wrong in (b"", whole[:-1], whole[:9] + bytes([whole[9] ^ 1]) + whole[10:], b"what" + whole[4:]):
        path.write_bytes(wrong)
        again = LinkNotes(path)
        assert (again.last("lte"), again.known) == (b"1", Known.ALL_BUT_THE_LAST)
        assert "is damaged" in caplog.text
        caplog.clear()
    path.unlink()
    again = LinkNotes(path)
    assert (again.last("lte"), again.known, caplog.text) == (b"1", Known.ALL, ""), "a power cut between two names"
    path.mkdir()
    assert LinkNotes(path).known is Known.ALL_BUT_THE_LAST
    assert "cannot be read" in caplog.text


async def test_where_nothing_can_be_read_it_is_known_that_nothing_is(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Which is something else than a new gateway."""
    path = tmp_path / NAME
    path.write_bytes(b"what")
    notes = LinkNotes(path)
    assert (notes.last("lte"), notes.known) == (b"", Known.NOTHING)
    assert "what links have spent is not known" in caplog.text
    path.rename(path.with_suffix(".state.before"))
    assert LinkNotes(path).known is Known.NOTHING
    notes.keep("lte", Counting())
    assert await notes.write()
    assert LinkNotes(path).known is Known.ALL


async def test_a_disk_that_takes_nothing_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Nobody is told that it was written; later it may be."""
    notes, book = LinkNotes(tmp_path / "folder" / NAME), Counting()
    notes.keep("lte", book)
    assert [await notes.write(), await notes.write()] == [False, False]
    assert (book.plans, book.was_written, caplog.text.count("cannot be written")) == (2, 0, 1)
    (tmp_path / "folder").mkdir()
    assert await notes.write()
    assert book.was_written == 1


async def test_those_who_come_meanwhile_share_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that is being written may not have what they want; who goes away has it written all the same."""
    may_go, begun = threading.Event(), threading.Event()
    put = link_notes.replace_file

    def replace_slowly(path: Path, data: bytes, *, before: Path) -> None:
        begun.set()
        assert may_go.wait(60)
        put(path, data, before=before)

    monkeypatch.setattr(link_notes, "replace_file", replace_slowly)
    notes, book = LinkNotes(tmp_path / NAME), Counting()
    notes.keep("lte", book)
    first = asyncio.create_task(notes.write())
    await asyncio.to_thread(begun.wait, 10)
    others = [asyncio.create_task(notes.write()) for _ in range(5)]
    await asyncio.sleep(0)
    first.cancel()
    last = asyncio.create_task(notes.write(is_last=True))
    await asyncio.sleep(0)
    may_go.set()
    assert await asyncio.gather(*others, last) == [True] * 6
    assert (book.plans, book.was_written) == (3, 3)
    assert LinkNotes(tmp_path / NAME).last("lte") == b"3 last"
