"""An uplink to a real nats-server on the real store: cut, killed, refusing; and the stream holds each reading once."""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import itertools
import random
import signal
import socket
from collections import Counter
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pytest

from gateway.codecs.otlp import encode_log_record
from gateway.control.reading import decode_hook
from gateway.core.batch import Batch, LogRecords, Series
from gateway.core.clock import SystemClock
from gateway.core.contracts import FullError, Priority
from gateway.core.telemetry import Telemetry
from gateway.store.database import Store, StoreSettings
from gateway.uplinks import endings, parked
from gateway.uplinks.delivery import Uplink
from gateway.uplinks.nats import seams_of
from gateway.uplinks.nats_settings import NatsUplinkSettings
from hil import scripted_nats
from hil.nats_operator import Key, Operator
from hil.otlp_readings import parse_logs, parse_metrics
from hil.scripted_nats import NatsScript, ScriptedNats

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from hil.nats_server import NatsServer, Stored

CLOCK = SystemClock()
GATEWAY = (("tidegate.gateway.id", "g1"),)


class Site:
    """A store with one uplink to a stream."""

    def __init__(self, store: Store, **table: Any) -> None:
        quick = {"timeout": "20s", "batch_interval": "50ms", "retry": {"initial": "50ms", "max": "50ms"}}
        full = {"type": "nats", "name": "cloud", **quick, **table}
        settings = msgspec.convert(full, NatsUplinkSettings, dec_hook=decode_hook)
        shared: dict[str, Any] = {
            "gateway_attributes": GATEWAY, "version": "1", "clock": CLOCK, "random": random.Random(1)
        }  # fmt: skip
        self.store = store
        self.is_closed = False
        self.telemetry = Telemetry()
        seams = seams_of(settings, series=store.series, **shared)
        self.wire: Any = seams.wire
        self.uplink = Uplink(settings, store=store, telemetry=self.telemetry, seams=seams, **shared)
        self.task = asyncio.create_task(self.uplink.run())

    async def append(self, start: int, count: int, *, devices: int = 4) -> None:
        numbers = np.arange(start, start + count)
        series = [self.store.resolve(Series((("device.id", f"d{k}"),), "n")) for k in range(devices)]
        batch = Batch.of(np.array(series)[numbers % devices], CLOCK.wall_ns() + numbers, numbers).sorted()
        await self.store.append([(Priority.NORMAL, batch)])

    def account(self) -> dict[str, Any]:
        status = self.store.status()
        account = status["uplinks"]["cloud"]
        assert status["accepted"] == account["delivered"] + account["held"] + sum(account["ledger"].values())
        return account

    def arrived(self) -> int:
        """Return how many readings a stream has stored, as the uplink knows it."""
        return int(self.account()["delivered"] + self.uplink.status()["in_hand_taken"])

    async def until(self, condition, *, within_s: float = 60.0) -> None:
        try:
            async with asyncio.timeout(within_s):
                while not condition():
                    if self.task.done() and not self.task.cancelled():
                        self.task.result()
                    self.account()
                    await asyncio.sleep(0.005)
        except TimeoutError as error:
            error.add_note(f"{self.uplink.status()} {self.account()}")
            raise

    async def drain(self) -> dict[str, Any]:
        await self.until(lambda: not self.account()["held"])
        return self.account()

    async def close(self) -> None:
        await self.end()
        if not self.is_closed:
            self.is_closed = True
            await self.store.close()

    async def end(self) -> None:
        if not self.task.done():
            self.task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self.task


@pytest.fixture
async def make_site(tmp_path: Path) -> AsyncIterator[Any]:
    """Open a store and start its uplink."""
    made: list[Site] = []

    async def make(**table: Any) -> Site:
        store = await Store.open(
            state_dir=tmp_path / "state",
            settings=StoreSettings(),
            clock=CLOCK,
            uplinks=["cloud"],
            max_series=1000,
            telemetry=Telemetry(),
            commit_interval_s=0.01,
        )
        made.append(Site(store, **table))
        return made[-1]

    yield make
    for site in made:
        await site.close()


@pytest.fixture
def nats(make_nats) -> NatsServer:
    """Give a server with a stream of all that is sent."""
    server = make_nats()
    server.make_stream("ALL", "tidegate.>")
    return server


def readings(messages: list[Stored]) -> Counter[float]:
    """Return how often each number is there, of OTLP and of messages of one reading."""
    found: Counter[float] = Counter()
    for message in messages:
        if message.subject.endswith(".metrics"):
            for reading in parse_metrics(unpacked(message)):
                found[reading.value] += 1
        elif not message.subject.endswith((".logs", ".traces")):
            found[msgspec.json.decode(message.data)["value"]] += 1
    return found


