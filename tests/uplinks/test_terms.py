"""What all kinds of uplinks have in common is in each of their settings classes."""

from __future__ import annotations

import pytest

from gateway.uplinks.file_settings import FileUplinkSettings
from gateway.uplinks.nats_settings import NatsUplinkSettings
from gateway.uplinks.settings import OtlpUplinkSettings
from gateway.uplinks.terms import Terms

NAMES = sorted(name for name in vars(Terms) if not name.startswith("_"))


def test_there_are_terms() -> None:
    """The list below is not empty by mistake."""
    assert {"name", "protocol", "retry"} <= set(NAMES)


KINDS = [
    OtlpUplinkSettings(name="cloud", endpoint="http://localhost"),
    FileUplinkSettings(name="stick", directory="/media/stick"),
    NatsUplinkSettings(name="stream", url="nats://localhost"),
]


@pytest.mark.parametrize("settings", KINDS)
def test_every_kind_has_them(settings: object) -> None:
    """Delivery asks for all of them, whatever carries the requests."""
    assert [name for name in NAMES if not hasattr(settings, name)] == []
