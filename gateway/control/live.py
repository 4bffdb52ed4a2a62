"""`tidegate trace`: follows messages through a running gateway and shows each. Must not decide what becomes of any.

The gateway notes the messages (tracing.py); it is asked again and again until each is settled, or time is up. A message
that an uplink holds back is shown as it stands after HOLD_S: what is held may be held for days.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlencode

from gateway.control.asking import fetch
from gateway.core.text import harmless
from gateway.core.words import plural

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

ASK_S: Final = 0.5
HOLD_S: Final = 5.0
WANTED: Final = ("id", "messages", "left_s", "is_over")
_WORDS: Final = {
    "held": "held",
    "sending": "being sent",
    "left_out": "not for this uplink: its classes, signals or mappings do not take it",
    "settled": "not to be sent any more; the ledger in `tidegate status` says why",
    "gone": "let go; the ledger in `tidegate status` says why",
}


def follow(
    url: str,
    *,
    token: str,
    asked: Mapping[str, object],
    timeout_s: float,
    sleep: Callable[[float], None] = time.sleep,
    clock_s: Callable[[], float] = time.monotonic,
) -> Iterator[str]:
    """Return each message as text, in the order of arrival; raise what `summary.fetch` does."""
    answer = fetch(url, f"/trace?{urlencode(asked)}", token=token, timeout_s=timeout_s, wanted=WANTED)
    name = answer["id"]
    seen_s: dict[int, float] = {}
    shown = 0
    while True:
        messages = answer["messages"]
        is_last = answer["left_s"] <= 0
        for number in range(shown, len(messages)):
            since_s = clock_s() - seen_s.setdefault(number, clock_s())
            if number == shown and (is_last or is_settled(messages[number]) or since_s >= HOLD_S):
                yield render(messages[number])
                shown += 1
        if is_last or (answer["is_over"] and shown == len(messages)):
            return
        sleep(ASK_S)
        answer = fetch(url, f"/trace?{urlencode({'id': name})}", token=token, timeout_s=timeout_s, wanted=WANTED)


def is_settled(message: dict[str, Any]) -> bool:
    """Whether nothing more will become of a message."""
    if message["state"] == "nothing to keep":
        return True
    return message["state"] == "on disk" and all(uplink["is_settled"] for uplink in message["uplinks"].values())


def render(message: dict[str, Any]) -> str:
    """Return a message for people."""
    message = harmless(message)
    lines = [
        f"{message['arrived'] or 'no clock yet'}  {message['source']}  {message['topic']}",
        f"  payload  {plural(message['payload_bytes'], 'byte')}: {message['payload']}",
    ]
    lines += [f"  skipped  {row['match']}: {row['why']}" for row in message["skipped"]]
    if message["mapping"]:
        lines.append(f"  taken by mappings[{message['mapping']['index']}], match = {message['mapping']['match']!r}")
    lines += [f"  {line}" for line in message["lines"] or ["reading  none"]]
    if (more := message["readings"] - message["readings_shown"]) > 0:
        lines.append(f"  reading  … and {more:,} more")
    lines += [f"  problem  {problem}" for problem in message["problems"]]
    if (more := message["lost"] - len(message["problems"])) > 0:
        lines.append(f"  problem  … and {more:,} more")
    lines.append(f"  on disk  {_on_disk(message)}")
    for name, uplink in message["uplinks"].items():
        after = f" {uplink['after_s']:g} s after it arrived" if "after_s" in uplink else ""
        lines.append(f"  {name:<7}  {_WORDS.get(uplink['state'], uplink['state'])}{after}")
    return "\n".join(lines)


def _on_disk(message: dict[str, Any]) -> str:
    if message["state"] != "on disk":
        return f"not: {message['state']}"
    segments = ", ".join(f"{row['sequence']} ({row['class']})" for row in message["segments"])
    return f"{message['on_disk_after_s']:g} s after it arrived, in segment {segments}"
