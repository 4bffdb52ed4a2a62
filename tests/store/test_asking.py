"""Where single segments are, and what the last payloads were that could not be used."""

from __future__ import annotations

from gateway.store.database import Loss, SetAside


async def test_each_segment_is_somewhere(shelves) -> None:
    """Held, on its way, settled, or gone, for each uplink."""
    store = await shelves.open(uplinks=("cloud", "archive"))
    await shelves.put(store, 3)
    (number,) = store.newest_segments
    assert await store.whereabouts([number, number + 1]) == {
        number: {"cloud": "held", "archive": "held"},
        number + 1: {"cloud": "gone", "archive": "gone"},
    }
    lease = await shelves.lease(store)
    assert (await store.whereabouts([number]))[number] == {"cloud": "sending", "archive": "held"}
    store.ack(lease)
    await store.append([])
    assert (await store.whereabouts([number]))[number] == {"cloud": "settled", "archive": "held"}


async def test_the_newest_payload_comes_first(shelves) -> None:
    """No more than were asked for."""
    store = await shelves.open()
    for number in range(3):
        aside = SetAside("plant", b"t", b"{%d" % number, "syntax", "no")
        await store.append([], losses=[Loss("syntax", 1, 5, 5)], set_aside=[aside])
    assert [row.what.payload for row in await store.quarantined(limit=2)] == [b"{2", b"{1"]
