"""A message is followed from its arrival to each uplink, by a real mapper and shelf; and nobody pays when nobody asks."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from gateway import tracing
from gateway.codecs.mapping import Mapper
from gateway.codecs.mapping_settings import MappingSettings
from gateway.core.clock import NS_PER_S, FakeClock
from gateway.core.contracts import DROPPED_BY_MAPPING as DROPPED
from gateway.core.contracts import OVERSIZE, Arrivals, FullError, Lost
from gateway.core.telemetry import Telemetry
from gateway.pipeline import Pipeline
from gateway.store.database import Store, StoreSettings
from gateway.store.records import STATE_ID
from gateway.store.taking import origin_of, taking
from gateway.tracing import Tracer
from hil import virtual_time

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from pathlib import Path

    from gateway.store.taking import Takes

MAPPINGS = msgspec.convert(
    [
        {"match": "only/serial", "source": "line1", "fields": "*"},
        {
            "match": "plant/{device}/climate",
            "resource": {"device.id": "{device}"},
            "metrics": [{"field": "temp", "name": "temperature", "unit": "Cel"}],
        },
        {"match": "urgent/#", "fields": "*", "class": "critical"},
        {"match": "list/#", "each": "*", "fields": "*"},
        {"match": "noise/#", "drop": True},
        {"match": "#", "fields": "*"},
    ],
    tuple[MappingSettings, ...],
)


class Plant:
    """A pipeline with a tracer, and a shelf with two uplinks."""

    def __init__(self, state_dir: Path) -> None:
        self.state_dir = state_dir
        self.clock = FakeClock()
        self.store: Store
        self.pipeline: Pipeline
        self.tracer: Tracer

    async def open(self, *, takes: Mapping[str, Takes] | None = None, **settings: Any) -> None:
        self.store = await Store.open(
            state_dir=self.state_dir, settings=StoreSettings(**settings), clock=self.clock, uplinks=["cloud", "backup"],
            max_series=99, telemetry=Telemetry(), commit_interval_s=0, takes=takes or {},
        )  # fmt: skip
        origins = [origin_of(mapping.match) if takes else 0 for mapping in MAPPINGS]
        mapper = Mapper(MAPPINGS, resolve=self.store.resolve, origins=origins)
        self.pipeline = Pipeline(mapper=mapper, engine=None, store=self.store, clock=self.clock, telemetry=Telemetry())
        self.tracer = Tracer(
            store=self.store, clock=self.clock, attach=lambda tracer: setattr(self.pipeline, "tracer", tracer)
        )

    async def begin(self, topic: str = "#", **asked: object) -> str:
        answer = await self.tracer.answer({"topic": topic, **{key: str(value) for key, value in asked.items()}})
        return str(answer["id"])

    async def show(self, name: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = (await self.tracer.answer({"id": name}))["messages"]
        return found

    async def arrive(self, *messages: tuple[bytes, bytes], source: str = "direct") -> None:
        topics, payloads = zip(*messages, strict=True)
        await self.pipeline.accept(Arrivals(source, topics, payloads, self.clock.monotonic_ns()))

    async def lease(self, uplink: str = "cloud") -> Any:
        lease = await self.store.lease(uplink, readings_max=1000, bytes_max=1 << 20)
        assert lease is not None
        return lease


@pytest.fixture
async def plant(tmp_path: Path) -> AsyncIterator[Plant]:
    made = Plant(tmp_path)
    await made.open()
    yield made
    await made.store.close()


CLIMATE = (b"plant/d1/climate", b'{"temp": 20.5}')


async def test_a_message_is_told_from_its_arrival_to_the_disk(plant: Plant) -> None:
    """When, from where, which mapping took it and which did not, what came out, and in which segment it is."""
    name = await plant.begin("plant/+/climate")
    await plant.arrive((b"other", b'{"x": 1}'), CLIMATE)
    (message,) = await plant.show(name)
    assert (message["arrived"], message["source"]) == ("2026-09-21T14:13:20Z", "direct")
    assert (message["topic"], message["payload"], message["payload_bytes"]) == (
        "plant/d1/climate", '{"temp": 20.5}', 14,
    )  # fmt: skip
    assert message["mapping"] == {"index": 1, "match": "plant/{device}/climate"}
    assert [row["match"] for row in message["skipped"]] == ["only/serial"]
    assert message["lines"] == [
        "for      device.id=d1; class normal",
        "reading  temperature = 20.5 Cel (double) at 2026-09-21T14:13:20Z, time of arrival",
    ]
    assert (message["readings"], message["lost"], message["problems"]) == (1, 0, [])
    assert (message["state"], message["segments"]) == ("on disk", [{"sequence": 1, "class": "normal"}])
    assert message["uplinks"] == {
        "cloud": {"state": "held", "is_settled": False},
        "backup": {"state": "held", "is_settled": False},
    }


async def test_each_uplink_is_followed_to_its_end(plant: Plant) -> None:
    """Sent, and then delivered or lost, and how long that took."""
    name = await plant.begin()
    await plant.arrive(CLIMATE)
    lease = await plant.lease()
    assert (await plant.show(name))[0]["uplinks"]["cloud"]["state"] == "sending"
    plant.clock.advance(2 * NS_PER_S)
    plant.store.ack(lease)
    plant.store.refuse(await plant.lease("backup"), "refused", "bad name")
    for _ in range(2):
        (message,) = await plant.show(name)
        assert message["uplinks"] == {
            "cloud": {"state": "delivered", "is_settled": True, "after_s": 2.0},
            "backup": {"state": "lost: refused", "is_settled": True, "after_s": 2.0},
        }
        # Once the commit that says so is on disk, the segment is gone, and what became of it is still known.
        await plant.store.append([])


async def test_a_lease_that_came_back_is_held_again(plant: Plant) -> None:
    """And one of which a part was lost says that it may be the message's."""
    name = await plant.begin()
    await plant.arrive(CLIMATE, (b"a", b'{"x": 1, "y": 2}'))
    plant.store.release(await plant.lease(), maybe_delivered=False)
    assert (await plant.show(name))[0]["uplinks"]["cloud"]["state"] == "held"
    plant.store.ack(await plant.lease(), rejected=1)
    word = "delivered but for 1 of the 3 readings beside it: rejected"
    assert (await plant.show(name))[0]["uplinks"]["cloud"]["state"] == word


