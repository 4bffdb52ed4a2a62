"""What the pages of a damaged file are: led to, free, or neither."""

from __future__ import annotations

import random
import sqlite3

import pytest

from gateway.store.connection import DATABASE, PAGE_BYTES, expected_schema, schemas
from gateway.store.pagefile import PageFile
from gateway.store.pages import ROW_ID_MIN, children_of, rows_of
from gateway.store.survey import FREE, PAGES_MAX, ROOTS, SHELF, Ranges, Survey


def test_the_tables_begin_where_they_always_do(tmp_path) -> None:
    """So that they are found without the table of tables."""
    with sqlite3.connect(tmp_path / "a.db") as connection:
        for text in schemas():
            connection.executescript(text)
        roots = dict(connection.execute("SELECT name, rootpage FROM sqlite_schema WHERE type = 'table'"))
    connection.close()
    assert roots == ROOTS
    assert {name for kind, name, *_ in expected_schema(len(schemas())) if kind == "table"} == set(ROOTS)


def test_ranges() -> None:
    """Both ends are inside; what touches or overlaps is one."""
    ranges = Ranges()
    assert not ranges
    assert 5 not in ranges
    for first, last in [(10, 20), (5, 7), (21, 22), (12, 15)]:
        ranges.add(first, last)
    assert ranges
    assert [number for number in range(30) if number in ranges] == [5, 6, 7, *range(10, 23)]
    ranges.add(8, 9)
    assert [number for number in range(30) if number in ranges] == list(range(5, 23))


@pytest.fixture
async def path(shelves):
    """A shelf with free pages and a tree of some levels."""
    store = await shelves.open()
    for _ in range(100):
        await shelves.put(store, 60)
    for _ in range(20):
        store.ack(await shelves.lease(store, readings_max=1))
    await store.append([])
    await shelves.close()
    return shelves.state_dir / DATABASE


