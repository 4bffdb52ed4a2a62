"""A script that sends by a client: counts upward, says what it flushed, and ends in the way it is told to.

`python -m hil.client_script --state-dir DIR --endpoint URL --first 0` prints a line `flushed N` whenever every number
below N is on the disk, until it is killed. With `--count` it ends by itself after so many; `--end` says how: it shuts
down, just exits, raises, or has a thread that sends and outlives the main one.
"""

from __future__ import annotations

import argparse
import sys
import threading
from typing import TYPE_CHECKING, Any, Final

from gateway import Client

if TYPE_CHECKING:
    from collections.abc import Mapping

BURST: Final = 7


def main() -> None:
    """Send until it is over."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--state-dir", required=True)
    parser.add_argument("--endpoint", required=True)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--count", type=int, default=1 << 40)
    parser.add_argument("--end", choices=("shutdown", "exit", "raise", "thread"), default="shutdown")
    options = parser.parse_args()
    client = Client(state_dir=options.state_dir, config=quick(options.endpoint))
    print("open", flush=True)
    last = options.first + options.count
    if options.end == "thread":
        threading.Thread(target=send, args=(client, options.first, last)).start()
        return
    for first in range(options.first, last, BURST):
        send(client, first, min(first + BURST, last))
        if options.end == "shutdown":
            client.flush()
            # In one piece: what the log says goes to the same place.
            sys.stdout.write(f"flushed {min(first + BURST, last)}\n")
            sys.stdout.flush()
    if options.end == "raise":
        raise SystemExit("as it was told")
    if options.end == "shutdown":
        client.shutdown()


def quick(url: str, *, uplink: Mapping[str, Any] | None = None, **tables: Any) -> dict[str, Any]:
    """Return a configuration in which nobody waits long, and nothing is sent but what a test sends."""
    own = {"batch_interval": "20ms", "stop_grace": "1s", "retry": {"initial": "20ms", "max": "100ms"}}
    cloud = {"type": "otlp", "name": "cloud", "endpoint": url, **own, **(uplink or {})}
    store = {"commit_interval": "20ms", **tables.pop("store", {})}
    return {"gateway": {"report_interval": "0s"}, "store": store, "uplinks": [cloud], **tables}


def send(client: Client, first: int, last: int) -> None:
    """Send the numbers from `first` to before `last`."""
    for number in range(first, last):
        client.send_metric("n", number)


if __name__ == "__main__":
    main()