async def test_what_is_let_go_for_want_of_room_is_said(plant: Plant) -> None:
    """The ledger knows why; the message is nowhere any more."""
    name = await plant.begin()
    await plant.arrive(CLIMATE)
    await plant.store._connection.execute_fetchall(f"DELETE FROM shelf WHERE id < {STATE_ID}")
    (message,) = await plant.show(name)
    assert message["uplinks"]["cloud"] == {"state": "gone", "is_settled": True}


async def test_a_message_of_two_classes_in_one_commit(plant: Plant) -> None:
    """Each finds its own segment among those of its commit."""
    name = await plant.begin()
    await plant.arrive(CLIMATE, (b"urgent/x", b'{"a": 1}'))
    normal, critical = await plant.show(name)
    assert (normal["segments"][0]["class"], critical["segments"][0]["class"]) == ("normal", "critical")
    plant.store.ack(await plant.lease())
    normal, critical = await plant.show(name)
    assert (normal["uplinks"]["cloud"]["state"], critical["uplinks"]["cloud"]["state"]) == ("held", "delivered")


async def test_an_uplink_that_does_not_take_a_message_says_so(plant: Plant) -> None:
    """Of two in one commit each is told of its own segment, before and after that was sent."""
    await plant.store.close()
    await plant.open(takes={"cloud": taking(mappings=["plant/{device}/climate"])})
    name = await plant.begin()
    await plant.arrive((b"other", b'{"x": 1}'), CLIMATE)
    other, climate = await plant.show(name)
    assert (len(other["segments"]), len(climate["segments"])) == (1, 1)
    assert [message["uplinks"]["cloud"]["state"] for message in (other, climate)] == ["left_out", "held"]
    assert other["uplinks"]["cloud"]["is_settled"]
    plant.store.ack(await plant.lease())
    other, climate = await plant.show(name)
    assert [message["uplinks"]["cloud"]["state"] for message in (other, climate)] == ["left_out", "delivered"]
    assert [message["uplinks"]["backup"]["state"] for message in (other, climate)] == ["held", "held"]


