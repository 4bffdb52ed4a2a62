"""SIGHUP from the first moment of a process to its last: heard, and never its end."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest

from gateway.hangups import hear_hangups, ignore_hangups

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def others_handler() -> Iterator[None]:
    before = signal.getsignal(signal.SIGHUP)
    yield
    signal.signal(signal.SIGHUP, before)


def test_a_hangup_is_noted_until_somebody_acts_on_it() -> None:
    """Whoever asks for the handler later gets the one that is there, with what it noted."""
    assert not hear_hangups().came
    os.kill(os.getpid(), signal.SIGHUP)
    handler = hear_hangups()
    assert handler.came
    acts: list[str] = []
    handler.act = lambda: acts.append("act")
    os.kill(os.getpid(), signal.SIGHUP)
    assert acts == ["act"]


def test_a_hangup_that_nobody_waits_for_any_more_is_nothing() -> None:
    """The signal itself is ignored, without a handler of ours."""
    hear_hangups()
    ignore_hangups()
    os.kill(os.getpid(), signal.SIGHUP)
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