def unpacked(message: Stored) -> bytes:
    encoding = message.headers.get("Content-Encoding", "")
    if encoding == "zstd":
        from backports import zstd

        return zstd.decompress(message.data)
    if encoding == "gzip":
        import gzip

        return gzip.decompress(message.data)
    return message.data


@pytest.mark.parametrize("compression", ["none", "zstd", "gzip"])
async def test_readings_reach_a_stream(nats: NatsServer, make_site, compression: str) -> None:
    """As OTLP, each once; the account agrees, and the id says what it is."""
    site = await make_site(url=nats.url, compression=compression)
    await site.append(0, 500)
    assert (await site.drain())["delivered"] == 500
    messages = nats.stored("ALL")
    assert readings(messages) == Counter(range(500))
    assert {message.subject for message in messages} == {"tidegate.g1.metrics"}
    assert all(message.headers["Nats-Msg-Id"] for message in messages)
    status = site.uplink.status()
    assert (status["type"], status["stream"], status["duplicates"]) == ("nats", "ALL", 0)


async def test_readings_one_by_one_and_logs_as_otlp(nats: NatsServer, make_site) -> None:
    """A message for each reading on its own subject, with an id of its own; OTLP for what is no number."""
    site = await make_site(url=nats.url, payload="json", inflight_max=16)
    await site.append(0, 400)
    log = site.store.resolve(Series((("device.id", "d0"),), "", kind="log"))
    record = encode_log_record(
        time_ns=CLOCK.wall_ns(), observed_ns=0, severity_number=9, severity_text="", body="hello", attributes=()
    )
    await site.store.append([], logs=LogRecords(np.array([log], np.uint32), np.array([CLOCK.wall_ns()]), (record,)))
    assert (await site.drain())["delivered"] == 401
    messages = nats.stored("ALL")
    assert readings(messages) == Counter(range(400))
    (line,) = [line for one in messages if one.subject == "tidegate.g1.logs" for line in parse_logs(one.data)]
    assert line.body == "hello"
    assert {one.subject for one in messages} == {f"tidegate.g1.d{k}.n" for k in range(4)} | {"tidegate.g1.logs"}
    assert len({one.headers["Nats-Msg-Id"] for one in messages}) == 401


@pytest.mark.parametrize("payload", ["otlp", "json"])
async def test_an_answer_that_is_lost_makes_no_second_copy(
    nats: NatsServer, make_site, make_link, payload: str
) -> None:
    """The stream has it, the answer does not come through; what is sent again the stream knows by its id."""
    link = make_link(nats.address)
    site = await make_site(url=f"nats://127.0.0.1:{link.port}", payload=payload)
    await site.append(0, 40)
    await site.drain()
    for start in range(40, 240, 40):
        link.down.delay_s = 30.0
        stored = len(nats.stored("ALL"))
        await site.append(start, 40)
        await site.until(lambda stored=stored: len(nats.stored("ALL")) > stored)
        link.cut()
        link.down.delay_s = 0.0
        await site.drain()
    account = await site.drain()
    assert readings(nats.stored("ALL")) == Counter(range(240))
    assert (account["delivered"], account["ledger"]) == (240, {})
    status = site.uplink.status()
    assert 0 < status["duplicates"] <= account["maybe_twice"]


@pytest.mark.slow
@pytest.mark.parametrize("payload", ["otlp", "json"])
async def test_a_server_killed_in_mid_load_holds_each_once(
    nats: NatsServer, make_site, make_link, payload: str
) -> None:
    """And the road is cut again and again at any moment: whatever was in the air comes again under its id."""
    link = make_link(nats.address)
    site = await make_site(url=f"nats://127.0.0.1:{link.port}", payload=payload, inflight_max=8)
    dice = random.Random(3)
    for round_ in range(12):
        await site.append(round_ * 300, 300)
        before = site.uplink.status()["requests"]
        await site.until(lambda before=before: site.uplink.status()["requests"] > before)
        await asyncio.sleep(dice.random() * 0.02)
        if round_ % 4 == 3:
            await asyncio.to_thread(nats.kill)
            await asyncio.to_thread(nats.start)
        else:
            link.cut()
    account = await site.drain()
    assert readings(nats.stored("ALL")) == Counter(range(3600))
    assert (account["delivered"], account["ledger"]) == (3600, {})


async def test_where_no_stream_listens_all_is_held_until_one_does(make_nats, make_site) -> None:
    """The sentence names the subject; nothing is given up."""
    server = make_nats()
    site = await make_site(url=server.url)
    await site.append(0, 100)
    await site.until(lambda: "no stream listens at tidegate.g1.metrics" in site.uplink.status()["last_error"])
    assert site.account()["held"] == 100
    server.make_stream("LATE", "tidegate.>")
    account = await site.drain()
    assert (account["delivered"], account["maybe_twice"]) == (100, 0)
    assert readings(server.stored("LATE")) == Counter(range(100))


