"""The table of rows against a dict, and its size against what is in it."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from gateway.detect.rows import UNSEEN, RowTable

NUMBERS = st.one_of(st.integers(1, 60), st.integers(1, 2**32 - 1))


@given(st.lists(st.tuples(st.sampled_from("ssssd"), st.lists(NUMBERS, max_size=20)), max_size=25))
def test_it_is_a_dict(steps: list[tuple[str, list[int]]]) -> None:
    """Numbers come and go, near ones and far ones; every look at all of them finds what a dict would."""
    table, model = RowTable(), {}
    asked = {5}
    for kind, numbers in steps:
        asked.update(numbers)
        if kind == "s":
            for number in dict.fromkeys(numbers):
                if number not in model:
                    model[number] = len(asked) * 1000 + number % 1000
                    table.set(number, model[number])
        else:
            table.drop(np.isin(table.numbers, numbers))
            model = {number: row for number, row in model.items() if number not in numbers}
        look = np.array(sorted(asked) * 2, np.uint32)
        assert table.find(look).tolist() == [model.get(int(number), UNSEEN) for number in look]
        assert len(table) == len(model)


def test_the_table_is_as_large_as_what_is_in_it() -> None:
    """However far the numbers have risen."""
    table = RowTable()
    for start in range(1, 2**32 - 1000, 2**32 // 50):
        for number in range(start, start + 500):
            table.set(number, 1)
        assert table.places <= 2048
        table.drop(table.numbers > 0)
    assert table.places == 64


def test_numbers_that_rise_one_by_one_are_found_at_the_first_look() -> None:
    """That is how series get theirs: nearly all stand where they are looked for."""
    table = RowTable()
    for number in range(1, 20_001):
        table.set(number, number)
    numbers = np.arange(1, 20_001, dtype=np.uint32)
    assert table.find(numbers).tolist() == numbers.tolist()
    assert (table.numbers[table._first_place(numbers)] == numbers).mean() > 0.9
