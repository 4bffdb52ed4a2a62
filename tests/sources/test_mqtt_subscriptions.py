"""Checks for what is remembered of a session's subscriptions."""

from __future__ import annotations

import json
import logging
import os
from typing import TYPE_CHECKING

import pytest

from gateway.sources import mqtt_subscriptions
from gateway.sources.mqtt_subscriptions import Subscriptions

if TYPE_CHECKING:
    from pathlib import Path


def known(folder: Path | None, *, broker: str = "here:1883", client_id: str = "g1") -> Subscriptions:
    return Subscriptions(folder, broker=broker, client_id=client_id)


async def test_what_is_no_longer_wanted_is_surplus_until_it_is_gone(tmp_path: Path) -> None:
    """In this run and the next ones."""
    first = known(tmp_path)
    await first.add(["a/#", "b"])
    assert first.surplus(["a/#", "b"]) == []
    second = known(tmp_path)
    await second.add(["a/#", "c"])
    assert second.surplus(["a/#", "c"]) == known(tmp_path).surplus(["a/#", "c"]) == ["b"]
    await second.remove(["b"])
    assert known(tmp_path).surplus([]) == ["a/#", "c"]


async def test_a_session_that_is_gone_has_none(tmp_path: Path) -> None:
    """The broker said so."""
    session = known(tmp_path)
    await session.add(["a"])
    await session.forget()
    assert session.surplus([]) == known(tmp_path).surplus([]) == []


async def test_a_session_that_the_broker_has_lost_is_said_once(tmp_path: Path, caplog) -> None:
    """What the broker had queued in it stands in no ledger; after a restart of ours it is known, too."""
    await known(tmp_path).forget(has_kept=True)
    await known(None).add(["a"])
    assert not caplog.records, "there was none, at the first connect"
    await known(tmp_path).add(["a"])
    session = known(tmp_path)
    for _ in range(2):
        await session.forget(has_kept=True)
    assert session.sessions_lost == 1
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "broker at here:1883 has forgotten our session g1" in caplog.text


@pytest.mark.parametrize("is_clean", [True, False])
async def test_where_nothing_was_kept_nothing_is_lost(tmp_path: Path, caplog, is_clean: bool) -> None:
    """A clean session, or one of QoS 0 alone."""
    session = known(None if is_clean else tmp_path)
    await session.add(["a"])
    await session.forget(has_kept=is_clean)
    assert not session.sessions_lost
    assert not caplog.records


async def test_sessions_are_kept_apart(tmp_path: Path) -> None:
    """By broker and client id; the file says whose it is."""
    await known(tmp_path).add(["a"])
    await known(tmp_path, client_id="g2").add(["b"])
    await known(tmp_path, broker="there:1883").add(["c"])
    assert known(tmp_path).surplus([]) == ["a"]
    assert known(tmp_path, client_id="g2").surplus([]) == ["b"]
    path = known(tmp_path).path
    assert path is not None
    assert json.loads(path.read_bytes()) == {"broker": "here:1883", "client_id": "g1", "topics": ["a"]}


async def test_it_is_written_only_when_something_changes(tmp_path: Path) -> None:
    """An ordinary connect costs the card nothing."""
    session = known(tmp_path)
    await session.add(["a", "b"])
    assert session.path is not None
    session.path.unlink()
    await session.add(["b", "a"])
    await session.remove(["never there"])
    assert not session.path.exists()


async def test_without_a_folder_nothing_is_written() -> None:
    """A clean session has nothing to remember; within the run it is known all the same."""
    session = known(None)
    await session.add(["a"])
    assert session.surplus([]) == ["a"]


@pytest.mark.parametrize("text", [b"", b"{", b'{"broker": 1}', b"\xff", b'{"broker":"x","client_id":"y","topics":[1]}'])
async def test_a_damaged_file_is_said_and_begun_anew(tmp_path: Path, text: bytes, caplog) -> None:
    """A power cut on a bad card is no reason not to start."""
    path = known(tmp_path).path
    assert path is not None
    path.write_bytes(text)
    session = known(tmp_path)
    assert session.surplus([]) == []
    assert "cannot be read" in caplog.text
    await session.add(["a"])
    assert known(tmp_path).surplus([]) == ["a"]


async def test_a_pipe_in_its_place_is_said_and_not_waited_for(tmp_path: Path, caplog) -> None:
    """Nobody need ever write to it, and the gateway would not start."""
    path = known(tmp_path).path
    assert path is not None
    os.mkfifo(path)
    assert known(tmp_path).surplus([]) == []
    assert "cannot be read" in caplog.text


async def test_a_disk_that_takes_nothing_is_said(tmp_path: Path, caplog) -> None:
    """The subscription is made all the same."""
    session = known(tmp_path / "gone")
    with caplog.at_level(logging.WARNING):
        await session.add(["a"])
    assert "cannot be written" in caplog.text
    assert session.surplus([]) == ["a"]


async def test_files_of_old_sessions_make_way(tmp_path: Path, monkeypatch) -> None:
    """A client id that changes at each start fills no disk; those written last stay."""
    monkeypatch.setattr(mqtt_subscriptions, "FILES_MAX", 3)
    for k in range(5):
        session = known(tmp_path, client_id=f"g{k}")
        await session.add(["a"])
        assert session.path is not None
        os.utime(session.path, (k, k))
    assert len(list(tmp_path.iterdir())) == 3
    assert known(tmp_path, client_id="g1").surplus([]) == []
    assert known(tmp_path, client_id="g4").surplus([]) == ["a"]


async def test_filters_are_bounded(tmp_path: Path, monkeypatch) -> None:
    """The oldest are forgotten: a broker that never lets go makes no file that grows."""
    monkeypatch.setattr(mqtt_subscriptions, "FILTERS_MAX", 3)
    session = known(tmp_path)
    for k in range(5):
        await session.add([f"t{k}"])
    assert session.surplus([]) == known(tmp_path).surplus([]) == ["t2", "t3", "t4"]
