"""What an MQTT source turned away, and why: counted by reason, the last of each in words, now and then in the log."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from gateway.core.text import printable, sentence

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from gateway.core.contracts import Lost
    from gateway.core.telemetry import Telemetry

# A flood is one line a minute for each reason, with how many there were.
SAY_S: Final = 60.0
# Who is told no and stays is nothing to worry about: many devices subscribe to a command topic beside publishing.
HARMLESS: Final = frozenset({"subscribe", "session_taken_over"})
TOPIC_CHARS_MAX: Final = 100


class Refusals:
    """What one source refused. Reasons are words of our own, so there are few; `now_s` is a steady clock."""

    def __init__(self, source: str, *, telemetry: Telemetry, now_s: Callable[[], float], log: logging.Logger) -> None:
        self.last_sentence = ""
        self._source = source
        self._telemetry = telemetry
        self._now_s = now_s
        self._log = log
        self._counts: dict[str, int] = {}
        self._last: dict[str, str] = {}
        # reason → when it was last said, and how many there were then
        self._said: dict[str, tuple[float, int]] = {}

    def note(self, reason: str, why: str) -> None:
        """Count one, and say it unless that reason was said less than a minute ago."""
        count = self._counts[reason] = self._counts.get(reason, 0) + 1
        # Who is turned away has chosen the name, the topic and the id that this holds.
        said_now = self._last[reason] = self.last_sentence = sentence(why)
        self._telemetry.count("tidegate_source_refused", source=self._source, reason=reason)
        said_s, said = self._said.get(reason, (float("-inf"), 0))
        now_s = self._now_s()
        if now_s - said_s < SAY_S:
            return
        self._said[reason] = (now_s, count)
        others = f" and {count - said - 1} more since the last such line" if count - said > 1 else ""
        level = logging.INFO if reason in HARMLESS else logging.WARNING
        self._log.log(level, "%s: refused (%s): %s%s", self._source, reason, said_now, others)

    def status(self) -> dict[str, dict[str, object]]:
        """Return `refused` (how often, by reason) and `refused_last` (the last one of each reason, in words)."""
        return {"refused": dict(self._counts), "refused_last": dict(self._last)}


def lost_words(lost: Lost, topics: Sequence[bytes]) -> str:
    """Return why a message is not used, and on which of `topics` it came."""
    topic = printable(topics[lost.at][: 4 * TOPIC_CHARS_MAX].decode(errors="replace"), TOPIC_CHARS_MAX)
    return f"{lost.sentence}, on the topic {topic}"