async def test_a_stream_that_is_full_is_waited_for(make_nats, make_site) -> None:
    """What it took stays taken; the rest goes when there is room."""
    server = make_nats()
    server.make_stream("S", "tidegate.>", max_msgs=30, discard="new")
    site = await make_site(url=server.url, payload="json", inflight_max=10)
    await site.append(0, 100)
    await site.until(lambda: "maximum messages exceeded" in site.uplink.status()["last_error"])
    assert len(server.stored("S")) == 30
    server.update_stream("S", "tidegate.>", max_msgs=-1, discard="new")
    account = await site.drain()
    assert readings(server.stored("S")) == Counter(range(100))
    assert (account["delivered"], account["ledger"], account["maybe_twice"]) == (100, {}, 0)


async def test_an_account_that_is_full_is_waited_for(make_nats, make_site) -> None:
    """A server says that with a 400, as if it were about what we sent: nothing of it is given up."""
    account = "accounts { A: { jetstream: { max_file: %s }, users: [ { user: a, password: b } ] } }\nno_auth_user: a"
    server = make_nats(lines=(account % "4KB",))
    server.make_stream("S", "tidegate.>")
    site = await make_site(url=server.url, payload="json", inflight_max=10)
    await site.append(0, 200)
    await site.until(lambda: "resource limits exceeded for account" in site.uplink.status()["last_error"])
    for start in range(200, 1000, 200):
        await site.append(start, 200)
    # An attempt is made each 50 ms.
    await asyncio.sleep(1)
    account = site.account()
    assert (account["held"], account["ledger"], account["maybe_twice"]) == (1000, {}, 0)
    assert site.uplink.status()["held_back"] == {}
    with server.client() as client:
        client.ask("$JS.API.STREAM.PURGE.S")
    await site.until(lambda: len(server.stored("S")) > 0)


async def test_another_stream_than_the_one_that_is_named_gets_nothing(nats: NatsServer, make_site) -> None:
    """Held, with who is to mend what."""
    site = await make_site(url=nats.url, stream="OTHER")
    await site.append(0, 10)
    await site.until(lambda: site.uplink.status()["held_back"])
    assert "expected stream does not match; correct stream or subject" in site.uplink.status()["held_back"]["metrics"]
    assert (nats.stored("ALL"), site.account()["held"]) == ([], 10)


async def test_messages_are_cut_to_what_the_server_takes(make_nats, make_site) -> None:
    """Its max_payload is known before the second request; whole all the same."""
    server = make_nats(lines=("max_payload: 4096",))
    server.make_stream("ALL", "tidegate.>")
    site = await make_site(url=server.url)
    await site.append(0, 3000)
    account = await site.drain()
    assert (account["delivered"], account["ledger"]) == (3000, {})
    messages = server.stored("ALL")
    assert readings(messages) == Counter(range(3000))
    assert len(messages) > 4


async def test_messages_are_cut_to_what_the_stream_takes(make_nats, make_site) -> None:
    """By its own limit, of which only its answer tells."""
    server = make_nats()
    server.make_stream("S", "tidegate.>", max_msg_size=3000)
    site = await make_site(url=server.url)
    await site.append(0, 1000)
    account = await site.drain()
    assert (account["delivered"], account["ledger"]) == (1000, {})
    assert readings(server.stored("S")) == Counter(range(1000))


async def test_one_reading_that_no_message_may_carry_is_in_the_ledger(make_nats, make_site) -> None:
    """Beside others that are taken."""
    server = make_nats()
    server.make_stream("S", "tidegate.>", max_msg_size=3000)
    site = await make_site(url=server.url)
    await site.append(0, 100)
    await site.drain()
    large = site.store.resolve(Series((("device.id", "x" * 3000),), "n"))
    await site.store.append([(Priority.NORMAL, Batch.of([large], [CLOCK.wall_ns()], np.array([1000])))])
    await site.append(100, 100)
    account = await site.drain()
    assert (account["delivered"], account["ledger"]) == (200, {"too_large": 1})


USERS = """authorization {
  users = [
    { user: "admin", password: "top" }
    { user: "box", password: "secret", permissions: { publish: ["tidegate.g1.d1.>", "tidegate.g1.metrics"],
      subscribe: "_INBOX.>" } }
  ]
}"""


async def test_user_and_password(make_nats, make_site, tmp_path: Path) -> None:
    """Wrong ones are held, and said; right ones go, without a restart."""
    server = make_nats(lines=(USERS,), admin={"user": "admin", "pass": "top"})
    server.make_stream("ALL", "tidegate.>")
    secret = tmp_path / "secret"
    secret.write_text("wrong")
    site = await make_site(url=server.url, username="box", password={"file": str(secret)})
    await site.append(0, 10)
    await site.until(lambda: site.uplink.status()["held_back"])
    assert "Authorization Violation; are username, password" in site.uplink.status()["held_back"]["metrics"]
    await site.close()
    secret.write_text("secret")
    site = await make_site(url=server.url, username="box", password={"file": str(secret)})
    assert (await site.drain())["delivered"] == 10


