"""The segment benchmark covers what devices send."""

from __future__ import annotations

from gateway.bench.segments import measure


def test_every_shape_is_measured() -> None:
    """Sizes and both speeds."""
    for row in measure(seconds=0.001).values():
        assert row["bytes"] > 0
        assert row["encode_mreadings_per_s"] > 0
        assert row["decode_mreadings_per_s"] > 0
