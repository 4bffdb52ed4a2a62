"""Nothing in the state directory is followed out of it, neither by us nor by SQLite."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gateway import app
from gateway.sources.mqtt_subscriptions import Subscriptions
from gateway.store import room, starting
from gateway.store.connection import DATABASE, LOCK
from gateway.store.database import StoreError
from gateway.store.files import NAMES, check_place
from gateway.store.peeking import peek
from gateway.store.reading import read_held, verify
from gateway.uplinks import link_notes


def test_all_names_are_known() -> None:
    """What the gateway makes there begins with one of them."""
    subscriptions = Subscriptions(Path("/"), broker="b", client_id="c").path
    assert subscriptions is not None
    for name in (
        DATABASE,
        LOCK,
        room.BALLAST,
        starting.SUSPECT,
        app.DETECTOR_STATE_FILE,
        link_notes.NAME,
        subscriptions.name,
    ):
        assert name.startswith(NAMES)


OURS = [LOCK, DATABASE, f"{DATABASE}-wal", f"{DATABASE}.suspect", f"{DATABASE}.new", room.BALLAST]
OURS += [app.DETECTOR_STATE_FILE, f"{app.DETECTOR_STATE_FILE}.new", f"{DATABASE}.damaged-20260101T000000Z"]


@pytest.mark.parametrize("name", OURS)
async def test_a_link_among_our_files_is_refused_and_its_target_left_alone(shelves, tmp_path, name) -> None:
    """With a sentence that names both ends and says what to do."""
    store = await shelves.open()
    await shelves.put(store, 1)
    await shelves.close()
    target = tmp_path / "target"
    target.write_bytes(b"")
    path = shelves.state_dir / name
    path.unlink(missing_ok=True)
    path.symlink_to(target)
    with pytest.raises(StoreError, match=f"{name} is a symbolic link to {target}.*set state_dir to where it is"):
        await shelves.open()
    assert target.read_bytes() == b""
    path.unlink()
    await shelves.open()


async def test_a_link_that_somebody_else_put_there_is_nobodys_business(shelves) -> None:
    """Only our own names matter."""
    shelves.state_dir.mkdir()
    (shelves.state_dir / "notes").symlink_to("/nowhere")
    await shelves.open()


async def test_the_directory_itself_may_be_a_link(shelves, tmp_path) -> None:
    """That is how people move it to another disk."""
    (tmp_path / "real").mkdir()
    shelves.state_dir.symlink_to(tmp_path / "real")
    store = await shelves.open()
    await shelves.put(store, 1)
    assert (tmp_path / "real" / DATABASE).exists()


@pytest.mark.parametrize("name", [DATABASE, LOCK])
def test_what_is_no_file_is_refused(tmp_path, name) -> None:
    """A pipe would be waited at for ever."""
    os.mkfifo(tmp_path / name)
    with pytest.raises(StoreError, match=f"{name} is no file; move it away"):
        check_place(tmp_path)


@pytest.mark.parametrize(
    "look", [verify, read_held, lambda folder: peek(folder, lambda tables: tables.count("ledger"))]
)
@pytest.mark.parametrize("name", [DATABASE, f"{DATABASE}-wal"])
async def test_looking_from_outside_follows_no_link(shelves, tmp_path, look, name) -> None:
    """Whoever looks may be root, and the directory somebody else's."""
    await shelves.open()
    await shelves.close()
    path = shelves.state_dir / name
    path.unlink(missing_ok=True)
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoreError, match="symbolic link"):
        look(shelves.state_dir)


def test_a_directory_that_cannot_be_read(tmp_path) -> None:
    """Whose it is may be wrong."""
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreError, match="cannot read .*Not a directory"):
        check_place(tmp_path / "file")