def change(path, at: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(data)


def page_at(number: int) -> int:
    return (number - 1) * PAGE_BYTES


def survey(path) -> tuple[Survey, list[int], set[int], PageFile]:
    """Return the survey, what nothing leads to, and the segments that are led to."""
    with PageFile(path) as pages:
        found = Survey(pages)
        ids = {
            row_id
            for number, first, last in found.trees[SHELF].leaves()
            for row_id, _ in rows_of(pages.page(number) or b"", number, pages.page)
            if first <= row_id <= last
        }
        return found, list(found.unseen()), ids, pages


def unseen_leaves(path, unseen: list[int]) -> int:
    """Return how many of the pages that nothing leads to hold rows of the shelf."""
    with PageFile(path) as pages:
        return sum(any(len(values) == 8 for _, values in pages.rows_at(number)) for number in unseen)


async def test_a_whole_file_has_no_gaps(path) -> None:
    """All its leaves are led to, all its free pages known."""
    found, unseen, ids, _ = survey(path)
    with sqlite3.connect(path) as connection:
        assert ids == {row_id for (row_id,) in connection.execute("SELECT id FROM shelf")}
        ((free,),) = connection.execute("PRAGMA freelist_count")
    connection.close()
    assert free > 5
    assert found.is_free_known
    assert not found.trees[SHELF].gaps
    assert found.misfits == unseen_leaves(path, unseen) == 0
    found.forget_free()
    with PageFile(path) as pages:
        found._pages = pages
        assert len(list(found.unseen())) == len(unseen) + free


async def test_without_its_first_page_a_file_has_its_trees_still(path) -> None:
    """What is free is not known then."""
    change(path, 0, bytes(PAGE_BYTES))
    found, _, ids, _ = survey(path)
    assert not found.is_free_known
    assert not found.trees[SHELF].gaps
    assert len(ids) == 81


def interior(path) -> tuple[int, bytes]:
    """Return an inner page below the first with several children."""
    with PageFile(path) as pages:
        (child, _), *_ = children_of(pages.page(ROOTS[SHELF]) or b"", ROOTS[SHELF])
        page = pages.page(child) or b""
        assert len(children_of(page, child)) > 2
        return child, page


async def test_where_an_inner_page_is_gone_its_leaves_are_led_to_by_nothing(path) -> None:
    """The whole range is a gap."""
    number, page = interior(path)
    before = survey(path)[2]
    change(path, page_at(number), random.Random(1).randbytes(PAGE_BYTES))
    found, unseen, ids, _ = survey(path)
    assert ids < before
    assert ROW_ID_MIN in found.trees[SHELF].gaps
    assert all(row_id in found.trees[SHELF].gaps for row_id in before - ids)
    assert found.is_free_known
    assert unseen_leaves(path, unseen) == len(children_of(page, number))


@pytest.mark.parametrize("how", ["count", "order", "circle", "nowhere"])
async def test_an_inner_page_that_contradicts_itself_leads_nowhere(path, how) -> None:
    """Or only where it is right."""
    number, page = interior(path)
    cell = int.from_bytes(page[12:14], "big")
    match how:
        case "count":
            change(path, page_at(number) + 12, b"\xff\xff")
        case "order":
            change(path, page_at(number) + 12, page[14:16] + page[12:14])
        case "circle":
            change(path, page_at(number) + cell, number.to_bytes(4, "big"))
        case "nowhere":
            change(path, page_at(number) + cell, (1 << 30).to_bytes(4, "big"))
    found, _, ids, _ = survey(path)
    assert found.trees[SHELF].gaps
    assert (len(ids) > 60) == (how in {"circle", "nowhere"}), len(ids)


async def test_a_tree_that_leads_to_free_pages_is_right(path) -> None:
    """The list of free pages is not, then."""
    with PageFile(path) as pages:
        trunk = int.from_bytes((pages.page(1) or b"")[32:36], "big")
        leaf = Survey(pages).trees[SHELF].numbers[0]
    change(path, page_at(trunk) + 8, leaf.to_bytes(4, "big"))
    found, _, ids, _ = survey(path)
    assert len(ids) == 81
    assert not found.is_free_known
    assert not found.trees[SHELF].gaps


@pytest.mark.parametrize(
    "what", [b"\xff\xff\xff\xff\xff\xff\xff\xff", b"\0\0\0\2\0\0\0\1\0\0\0\2", b"\0\0\0\0\0\0\0\0"]
)
async def test_a_list_of_free_pages_that_is_not_whole(path, what) -> None:
    """It says less than there are, or leads nowhere."""
    with PageFile(path) as pages:
        trunk = int.from_bytes((pages.page(1) or b"")[32:36], "big")
    change(path, page_at(trunk), what)
    found, _, ids, _ = survey(path)
    assert not found.is_free_known
    assert len(ids) == 81


async def test_a_file_that_was_cut_has_no_page_behind(path) -> None:
    """The list of free pages may lead there."""
    with PageFile(path) as pages:
        count = pages.page_count
    change(path, 32, (count + 1).to_bytes(4, "big"))
    with path.open("r+b") as file:
        file.truncate(page_at(count))
    found, _, _, _ = survey(path)
    assert not found.is_free_known


async def test_pages_that_no_file_of_ours_has(path, monkeypatch) -> None:
    """They are looked at like those that nothing leads to."""
    monkeypatch.setattr("gateway.store.survey.PAGES_MAX", 4)
    _, unseen, _, _ = survey(path)
    assert set(range(5, 50)) < set(unseen)
    assert PAGES_MAX > 4


async def test_a_list_of_free_pages_whose_last_version_is_damaged(path, monkeypatch) -> None:
    """What it says in an earlier one is of then."""
    with PageFile(path) as pages:
        trunk = int.from_bytes((pages.page(1) or b"")[32:36], "big")
        for number in (1, trunk):
            monkeypatch.setattr(pages.log, "broken", {number: 0})
            monkeypatch.setattr(pages, "last", pages.page)
            assert not Survey(pages).is_free_known


async def test_a_page_that_has_taken_the_place_of_another_is_seen(path) -> None:
    """Its rows may be of long ago, and yet fit."""
    with PageFile(path) as pages:
        found = Survey(pages)
        assert found.copies() == 0
        leaf = found.trees[SHELF].numbers[0]
        free = next(number for number in pages.written_pages() if found._kinds[number] == FREE)
    change(path, page_at(free), path.read_bytes()[page_at(leaf) : page_at(leaf + 1)])
    with PageFile(path) as pages:
        assert Survey(pages).copies() == 1
