"""The encoding benchmark measures our encoder against protobuf objects."""

from __future__ import annotations

import pytest

from gateway.bench.encoding import measure


@pytest.mark.alone
def test_columns_are_many_times_quicker_than_objects() -> None:
    """In every shape, in the same run."""
    assert all(row["times_peer"] > 3 for row in measure(rounds=10).values())
