"""What cannot work is refused by name."""

from __future__ import annotations

import msgspec
import pytest

from gateway.core.units import Duration, Size
from gateway.store.settings import StoreSettings


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"max_bytes": Size(1000)}, "give the store at least 1MiB"),
        ({"max_age": Duration(0)}, "max_age: must be longer"),
        ({"pending_bytes": Size(0)}, "pending_bytes: is 0B, which lets nothing in"),
        ({"commit_interval": Duration(61)}, "commit_interval: is 61s; at most 1m"),
    ],
)
def test_impossible_settings(settings, sentence) -> None:
    """The sentence says what would be right."""
    with pytest.raises(ValueError, match=sentence):
        StoreSettings(**settings)


def test_defaults_are_possible() -> None:
    """As the manual shows them."""
    assert StoreSettings(commit_interval=Duration(1)).max_bytes == 512 << 20


def test_every_setting_has_a_sentence() -> None:
    """The manual is made of them."""
    info = msgspec.inspect.type_info(StoreSettings)
    said = [field.type.extra_json_schema["description"] for field in info.fields]
    assert all(text.endswith((".", "%.", "%")) for text in said)
