"""What our session at a broker is subscribed to, remembered across restarts. Must not talk to a broker.

A persistent session keeps every subscription until it is told otherwise, and MQTT has no way to ask for the list: a
topic that was taken out of the configuration would come for ever. What arrives does not say which filter let it
through either, so it cannot be found out from that. Hence a file for each session: a filter stands in it from
before it is asked for until the broker has confirmed that it is gone. Whenever the power is cut, the file names at
least what the broker has; what it names too much costs an UNSUBSCRIBE that finds nothing. It is written when the
configuration has changed, and not at an ordinary connect.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from typing import TYPE_CHECKING, Final

import msgspec

from gateway.net.files import read_file, replace_file

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

log = logging.getLogger("tidegate.mqtt")

FILE_BYTES_MAX: Final = 8 << 20
FILTERS_MAX: Final = 4096
# Of sessions that nobody uses any more: the files of those used last stay.
FILES_MAX: Final = 64


class Session(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """The file: whose session it is, for people, and its filters."""

    broker: str
    client_id: str
    topics: list[str]


class Subscriptions:
    """The filters that one session may have at its broker, oldest first. A `folder` of None remembers nothing."""

    def __init__(self, folder: Path | None, *, broker: str, client_id: str) -> None:
        self._session = Session(broker, client_id, [])
        name = hashlib.blake2b(f"{broker}\0{client_id}".encode(), digest_size=8).hexdigest()
        self.path = None if folder is None else folder / f"mqtt-{name}.json"
        self._filters = dict.fromkeys(self._read())
        self.sessions_lost = 0  # since the start

    def surplus(self, wanted: Iterable[str]) -> list[str]:
        """Return the filters that nobody wants any more."""
        keep = set(wanted)
        return [topic for topic in self._filters if topic not in keep]

    async def add(self, topics: Iterable[str]) -> None:
        """Note what is about to be asked for; return when that is on the medium."""
        await self._become({**self._filters, **dict.fromkeys(topics)})

    async def remove(self, topics: Iterable[str]) -> None:
        """Note what the broker has let go."""
        gone = set(topics)
        await self._become(dict.fromkeys(topic for topic in self._filters if topic not in gone))

    async def forget(self, *, has_kept: bool = False) -> None:
        """Note that the broker has no session of ours: nothing is subscribed to.

        Where there was one, `has_kept` says whether it kept messages while we were away: nobody knows how many, so
        that no ledger has them, and saying it is all that can be done.
        """
        if self._filters and self.path is not None and has_kept:
            self.sessions_lost += 1
            log.warning(
                "the broker at %s has forgotten our session %s, and with it whatever it had taken for us and not sent: "
                "nobody can count that; give the broker persistence, and the source a longer session_expiry if it was "
                "away for longer than that (docs/OPERATING.md)",
                *(self._session.broker, self._session.client_id),
            )
        await self._become({})

    async def _become(self, filters: dict[str, None]) -> None:
        if filters.keys() == self._filters.keys():
            return
        self._filters = dict.fromkeys(list(filters)[-FILTERS_MAX:])
        if self.path is None:
            return
        session = msgspec.structs.replace(self._session, topics=list(self._filters))
        try:
            await asyncio.to_thread(_write, self.path, msgspec.json.encode(session))
        except OSError as error:
            log.warning(
                "%s cannot be written (%s): a topic that is taken out of the configuration may go on coming from %s",
                *(self.path, error.strerror, self._session.broker),
            )

    def _read(self) -> list[str]:
        if self.path is None:
            return []
        try:
            found = msgspec.json.decode(read_file(self.path, bytes_max=FILE_BYTES_MAX), type=Session)
        except FileNotFoundError:
            return []
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
            log.warning("%s cannot be read (%s): subscriptions of earlier runs stay as they are", self.path, error)
            return []
        return found.topics[:FILTERS_MAX]


def _write(path: Path, data: bytes) -> None:
    """Replace the file; where it is a new one, the oldest of very many make way."""
    if not path.exists():
        known = sorted(path.parent.glob("mqtt-*.json"), key=lambda file: file.stat().st_mtime)
        for file in known[: len(known) + 1 - FILES_MAX]:
            file.unlink(missing_ok=True)
    replace_file(path, data)
