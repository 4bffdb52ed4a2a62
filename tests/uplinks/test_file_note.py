"""What is noted fits the page that every commit writes, and is read back or not believed."""

from __future__ import annotations

from gateway.core.contracts import Signal
from gateway.store.accounts import NOTE_BYTES_MAX
from gateway.uplinks.file_note import SEEDS_MAX, FileNotebook, Mark, read_note, tag_of

LARGE = 2**63 - 1


def notebook(seed: int = 1, before=None, delivered: int = 0) -> FileNotebook:
    return FileNotebook(before, seed=seed, delivered=lambda: delivered)


def test_a_note_comes_back() -> None:
    """With what its next process goes on from."""
    book = notebook(delivered=7)
    book.following = 5
    book.settled(Signal.LOGS, Mark(4, tag_of(1, 4), 100, 9))
    note = read_note(book.plan())
    assert (note.delivered, note.following, note.seeds) == (7, 5, [1])
    assert note.marks == {Signal.LOGS: Mark(4, tag_of(1, 4), 100, 9)}
    following = notebook(2, note)
    assert (following.following, following.marks) == (5, note.marks)


def test_the_largest_note_has_room() -> None:
    """Three signals, numbers as large as they get, and processes that never saw the stick."""
    note = None
    for k in range(2 * SEEDS_MAX):
        book = notebook(LARGE - k, note, LARGE)
        book.following = 10**12
        for signal in Signal:
            book.settled(signal, Mark(10**12, 2**32 - 1, 2**31, 2**40))
        note = read_note(book.plan())
        book.written()
        assert note is not None
    assert len(note.seeds) == SEEDS_MAX
    assert len(book.plan(is_last=True)) <= NOTE_BYTES_MAX
    book.looked()
    assert read_note(book.plan()).seeds == [book.seed]


def test_what_is_no_note_of_ours_is_none() -> None:
    """Nothing, a budget's, one of a later version, one that was cut."""
    whole = notebook().plan()
    later = bytes([whole[0], 2]) + whole[2:]
    strange = whole[:-1] + b"\x81\x09" + b"\x94\x01\x01\x01\x01"
    assert [read_note(data) for data in (b"", b"\x90", b"\xc1", whole[:-1], later, strange)] == [None] * 6
    assert read_note(whole) is not None


def test_files_of_the_process_that_noted_it_are_known() -> None:
    """By their tags: those behind the last one that counts, of that signal; a stranger's never."""
    book = notebook(3)
    book.settled(Signal.METRICS, Mark(7, tag_of(3, 7), 10, 0))
    note = read_note(book.plan())
    assert note.is_behind(Signal.METRICS, 8, tag_of(3, 8))
    assert note.is_behind(Signal.LOGS, 1, tag_of(3, 1))
    assert not note.is_behind(Signal.METRICS, 7, tag_of(3, 7))
    assert not note.is_behind(Signal.METRICS, 6, tag_of(3, 6))
    assert not note.is_behind(Signal.METRICS, 8, tag_of(4, 8))