async def test_a_token(make_nats, make_site, tmp_path: Path) -> None:
    """By reference."""
    server = make_nats(lines=('authorization { token: "abc" }',), admin={"auth_token": "abc"})
    server.make_stream("ALL", "tidegate.>")
    secret = tmp_path / "secret"
    secret.write_text("abc\n")
    site = await make_site(url=server.url, token={"file": str(secret)})
    await site.append(0, 10)
    assert (await site.drain())["delivered"] == 10


async def test_what_the_user_may_not_publish_is_in_the_ledger_beside_what_it_may(
    make_nats, make_site, tmp_path
) -> None:
    """As an MQTT bridge has it."""
    server = make_nats(lines=(USERS,), admin={"user": "admin", "pass": "top"})
    server.make_stream("ALL", "tidegate.>")
    (tmp_path / "secret").write_text("secret")
    password = {"file": str(tmp_path / "secret")}
    site = await make_site(url=server.url, username="box", password=password, payload="json")
    await site.append(0, 40)
    account = await site.drain()
    assert (account["delivered"], account["ledger"]) == (10, {"rejected": 30})
    assert "does not let us publish to tidegate.g1.d" in site.uplink.status()["last_error"]
    assert readings(server.stored("ALL")) == Counter(range(1, 40, 4))


async def test_where_nothing_may_be_published_all_is_held(make_nats, make_site, tmp_path: Path) -> None:
    """Whoever gave the rights mends them."""
    server = make_nats(lines=(USERS,), admin={"user": "admin", "pass": "top"})
    server.make_stream("ALL", "other.>")
    (tmp_path / "secret").write_text("secret")
    password = {"file": str(tmp_path / "secret")}
    site = await make_site(url=server.url, username="box", password=password, subject="other.{gateway}.{signal}")
    await site.append(0, 40)
    await site.until(lambda: site.uplink.status()["held_back"])
    assert "give the user that right" in site.uplink.status()["held_back"]["metrics"]
    account = site.account()
    assert (account["held"], account["ledger"], account["maybe_twice"]) == (40, {}, 0)


async def test_tls_with_a_certificate_of_the_clients(make_nats, make_site, authority) -> None:
    """After INFO in the open; the server asks who we are."""
    server = make_nats(
        identity=authority.issue(), client_ca=authority.certificate, lines=("no_auth_user: a", ACCOUNT_OF_A)
    )
    client = authority.issue("client")
    tls = {"ca_file": authority.certificate, "cert_file": client.certificate, "key_file": client.key}
    tls = {name: str(path) for name, path in tls.items()}
    site = await make_site(url=server.url, tls=tls)
    await site.append(0, 10)
    # There is no stream yet, and only what went over TLS can tell.
    await site.until(lambda: "no stream listens" in site.uplink.status()["last_error"])


ACCOUNT_OF_A = 'accounts { A: { jetstream: enabled, users: [ { user: "a", password: "b" } ] } }'


async def test_a_certificate_that_nobody_vouches_for_is_not_taken(make_nats, make_site, authority) -> None:
    """Nor is a server without TLS where TLS was asked for, nor the other way round; each says what to do."""
    secured, plain = make_nats(identity=authority.issue()), make_nats()
    for url, advice in (
        (secured.url, "is not accepted"),
        (secured.url.replace("tls:", "nats:"), "it wants TLS; then the url begins with tls://"),
        (plain.url.replace("nats:", "tls:"), "it does not speak TLS; then the url begins with nats://"),
    ):
        site = await make_site(url=url)
        await site.append(0, 10)
        await site.until(lambda site=site: site.uplink.status()["held_back"])
        assert advice in site.uplink.status()["held_back"]["metrics"]
        await site.close()