async def test_a_message_that_nobody_understands_says_why(plant: Plant) -> None:
    """And that there is nothing to keep of it."""
    name = await plant.begin()
    await plant.arrive((b"plant/d1/climate", b'{"temp": "n/a"}'))
    (message,) = await plant.show(name)
    assert message["state"] == "nothing to keep"
    assert (message["readings"], message["lost"], message["uplinks"]) == (0, 1, {})
    assert "n/a" in message["problems"][0]


async def test_a_message_that_is_dropped_on_purpose_says_so(plant: Plant) -> None:
    """As the mapping is told to: nothing is lost, and nothing is a problem."""
    name = await plant.begin()
    await plant.arrive((b"noise/d1", b'{"temp":1}'))
    (message,) = await plant.show(name)
    assert message["mapping"] == {"index": 4, "match": "noise/#"}
    assert message["lines"] == [
        "dropped  on purpose: this mapping says drop = true; the ledger counts it as " + DROPPED
    ]
    assert (message["lost"], message["problems"], message["state"]) == (0, [], "nothing to keep")


async def test_what_was_lost_on_the_way_to_a_mapping_that_drops_is_lost(plant: Plant) -> None:
    """The ledger has it with the source's reason, and not as dropped_by_mapping."""
    name = await plant.begin()
    lost = [Lost(0, OVERSIZE, "a packet of 2000 bytes")]
    await plant.pipeline.accept(Arrivals("direct", [b"noise/d1"], [b"{"], plant.clock.monotonic_ns(), lost=lost))
    (message,) = await plant.show(name)
    assert (message["lost"], message["lines"]) == (1, [])
    assert "a packet of 2000 bytes" in message["problems"][0]


async def test_readings_that_are_lost_alike_are_counted_and_said_once(plant: Plant) -> None:
    """However many there are."""
    name = await plant.begin()
    await plant.arrive((b"list/x", b"[{}, {}, {}]"))
    (message,) = await plant.show(name)
    assert (message["readings"], message["lost"]) == (0, 3)
    assert message["problems"] == ["there is no number in the payload (3 times)"]


async def test_a_traced_message_comes_out_like_any_other(plant: Plant) -> None:
    """It is mapped twice and kept once, and what the mapper has learnt of its metric stays true."""
    for payload in (b'{"x": 1.5}', b'{"x": 2}'):
        await plant.arrive((b"a", payload))
    name = await plant.begin()
    await plant.arrive((b"a", b'{"x": 3}'))
    (message,) = await plant.show(name)
    assert message["lines"][1].startswith("reading  x = 3.0 (double)")
    assert plant.store.status()["accepted"] == 3


async def test_a_traced_message_is_its_senders(plant: Plant) -> None:
    """Mapped again it must not take a series out of somebody else's share."""
    asked: list[str] = []
    plant.pipeline.mapper = Mapper(MAPPINGS, resolve=lambda _, owner: asked.append(owner))
    await plant.begin("b")
    users = [(1, "pump"), (2, "fan")]
    await plant.pipeline.accept(Arrivals("direct", [b"a", b"b", b"c"], [b"1"] * 3, 0, users=users))
    assert asked == ["direct/pump", "direct/fan", "direct/fan", "direct/fan"]


