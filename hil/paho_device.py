"""A paho client as a device that publishes: its thread always ends, and it is waited for once and not per message."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from paho.mqtt.client import Client, MQTTMessageInfo

WAIT_S: Final = 60.0


@contextlib.contextmanager
def talking(client: Client) -> Iterator[None]:
    """Run a connected client's thread; one that is left behind would go on connecting."""
    client.loop_start()
    try:
        yield
    finally:
        client.disconnect()
        client.loop_stop()


def wait_for_all(infos: Sequence[MQTTMessageInfo], *, within_s: float = WAIT_S) -> None:
    """Wait until all are published; raise TimeoutError that says how many are not."""
    until_s = time.monotonic() + within_s
    for info in infos:
        info.wait_for_publish(max(0.0, until_s - time.monotonic()))
        if not info.is_published():
            missing = sum(not info.is_published() for info in infos)
            raise TimeoutError(f"{missing} of {len(infos)} messages are not published within {within_s} s")
