"""Where program and gateway meet; what goes through is in tests/client/test_client.py."""

from __future__ import annotations

import numpy as np
import pytest

from gateway.client.doorway import Doorway
from gateway.core.batch import ResourceRecords
from gateway.core.contracts import FullError, Messages, Priority, Signal


async def test_before_there_is_a_door_nothing_goes_through() -> None:
    """It may come again; and who says that something is there is heard by the first door."""
    doorway = Doorway(())
    doorway.hear(now=True)
    none = np.empty(0, np.int64)
    with pytest.raises(FullError, match="the store is not open just now"):
        await doorway.keep(Messages("client", ResourceRecords(Signal.LOGS, none, none, ()), Priority.NORMAL, 0))