async def test_what_finds_no_room_says_so_until_it_does(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    """The source offers the same arrivals again."""
    name = await plant.begin()
    arrivals = Arrivals("direct", [CLIMATE[0]], [CLIMATE[1]], plant.clock.monotonic_ns())

    def full(*_: object, **__: object) -> None:
        raise FullError("the shelf is full")

    with monkeypatch.context() as patch:
        patch.setattr(plant.store, "append", full)
        with pytest.raises(FullError):
            await plant.pipeline.accept(arrivals)
    assert (await plant.show(name))[0]["state"] == "no room now: the shelf is full"
    plant.clock.advance(3 * NS_PER_S)
    await plant.pipeline.accept(arrivals)
    (message,) = await plant.show(name)
    assert (message["state"], message["on_disk_after_s"]) == ("on disk", 3.0)


async def test_a_message_on_its_way_to_the_disk_waits_for_it(plant: Plant) -> None:
    """Seen in the middle of a commit."""
    name = await plant.begin()
    task = asyncio.create_task(plant.arrive(CLIMATE))
    await asyncio.sleep(0)
    assert (await plant.show(name))[0]["state"] == "waiting for the disk"
    await task
    assert (await plant.show(name))[0]["state"] == "on disk"


# Bounds.


async def test_only_as_many_as_were_asked_for(plant: Plant) -> None:
    """And then nothing is noted any more: the pipeline does not even ask."""
    name = await plant.begin(count=2)
    await plant.arrive(*[CLIMATE] * 5)
    assert len(await plant.show(name)) == 2
    assert (await plant.tracer.answer({"id": name}))["is_over"]
    await plant.arrive(CLIMATE)
    assert plant.pipeline.tracer is None
    assert len(await plant.show(name)) == 2


async def test_a_flood_of_large_messages_is_bounded_in_bytes(plant: Plant) -> None:
    """Each is cut, and the trace ends when all of them together are too much."""
    name = await plant.begin(count=100)
    payload = b"{" + b", ".join(b'"%s%d": %d' % (b"k" * 200, k, k) for k in range(60)) + b"}"
    for _ in range(100):
        await plant.arrive((b"t/" + b"x" * 900, payload))
    answer = await plant.tracer.answer({"id": name})
    assert len(repr(answer["messages"][0])) < 12_000
    assert len(repr(answer)) < tracing.BYTES_MAX + 40_000
    assert answer["messages"][0]["readings"] == 60
    assert answer["messages"][0]["readings_shown"] == tracing.READINGS_SHOWN


async def test_everything_foreign_in_it_fits_one_line(plant: Plant) -> None:
    """It goes to a terminal."""
    name = await plant.begin()
    await plant.arrive(("t/\x1b[2J\u202e".encode(), b'{"\\u001b[2J": 1, "\\n": {"a": "x"}}'), (b"t/\xff", b"\xa1"))
    for message in await plant.show(name):
        for text in (message["topic"], message["payload"], *message["lines"], *message["problems"]):
            assert text.isprintable()


@pytest.mark.parametrize(
    ("payload", "shown"),
    [
        (b"", ""),
        (b"20.5\n", "20.5\\n"),
        (b"\x00\xff", "hex 00ff"),
        ("ü".encode() * 200, "ü" * 80),
        (b"a" * 500, "a" * 159 + "…"),
        (b"\xff" * 500, "hex " + "f" * 155 + "…"),
    ],
)
async def test_a_payload_is_shown_as_far_as_it_is_short(plant: Plant, payload: bytes, shown: str) -> None:
    """Text as text, the rest as hex."""
    name = await plant.begin()
    await plant.arrive((b"t", payload))
    assert (await plant.show(name))[0]["payload"] == shown


@pytest.mark.parametrize(
    ("asked", "wrong"),
    [
        ({"topic": "a/#/b"}, "# takes the rest"),
        ({"topic": "a+"}, "is no level"),
        ({"topic": "x" * 2000}, "longer than 1024 letters"),
        ({"topic": "#", "count": "0"}, "count is a number from 1 to 100"),
        ({"topic": "#", "count": "many"}, "count is a number from 1 to 100"),
        ({"topic": "#", "count": "101"}, "count is a number from 1 to 100"),
        ({"topic": "#", "seconds": "nan"}, "seconds is a number from 1 to 600"),
        ({"topic": "#", "seconds": "86400"}, "seconds is a number from 1 to 600"),
        ({"id": "nobody"}, "no such trace"),
    ],
)
async def test_a_question_that_is_none(plant: Plant, asked: dict[str, str], wrong: str) -> None:
    """Says what would be right."""
    with pytest.raises(ValueError, match=wrong):
        await plant.tracer.answer(asked)
    assert plant.pipeline.tracer is None


async def test_a_few_at_once(plant: Plant) -> None:
    """Each has its own messages; one more than there may be is turned away."""
    names = [await plant.begin(f"t/{k}") for k in range(tracing.TRACES_MAX)]
    await plant.arrive((b"t/1", b"1"), (b"t/2", b"2"))
    assert [len(await plant.show(name)) for name in names] == [0, 1, 1, 0]
    assert await plant.tracer.answer({}) == {"traces": tracing.TRACES_MAX}
    with pytest.raises(ValueError, match="4 traces run already"):
        await plant.begin()


class QuietStore:
    """Stands where nothing is traced."""

    def __init__(self) -> None:
        self.settling = SimpleNamespace(on_settled=None)


def test_a_message_in_two_segments_is_held_until_both_are_gone() -> None:
    """Whichever of them is looked at first."""
    tracer = Tracer(store=None, clock=FakeClock(), attach=lambda _: None)  # type: ignore[arg-type]
    for words in ("settled", "held"), ("held", "settled"):
        note = tracing.Note({}, 0, set(), segments=[1, 2])
        places = {number: {"cloud": word} for number, word in enumerate(words, start=1)}
        assert tracer._uplinks(note, places)["cloud"] == {"state": "held", "is_settled": False}


def test_a_trace_that_nobody_asks_for_is_given_up() -> None:
    """As after Ctrl-C; and one that is asked for goes on until its time is over, and a little longer."""

    async def main() -> None:
        store: Any = QuietStore()
        attached: list[Tracer | None] = []
        tracer = Tracer(store=store, clock=FakeClock(), attach=attached.append)
        name = (await tracer.answer({"topic": "#", "seconds": "60"}))["id"]
        for second in range(70):
            await asyncio.sleep(1)
            answer = await tracer.answer({"id": name})
            assert answer["is_over"] == (second >= 59)
        assert store.settling.on_settled is not None
        await asyncio.sleep(tracing.UNASKED_S_MAX + 2)
        with pytest.raises(ValueError, match="it is over"):
            await tracer.answer({"id": name})
        assert store.settling.on_settled is None
        assert attached[-1] is None
        await tracer.answer({"topic": "#"})
        await asyncio.sleep(tracing.UNASKED_S_MAX + 2)
        assert await tracer.answer({}) == {"traces": 0}

    virtual_time.run(main())


async def test_many_topics_are_not_remembered_for_ever(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which topics match is looked up once each, within a bound."""
    monkeypatch.setattr(tracing, "TOPICS_KNOWN_MAX", 3)
    name = await plant.begin("t/7")
    await plant.arrive(*[(b"t/%d" % k, b"1") for k in range(20)])
    assert len(await plant.show(name)) == 1
    assert len(plant.tracer._traces[name]._known) <= 3


def test_long_topics_are_not_remembered() -> None:
    """Those of a broker may have 64 KB each."""
    trace = tracing.Trace("a/#", count=1, until_s=1.0, now_s=0.0)
    long = [b"a/" + b"x" * (60_000 + number) for number in range(20)]
    assert all(trace.wants(topic) for topic in long)
    assert not trace.wants(b"b" * 60_000)
    assert sum(map(len, trace._known)) < 1000


async def test_a_message_that_its_source_lost_says_so(plant: Plant) -> None:
    """And nothing is made of what there is of it; its neighbour is told as ever."""
    name = await plant.begin()
    arrivals = Arrivals("direct", [b"a", b"a"], [b'{"t":1}', b'{"t":2}'], plant.clock.monotonic_ns())
    arrivals.lost = [Lost(1, "oversize", "a packet of 2000 bytes")]
    await plant.pipeline.accept(arrivals)
    good, lost = await plant.show(name)
    assert (good["readings"], good["lost"]) == (1, 0)
    assert (lost["readings"], lost["lost"]) == (0, 1)
    assert "a packet of 2000 bytes" in lost["problems"][0]