@pytest.mark.slow
async def test_a_server_that_leaves_has_its_place_taken_by_another(make_nats, make_site) -> None:
    """In its lame duck mode it is left before it goes; nothing is lost, nothing waits."""
    lines = ("lame_duck_duration: 30s", "lame_duck_grace_period: 1s")
    one, other = make_nats(lines=lines), make_nats()
    for server in (one, other):
        server.make_stream("ALL", "tidegate.>")
    site = await make_site(urls=[one.url, other.url])
    await site.append(0, 100)
    await site.drain()
    one.signal(signal.SIGUSR2)
    # It says so to each of its clients, and only who has heard it can act on it.
    line = site.wire._all[0].wire._connection._socket

    def has_come() -> bool:
        with contextlib.suppress(BlockingIOError):
            return b'"ldm":true' in line.recv(1 << 16, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        return False

    await site.until(has_come)
    await site.append(100, 100)
    await site.drain()
    assert readings(other.stored("ALL")) == Counter(range(100, 200))
    assert "lame duck" in str(site.uplink.status()["endpoints"])


async def test_a_budget_is_kept_as_a_proxy_counts(nats: NatsServer, make_site, make_link) -> None:
    """With heads, ids, answers and the connection; what finds no room is held."""
    link = make_link(nats.address)
    site = await make_site(
        url=f"nats://127.0.0.1:{link.port}", payload="json", inflight_max=16, budget={"per_day": "128KiB"}
    )
    for start in range(0, 2000, 250):
        await site.append(start, 250)
        await asyncio.sleep(0.02)
    await site.until(lambda: site.uplink.status()["state"] in {"over budget", "pacing"})
    await asyncio.sleep(0.3)
    counts = link.counts()
    assert 16 * 1024 < counts.up_wire + counts.down_wire <= 128 * 1024
    account = site.account()
    assert account["held"] > 0
    assert account["ledger"] == {}


async def test_an_nkey(make_nats, make_site, tmp_path: Path) -> None:
    """The server has the public half, and no secret ever leaves the box."""
    from gateway.net.nkeys import prove

    data = bytes([18 << 3 | 5, 0]) + bytes(range(32))
    seed = base64.b32encode(data + binascii.crc_hqx(data, 0).to_bytes(2, "little")).decode().rstrip("=")
    lines = f'authorization {{ users = [ {{ nkey: "{prove(seed, "x").public}" }}, {{ user: "a", password: "b" }} ] }}'
    server = make_nats(lines=(lines,), admin={"user": "a", "pass": "b"})
    server.make_stream("ALL", "tidegate.>")
    secret = tmp_path / "seed"
    secret.write_text(f"{seed}\n")
    site = await make_site(url=server.url, nkey={"file": str(secret)})
    await site.append(0, 10)
    assert (await site.drain())["delivered"] == 10
    await site.close()
    secret.write_text("SUNONE")
    site = await make_site(url=server.url, nkey={"file": str(secret)})
    await site.append(0, 10)
    await site.until(lambda: site.uplink.status()["held_back"])
    assert site.uplink.status()["held_back"]["metrics"].startswith("nkey is no seed of a user")


@pytest.fixture
def operated(make_nats) -> tuple[Operator, NatsServer]:
    """Give a server that an operator's accounts use, with a stream of all that is sent."""
    operator = Operator()
    server = make_nats(lines=operator.lines(), admin=operator.user().prove)
    server.make_stream("ALL", "tidegate.>")
    return operator, server


async def test_a_credentials_file(operated, make_site, tmp_path: Path) -> None:
    """Of an operator's account; one that another account's key has signed is held, and taken once it is mended."""
    operator, server = operated
    path = operator.user(signer=Key("account")).write(tmp_path / "creds")
    site = await make_site(url=server.url, credentials={"file": str(path)}, compression="zstd")
    await site.append(0, 100)
    await site.until(lambda: site.uplink.status()["held_back"])
    assert "Authorization Violation" in site.uplink.status()["held_back"]["metrics"]
    await site.close()
    rights = {"pub": {"allow": ["tidegate.g1.>"]}, "sub": {"allow": ["_INBOX.>"]}}
    operator.user(**rights).write(path)
    site = await make_site(url=server.url, credentials={"file": str(path)}, compression="zstd")
    assert (await site.drain())["delivered"] == 100
    assert readings(server.stored("ALL")) == Counter(range(100))


async def test_credentials_that_expire_are_held_and_read_anew(operated, make_site, tmp_path: Path) -> None:
    """While connected too; whoever writes new ones into the file needs to tell nobody."""
    operator, server = operated
    path = operator.user(until_s=CLOCK.wall_ns() / 1e9 + 3).write(tmp_path / "creds")
    site = await make_site(url=server.url, credentials={"file": str(path)})
    await site.append(0, 10)
    await site.drain()

    async def feed() -> None:
        for start in itertools.count(10, 10):
            await site.append(start, 10)
            await asyncio.sleep(0.1)

    feeding = asyncio.create_task(feed())
    await site.until(lambda: site.uplink.status()["held_back"])
    feeding.cancel()
    said = site.uplink.status()["held_back"]["metrics"]
    assert "Expired" in said or "Authorization Violation" in said
    operator.user().write(path)
    await site.close()
    site = await make_site(url=server.url, credentials={"file": str(path)})
    account = await site.drain()
    assert readings(server.stored("ALL")) == Counter(range(account["delivered"]))
    assert account["ledger"] == {}


@pytest.mark.parametrize("payload", ["otlp", "json"])
async def test_messages_are_cut_to_what_a_user_may_send(operated, make_site, tmp_path: Path, payload: str) -> None:
    """A limit in its token, of which the server's greeting says nothing: it hangs up on what is larger."""
    operator, server = operated
    path = operator.user(payload=3000).write(tmp_path / "creds")
    site = await make_site(url=server.url, credentials={"file": str(path)}, payload=payload)
    await site.append(0, 3000)
    account = await site.drain()
    assert (account["delivered"], account["ledger"]) == (3000, {})
    messages = server.stored("ALL")
    assert readings(messages) == Counter(range(3000))
    assert max(len(message.data) for message in messages) < 3000


async def test_a_message_at_which_connections_break_keeps_its_id(make_site) -> None:
    """However often: cut in two it would be another one to the stream, which may have it."""

    def answer(reply: bytes, number: int) -> bytes:
        if b"bad" in server.taken[-1][2]:
            raise OSError("hangs up")
        return scripted_nats.message(reply, scripted_nats.stored(number))

    with ScriptedNats(NatsScript(answer=answer)) as server:
        site = await make_site(url=server.url)
        bad = site.store.resolve(Series((("device.id", "bad"),), "n"))
        times = CLOCK.wall_ns() + np.arange(50)
        await site.store.append([(Priority.NORMAL, Batch.of(np.full(50, bad), times, np.arange(50)))])

        def tries() -> list[bytes]:
            return [headers for _, headers, payload in server.taken if b"bad" in payload]

        await site.until(lambda: len(tries()) >= 8)
        assert len(set(tries())) == 1
        account = site.account()
        assert (account["held"], account["ledger"]) == (50, {})
        await site.close()


# Subjects at which no stream listens.


GROWING = {"initial": "200ms", "max": "2s"}


def taken(server: NatsServer, stream: str) -> Counter[float]:
    return Counter(msgspec.json.decode(message.data)["value"] for message in server.stored(stream))


async def append(site: Site, device: str, values: range, *, priority: Priority = Priority.NORMAL) -> None:
    number = site.store.resolve(Series((("device.id", device),), "n"))
    times = CLOCK.wall_ns() + np.arange(len(values))
    await site.store.append([(priority, Batch.of(np.full(len(values), number), times, np.array(values)))])


async def test_a_subject_without_a_stream_keeps_no_other_waiting(make_nats, make_site) -> None:
    """Its readings are held and named; when a stream is made they go, each once, and nothing was sent twice."""
    server = make_nats()
    server.make_stream("GOOD", "tidegate.g1.good.>")
    site = await make_site(url=server.url, payload="json", retry=GROWING)
    for start in range(0, 400, 20):
        await append(site, "good", range(start, start + 10))
        await append(site, "odd", range(start + 10, start + 20))
        await site.until(lambda start=start: site.arrived() >= start // 2 + 10)
    status = site.uplink.status()
    assert status["unheard"]["some"] == ["tidegate.g1.odd.n"]
    assert "no stream listens at tidegate.g1.odd.n" in status["unheard"]["reason"]
    account = site.account()
    assert account["held"] > 0
    assert account["ledger"] == {}
    server.make_stream("LATE", "tidegate.g1.odd.>")
    account = await site.drain()
    assert (account["delivered"], account["ledger"], account["maybe_twice"]) == (400, {}, 0)
    numbers = [number for start in range(0, 400, 20) for number in range(start, start + 10)]
    assert taken(server, "GOOD") == Counter(numbers)
    assert taken(server, "LATE") == Counter(number + 10 for number in numbers)
    assert site.uplink.status()["unheard"]["subjects"] == 0


async def test_thousands_of_them_before_the_one_that_is_heard(make_nats, make_site) -> None:
    """In one lease, and again and again: the one that has a stream has its readings within moments."""
    server = make_nats()
    server.make_stream("GOOD", "tidegate.g1.zz.>")
    site = await make_site(url=server.url, payload="json", retry=GROWING)
    series = [site.store.resolve(Series((("device.id", f"d{number}"),), "n")) for number in range(900)]
    for round_ in range(5):
        numbers = np.arange(900) + 1000 * round_ + 1
        batch = Batch.of(np.array(series), np.full(900, CLOCK.wall_ns()), numbers)
        await site.store.append([(Priority.NORMAL, batch)])
        await append(site, "zz", range(1000 * round_, 1000 * round_ + 1))
        await site.until(lambda round_=round_: site.arrived() > round_)
    assert site.account()["held"] >= 4500
    server.update_stream("GOOD", "tidegate.g1.*.n")
    account = await site.drain()
    assert (account["delivered"], account["ledger"], account["maybe_twice"]) == (4505, {}, 0)


async def test_a_class_of_its_own_that_nobody_hears(make_nats, make_site) -> None:
    """Nothing of its leases is taken: they are put off, though theirs is the first turn each time."""
    server = make_nats()
    server.make_stream("GOOD", "tidegate.g1.good.>")
    site = await make_site(url=server.url, payload="json", retry=GROWING)
    for number in range(15):
        await append(site, "odd", range(2 * number, 2 * number + 1), priority=Priority.CRITICAL)
        await append(site, "good", range(2 * number + 1, 2 * number + 2))
        await site.until(lambda number=number: site.arrived() > number)
    await site.until(lambda: site.account()["held"] == 15)
    server.make_stream("LATE", "tidegate.g1.odd.>")
    account = await site.drain()
    assert (account["delivered"], account["maybe_twice"]) == (30, 0)
    assert taken(server, "LATE") == Counter(range(0, 30, 2))


async def test_what_waits_is_still_there_after_a_restart(make_nats, make_site) -> None:
    """What of its leases was stored is sent again then, and the stream knows it."""
    server = make_nats()
    server.make_stream("GOOD", "tidegate.g1.good.>")
    site = await make_site(url=server.url, payload="json", retry=GROWING)
    number = [site.store.resolve(Series((("device.id", name),), "n")) for name in ("good", "odd")]
    for start in range(0, 40, 2):
        batch = Batch.of(np.array(number), np.full(2, CLOCK.wall_ns()), np.arange(start, start + 2))
        await site.store.append([(Priority.NORMAL, batch)])
    await site.until(lambda: site.arrived() == 20)
    await site.close()
    site = await make_site(url=server.url, payload="json", retry=GROWING)
    server.make_stream("LATE", "tidegate.g1.odd.>")
    account = await site.drain()
    assert (account["delivered"], account["ledger"]) == (40, {})
    assert taken(server, "GOOD") == Counter(range(0, 40, 2))
    assert taken(server, "LATE") == Counter(range(1, 40, 2))


async def test_what_waits_for_long_takes_no_more_room_and_is_sent_once(make_nats, make_site, monkeypatch) -> None:
    """The store keeps it apart, also over a restart: then only what was left goes, and nothing twice."""
    monkeypatch.setattr(parked, "UNHEARD_MANY", 8)
    server = make_nats()
    server.make_stream("GOOD", "tidegate.g1.good.>")
    site = await make_site(url=server.url, payload="json", retry=GROWING)
    series = np.array([site.store.resolve(Series((("device.id", name),), "n")) for name in ("good", "odd", "good")])
    for start in range(0, 120, 3):
        batch = Batch.of(series, CLOCK.wall_ns() + np.arange(3), np.arange(start, start + 3))
        await site.store.append([(Priority.NORMAL, batch)])
        await site.until(lambda start=start: site.arrived() >= start // 3 * 2 + 2)
        assert site.uplink.status()["put_off"]["leases"] <= 24
    await site.until(lambda: site.account()["delivered"] >= 60)
    assert site.uplink.status()["put_off"]["overflowed"] == 0
    before = site.account()
    await site.close()
    site = await make_site(url=server.url, payload="json", retry=GROWING)
    assert site.account()["held"] <= before["held"]
    server.make_stream("LATE", "tidegate.g1.odd.>")
    account = await site.drain()
    assert (account["delivered"], account["ledger"]) == (120, {})
    assert taken(server, "GOOD") == Counter(number for number in range(120) if number % 3 != 1)
    assert taken(server, "LATE") == Counter(range(1, 120, 3))


async def test_where_there_is_no_room_for_more_all_waits_and_nothing_comes_twice(
    make_nats, make_site, monkeypatch
) -> None:
    """As it is said; what was given back would go again as a whole."""
    monkeypatch.setattr(parked, "PUT_OFF_MAX", 3)
    monkeypatch.setattr(endings, "APART_MIN", 1000)
    server = make_nats()
    server.make_stream("GOOD", "tidegate.g1.good.>")
    site = await make_site(url=server.url, payload="json", retry=GROWING)
    series = np.array([site.store.resolve(Series((("device.id", name),), "n")) for name in ("good", "odd")])
    for start in range(0, 40, 2):
        batch = Batch.of(series, CLOCK.wall_ns() + np.arange(2), np.arange(start, start + 2))
        await site.store.append([(Priority.NORMAL, batch)])
        await asyncio.sleep(0.06)
    await site.until(lambda: "by now that all else has to" in site.uplink.status()["reason"])
    server.make_stream("LATE", "tidegate.g1.odd.>")
    account = await site.drain()
    assert (account["delivered"], account["ledger"], account["maybe_twice"]) == (40, {}, 0)
    assert taken(server, "GOOD") == Counter(range(0, 40, 2))
    assert taken(server, "LATE") == Counter(range(1, 40, 2))


async def test_a_stop_while_all_waits_gives_back_what_is_in_hand(make_nats, make_site, monkeypatch) -> None:
    """What of it had arrived may come twice, and is counted so; the stream knows it."""
    monkeypatch.setattr(parked, "PUT_OFF_MAX", 0)
    server = make_nats()
    server.make_stream("GOOD", "tidegate.g1.good.>")
    site = await make_site(url=server.url, payload="json", retry={"initial": "50s", "max": "60s"}, stop_grace="0s")
    series = np.array([site.store.resolve(Series((("device.id", name),), "n")) for name in ("good", "odd")])
    await site.store.append([(Priority.NORMAL, Batch.of(series, CLOCK.wall_ns() + np.arange(2), np.arange(2)))])
    await site.until(lambda: "by now that all else has to" in site.uplink.status()["reason"])
    await site.end()
    assert site.account()["held"] == 2
    assert site.account()["maybe_twice"] == 2


async def test_what_the_store_cannot_keep_apart_stays_in_hand(make_nats, make_site, monkeypatch) -> None:
    """Until it can."""
    monkeypatch.setattr(parked, "UNHEARD_MANY", 4)
    monkeypatch.setattr(endings, "APART_S", 0.1)
    server = make_nats()
    server.make_stream("GOOD", "tidegate.g1.good.>")
    site = await make_site(url=server.url, payload="json", retry=GROWING)
    keep, refused = site.store.apart.keep, []

    async def keep_later(*args: Any, **more: Any) -> None:
        if len(refused) < 3:
            refused.append(args)
            raise FullError("the disk is busy")
        await keep(*args, **more)

    site.store.apart.keep = keep_later
    series = np.array([site.store.resolve(Series((("device.id", name),), "n")) for name in ("good", "odd")])
    for start in range(0, 80, 2):
        batch = Batch.of(series, CLOCK.wall_ns() + np.arange(2), np.arange(start, start + 2))
        await site.store.append([(Priority.NORMAL, batch)])
        await site.until(lambda start=start: site.arrived() >= start // 2 + 1)
    await site.until(lambda: site.account()["delivered"] >= 30)
    assert len(refused) == 3
    server.make_stream("LATE", "tidegate.g1.odd.>")
    account = await site.drain()
    assert (account["delivered"], account["ledger"], account["maybe_twice"]) == (80, {}, 0)
    assert taken(server, "LATE") == Counter(range(1, 80, 2))


async def test_a_lease_of_several_requests_of_which_nobody_hears_some(make_nats, make_site) -> None:
    """The first as well as the last: the others go with the first try."""
    server = make_nats()
    server.make_stream("GOOD", "tidegate.g1.good.>")
    site = await make_site(url=server.url, payload="json", retry=GROWING, request_bytes_max="64KiB")
    await append(site, "good", range(1))
    await site.drain()
    names = ("aa", "good", "zz")
    series = [site.store.resolve(Series((("device.id", name),), "n")) for name in names]
    numbers = np.arange(1, 3001)
    batch = Batch.of(np.repeat(series, 1000), CLOCK.wall_ns() + numbers, numbers).sorted()
    await site.store.append([(Priority.NORMAL, batch)])
    await site.until(lambda: site.arrived() == 1001)
    await site.until(lambda: site.uplink.status()["unheard"]["subjects"] == 2)
    assert site.account()["held"] == 3000
    server.update_stream("GOOD", *(f"tidegate.g1.{name}.>" for name in names))
    account = await site.drain()
    assert (account["delivered"], account["ledger"], account["maybe_twice"]) == (3001, {}, 0)
    assert taken(server, "GOOD") == Counter(range(3001))


async def test_logs_that_nobody_hears_are_held_back_alone(make_nats, make_site) -> None:
    """They have one subject for all of them."""
    server = make_nats()
    server.make_stream("GOOD", "tidegate.g1.metrics")
    site = await make_site(url=server.url, retry=GROWING)
    await append(site, "good", range(10))
    await site.drain()
    log = site.store.resolve(Series((("device.id", "d0"),), "", kind="log"))
    record = encode_log_record(
        time_ns=CLOCK.wall_ns(), observed_ns=0, severity_number=9, severity_text="", body="hello", attributes=()
    )
    await site.store.append([], logs=LogRecords(np.array([log], np.uint32), np.array([CLOCK.wall_ns()]), (record,)))
    await site.until(lambda: site.uplink.status()["held_back"])
    assert "no stream listens at tidegate.g1.logs" in site.uplink.status()["held_back"]["logs"]
    await append(site, "good", range(10, 20))
    await site.until(lambda: site.account()["held"] == 1)
    server.make_stream("LOGS", "tidegate.g1.logs")
    assert (await site.drain())["delivered"] == 21
