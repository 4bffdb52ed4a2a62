"""Checks for what is remembered of a client."""

from __future__ import annotations

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.net.mqtt_packets import Connect, Will
from gateway.sources.mqtt_server_session import PAGE_BYTES, PacketIdSet, Session, Sessions

PACKET_IDS = st.integers(1, 65535).map(lambda k: k.to_bytes(2, "big")) | st.sampled_from(
    [b"\0\1", b"\0\2", b"\xff\xff"]
)


@given(st.lists(st.tuples(st.booleans(), PACKET_IDS), max_size=60))
def test_packet_ids_are_a_set(steps: list[tuple[bool, bytes]]) -> None:
    """The bitmap and a plain set agree after every step; a page with nothing in it takes nothing."""
    ours, model = PacketIdSet(), set()
    for is_add, packet_id in steps:
        if is_add:
            ours.add(packet_id)
            model.add(packet_id)
        else:
            assert ours.discard(packet_id) is (packet_id in model)
            model.discard(packet_id)
        assert len(ours) == len(model)
        assert (packet_id in ours) is (packet_id in model)
        pages = {int.from_bytes(packet_id, "big") // 1024 for packet_id in model}
        assert ours.size_bytes == PAGE_BYTES * (len(pages) + bool(pages))


def connect(*, clean_start: bool = False, expiry_s: int = 100) -> Connect:
    return Connect(version=5, client_id=b"d", clean_start=clean_start, keep_alive_s=0, session_expiry_s=expiry_s)


def sessions(sessions_max: int = 10) -> tuple[Sessions, list[Session]]:
    evicted: list[Session] = []
    return Sessions(sessions_max=sessions_max, on_evicted=evicted.append), evicted


def test_a_session_is_resumed_until_it_expires() -> None:
    """And no longer than the server allows."""
    all_, _ = sessions()
    first, resumed = all_.open(("u", b"d"), connect(), expiry_s_max=50, now_s=0)
    assert not resumed
    all_.close(first, now_s=10)
    all_.expire(now_s=59)
    assert all_.open(("u", b"d"), connect(), expiry_s_max=50, now_s=59) == (first, True)
    all_.close(first, now_s=60)
    second, resumed = all_.open(("u", b"d"), connect(), expiry_s_max=50, now_s=111)
    assert second is not first
    assert not resumed
    all_.close(second, now_s=200)
    assert all_.expire(now_s=250) == [second]
    assert len(all_) == 0


def test_a_clean_start_and_an_expiry_of_0_leave_nothing() -> None:
    """Each in its way."""
    all_, _ = sessions()
    first, _ = all_.open(("u", b"d"), connect(), expiry_s_max=50, now_s=0)
    all_.close(first, now_s=0)
    second, resumed = all_.open(("u", b"d"), connect(clean_start=True, expiry_s=0), expiry_s_max=50, now_s=1)
    assert second is not first
    assert not resumed
    all_.close(second, now_s=2)
    assert len(all_) == 0


def test_a_client_id_means_nothing_to_another_user() -> None:
    """So nobody pushes somebody else out."""
    all_, _ = sessions()
    one, _ = all_.open(("u", b"d"), connect(), expiry_s_max=50, now_s=0)
    two, resumed = all_.open(("v", b"d"), connect(), expiry_s_max=50, now_s=0)
    assert one is not two
    assert not resumed


def test_the_session_to_expire_next_is_evicted() -> None:
    """Connected ones never are."""
    all_, evicted = sessions(sessions_max=2)
    opened = {
        name: all_.open(("u", name), connect(expiry_s=expiry_s), expiry_s_max=100, now_s=0)[0]
        for name, expiry_s in ((b"a", 90), (b"b", 10))
    }
    for session in opened.values():
        all_.close(session, now_s=0)
    all_.open(("u", b"c"), connect(), expiry_s_max=100, now_s=0)
    assert all_.find(("u", b"b")) is None
    assert all_.find(("u", b"a")) is not None
    assert evicted == [opened[b"b"]]
    for name in (b"d", b"e"):
        all_.open(("u", name), connect(), expiry_s_max=100, now_s=0)
    assert len(all_) == 3
    assert len(evicted) == 2


def test_whoever_has_most_sessions_makes_room() -> None:
    """However long its sessions last: one login cannot make the server forget another's."""
    all_, evicted = sessions(sessions_max=4)
    keys = [("alice", b"a"), *(("mallory", bytes([65 + k])) for k in range(5))]
    for key in keys:
        expiry_s = 10 if key[0] == "alice" else 90
        all_.close(all_.open(key, connect(expiry_s=expiry_s), expiry_s_max=100, now_s=0)[0], now_s=0)
    assert all_.find(("alice", b"a")) is not None
    assert [session.key for session in evicted] == keys[1:3]


def test_clients_that_are_gone_leave_a_bounded_number_of_packet_ids(monkeypatch) -> None:
    """What these take is bounded: the next to expire goes, with room for those that owe nothing."""
    count = 100
    monkeypatch.setattr("gateway.sources.mqtt_server_session.GONE_IDS_BYTES_MAX", count * 2 * PAGE_BYTES)
    all_, evicted = sessions(sessions_max=1000)
    for number in range(count + 3):
        session, _ = all_.open(("u", b"%d" % number), connect(), expiry_s_max=100, now_s=number)
        session.keep([b"\0\1"])
        all_.close(session, now_s=number)
    assert [session.key[1] for session in evicted] == [b"0", b"1", b"2"]
    again, is_resumed = all_.open(("u", b"3"), connect(), expiry_s_max=100, now_s=60)
    assert is_resumed
    assert b"\0\1" in again.kept
    empty, _ = all_.open(("u", b"new"), connect(), expiry_s_max=100, now_s=60)
    all_.close(empty, now_s=60)
    assert len(evicted) == 3
    assert len(all_.expire(now_s=1000)) == count
    all_.close(again, now_s=1000)
    assert len(all_) == 1


def test_a_fleet_that_is_gone_at_once_keeps_its_packet_ids() -> None:
    """A thousand devices with a QoS 2 message under way each find their session again, and send it once."""
    all_, evicted = sessions(sessions_max=4000)
    for number in range(1000):
        session, _ = all_.open(("u", b"%d" % number), connect(), expiry_s_max=100, now_s=0)
        session.keep([(60 * number + 1).to_bytes(2, "big")])
        all_.close(session, now_s=0)
    assert not evicted


def test_one_alone_may_leave_all_ids_that_there_are(monkeypatch) -> None:
    """Also such as are on their way: it never goes for its own sake."""
    monkeypatch.setattr("gateway.sources.mqtt_server_session.GONE_IDS_BYTES_MAX", PAGE_BYTES)
    all_, evicted = sessions()
    session, _ = all_.open(("u", b"d"), connect(), expiry_s_max=100, now_s=0)
    session.offered.update(k.to_bytes(2, "big") for k in range(1, 65536))
    all_.close(session, now_s=0)
    session.keep(list(session.offered))
    assert session.ids_bytes == PAGE_BYTES * 65
    assert not evicted
    assert all_.open(("u", b"d"), connect(), expiry_s_max=100, now_s=1) == (session, True)


@pytest.mark.parametrize("is_kept", [True, False])
def test_a_session_takes_no_more_than_what_it_remembers(is_kept: bool) -> None:
    """However many messages were once on their way: a set never gives back what it took by itself."""
    ids = [k.to_bytes(2, "big") for k in range(1, 30_000)]
    session = Session(("u", b"d"))
    session.offered.update(ids)
    session.owed.update(ids)
    if is_kept:
        assert session.keep(ids) == ids
        for packet_id in ids:
            session.kept.discard(packet_id)
    else:
        assert session.lose(ids)
        assert not session.lose(ids)
    assert sys.getsizeof(session.offered) == sys.getsizeof(session.owed) == sys.getsizeof(set())
    assert sys.getsizeof(session.kept._pages) == sys.getsizeof({})


def test_wills_that_wait_are_found() -> None:
    """By whoever stops the server."""
    all_, _ = sessions()
    session, _ = all_.open(("u", b"d"), connect(), expiry_s_max=50, now_s=0)
    assert all_.waiting_wills() == []
    session.will = Will(b"t", b"", 0)
    assert all_.waiting_wills() == [session]
