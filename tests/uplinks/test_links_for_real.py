"""A whole gateway on a box with two real ways out of it: cables that are pulled, and what went over which of them."""

from __future__ import annotations

import contextlib
import functools
from typing import TYPE_CHECKING

import pytest

from gateway.uplinks.link_probe import PROBE_BYTES
from gateway.uplinks.ration import SAVED_SHARE, SHARE
from hil import children
from hil.gateway_child import Account, Site
from hil.link_proxy import LinkProxy, Mode
from hil.otlp_sink import OtlpSink
from hil.publisher import Publisher
from hil.two_ways import FAR, TwoWays

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from typing import Any

    from hil.children import Child

pytestmark = pytest.mark.slow

# A machine that does much else takes its time for a gateway's start.
wait_until = functools.partial(children.wait_until, within_s=60.0)

LINKS = """
[[links]]
name = "ethernet"
interface = "eth9"
metered = false
settle = "1s"

[[links]]
name = "lte"
interface = "wwan9"
"""
# What a kernel says by itself on a cable: neighbours, multicast groups.
ENDS_BYTES = 2000
MURMUR_BYTES = 4096


class BoxSite(Site):
    """A gateway on the box: whoever asks it is there, too."""

    def __init__(
        self,
        folder: Path,
        ways: TwoWays,
        *,
        endpoint: str,
        make_child: Callable[..., Child],
        links: str,
        second: str = "",
    ) -> None:
        def on_box(command: list[str], **options: Any) -> Child:
            return make_child([*ways.on_box(), *command], **options)

        super().__init__(folder, endpoint=endpoint, make_child=on_box, store=links)
        self._ways = ways
        text = self.config.read_text(encoding="utf-8")
        named = 'batch_interval = "50ms"\nlinks = ["ethernet", "lte"]\ntimeout = "5s"\n'
        text = text.replace('batch_interval = "50ms"\n', named)
        if second:
            more = f'[[uplinks]]\ntype = "otlp"\nname = "second"\nendpoint = "{second}"\n{named}'
            text = text.replace("[control]\n", f"{more}[control]\n")
        self.config.write_text(text, encoding="utf-8")

    def status(self) -> dict[str, Any]:
        ask = super().status
        return self._ways.box(ask)

    def link(self) -> str | None:
        return self.status()["uplinks"]["cloud"]["link"]

    def publish(self, count: int) -> set[int]:
        """Have so many readings accepted at least, and no more after that; return which."""
        publisher = self._ways.box(lambda: Publisher(port=self.mqtt).__enter__())
        before = self.account().accepted
        wait_until(lambda: self.account().accepted >= before + count, "readings to be accepted")
        publisher.stop()
        return publisher.acknowledged


@pytest.fixture
def far(ways: TwoWays) -> Iterator[tuple[OtlpSink, LinkProxy]]:
    """A receiver on the far side, and the proxy before it."""
    with contextlib.ExitStack() as stack:
        sink = ways.far(lambda: stack.enter_context(OtlpSink()))
        port = int(sink.url.rpartition(":")[2])
        yield sink, ways.far(lambda: stack.enter_context(LinkProxy(("127.0.0.1", port), host=FAR)))


def check(sink: OtlpSink, account: Account) -> None:
    """All that was accepted is there; what came more often than once is known, and no more than that."""
    assert account.gap == account.held == 0
    came = sink.readings()
    assert len(came) == account.accepted
    assert came.total() - len(came) <= account.maybe_twice


def test_it_goes_over_the_other_link_and_comes_back(tmp_path: Path, ways: TwoWays, far, make_child) -> None:
    """A cable that is pulled in the middle of a request: nothing is lost, twice comes only what a lost answer explains.

    While the better link is up nothing leaves by the other one, though the kernel would have both.
    """
    sink, proxy = far
    site = BoxSite(tmp_path, ways, endpoint=proxy.url, make_child=make_child, links=LINKS)
    site.start()
    site.publish(500)
    check_quiet = ways.carried("wwan9")
    account = site.drain()
    assert (account.accepted >= 500, account.maybe_twice, site.link()) == (True, 0, "ethernet")
    assert ways.carried("wwan9") < check_quiet + MURMUR_BYTES

    proxy.mode = Mode.STALL
    site.publish(500)
    wait_until(lambda: site.status()["uplinks"]["cloud"]["state"] == "sending", "a request to be under way")
    ways.unplug("eth9")
    wait_until(lambda: site.link() == "lte", "the other link to be used")
    proxy.mode = Mode.UP
    account = site.drain()
    told = site.status()["links"]
    assert told["ethernet"]["reason"] == "eth9 has no carrier"
    assert (told["lte"]["used_by"], told["ethernet"]["used_by"]) == (["cloud"], [])
    assert ways.carried("wwan9") >= told["lte"]["wire_bytes"] > 1000

    ways.unplug("wwan9")
    wait_until(lambda: site.link() is None, "no link to be up")
    site.publish(500)
    cloud = site.status()["uplinks"]["cloud"]
    assert cloud["held"] >= 500
    wait_until(lambda: site.status()["uplinks"]["cloud"]["state"] == "no link", "it to be said")
    reason = site.status()["uplinks"]["cloud"]["reason"]
    assert reason == "no link of cloud is up: ethernet: eth9 has no carrier; lte: wwan9 has no carrier"

    ways.plug_in("eth9")
    account = site.drain()
    assert site.link() == "ethernet"
    ways.plug_in("wwan9")
    before = ways.carried("wwan9")
    site.publish(500)
    account = site.drain()
    assert ways.carried("wwan9") < before + MURMUR_BYTES
    check(sink, account)


def test_it_goes_back_to_the_better_link(tmp_path: Path, ways: TwoWays, far, make_child) -> None:
    """When that has been up for a moment; no request is cut for it, so nothing comes twice."""
    sink, proxy = far
    site = BoxSite(tmp_path, ways, endpoint=proxy.url, make_child=make_child, links=LINKS)
    ways.unplug("eth9")
    site.start()
    site.publish(300)
    site.drain()
    assert site.link() == "lte"
    ways.plug_in("eth9")
    wait_until(lambda: site.link() == "ethernet", "it to come back")
    site.publish(300)
    account = site.drain()
    assert account.maybe_twice == 0
    check(sink, account)


METERED = """
[[links]]
name = "ethernet"
interface = "eth9"
metered = false
settle = "1s"

[[links]]
name = "lte"
interface = "wwan9"
budget = { per_month = "100KiB", overdraw = ["normal"], overdraw_max = "300KiB" }
"""
MOST_BYTES = 400 * 1024


def wire_bytes(*proxies: LinkProxy) -> int:
    counts = [proxy.counts() for proxy in proxies]
    return sum(one.up_wire + one.down_wire for one in counts)


def lte_of(site: BoxSite) -> dict[str, Any]:
    return dict(site.status()["links"]["lte"])


def spent_of(site: BoxSite) -> int:
    return int(lte_of(site)["budget"]["per_month"]["spent_bytes"])


def test_two_uplinks_share_one_modem_and_its_bill(tmp_path: Path, ways: TwoWays, make_child) -> None:
    """Counted at proxies and by the kernel: never over by one byte, across kills; what is free costs none of it.

    As much as may be overdrawn goes at once, so that there is a bound to run into.
    """
    with contextlib.ExitStack() as stack:
        sinks = [ways.far(lambda: stack.enter_context(OtlpSink())) for _ in range(2)]
        ports = [int(sink.url.rpartition(":")[2]) for sink in sinks]
        proxies = [
            ways.far(lambda port=port: stack.enter_context(LinkProxy(("127.0.0.1", port), host=FAR))) for port in ports
        ]
        urls = [proxy.url for proxy in proxies]
        site = BoxSite(tmp_path, ways, endpoint=urls[0], second=urls[1], make_child=make_child, links=METERED)
        ways.unplug("eth9")
        cable_before = ways.carried("wwan9")
        known = 0
        for _ in range(2):
            child = site.start()
            wait_until(lambda: set(lte_of(site)["used_by"]) == {"cloud", "second"}, "both to use it")
            assert spent_of(site) >= known, "a kill forgets nothing"
            publisher = ways.box(lambda: Publisher(port=site.mqtt).__enter__())
            enough = wire_bytes(*proxies) + 60_000
            wait_until(lambda enough=enough: wire_bytes(*proxies) > enough, "some of it to go")
            known = wire_bytes(*proxies)
            child.kill()
            child.wait()
            publisher.stop()
            assert wire_bytes(*proxies) <= MOST_BYTES
        site.start()
        publisher = ways.box(lambda: Publisher(port=site.mqtt).__enter__())
        # With little left it is either spent, or kept for what a plan until the month's end has in mind.
        over = {"over budget", "pacing"}
        wait_until(
            lambda: all(site.status()["uplinks"][name]["state"] in over for name in ("cloud", "second")),
            "both to have spent it",
        )
        publisher.stop()
        went = wire_bytes(*proxies)
        assert MOST_BYTES / 2 < went <= spent_of(site) <= MOST_BYTES
        assert ways.carried("wwan9") - cable_before <= MOST_BYTES + MURMUR_BYTES
        assert min(proxy.counts().up for proxy in proxies) > 0

        ways.plug_in("eth9")
        wait_until(lambda: site.link() == "ethernet", "the free link to be used")
        wait_until(lambda: not lte_of(site)["used_by"], "by both of them")
        spent, cable = spent_of(site), ways.carried("wwan9")
        site.drain()
        wait_until(lambda: not site.status()["uplinks"]["second"]["held"], "the other to have delivered too")
        # The ends of the connections over the modem may be counted a little later.
        assert spent_of(site) - spent < ENDS_BYTES, "what is free counts nowhere"
        assert ways.carried("wwan9") < cable + MURMUR_BYTES
        status = site.status()
        for name, sink in zip(("cloud", "second"), sinks, strict=True):
            uplink, came = status["uplinks"][name], sink.readings()
            assert len(came) == status["accepted"], "what was thinned goes whole where the way is free"
            assert came.total() - len(came) <= uplink["maybe_twice"]


PROBED = """
[[links]]
name = "ethernet"
interface = "eth9"
probe = "tcp://{address}"
probe_interval = "1s"
probe_timeout = "1s"
metered = false
settle = "1s"

[[links]]
name = "lte"
gateway = "10.66.2.1"
"""


def test_a_router_that_leads_nowhere_and_a_route_that_changes(tmp_path: Path, ways: TwoWays, far, make_child) -> None:
    """The first is found out by a probe, when something fails; the second is a link by its gateway."""
    sink, proxy = far
    links = PROBED.format(address=f"{FAR}:{proxy.port}")
    site = BoxSite(tmp_path, ways, endpoint=proxy.url, make_child=make_child, links=links)
    site.start()
    wait_until(lambda: site.link() == "ethernet", "it to be asked")
    site.publish(300)
    site.drain()
    told = site.status()["links"]
    assert (told["ethernet"]["reason"], told["lte"]["reason"]) == ("", "the default route leads to 10.66.1.1")

    ways.lead_nowhere("eth9")
    site.publish(300)
    wait_until(lambda: site.link() is None, "it to be found out")
    assert site.status()["links"]["ethernet"]["reason"].startswith(f"tcp://{FAR}:{proxy.port}")
    ways.forget_route("eth9")
    wait_until(lambda: site.link() == "lte", "the other route to be seen")
    site.drain()
    assert site.status()["links"]["lte"]["device"] == "wwan9"

    ways.lead_there("eth9")
    # Who is bound to a device asks for neighbours there, where no route says otherwise; and there is somebody again.
    wait_until(lambda: site.link() == "ethernet", "it to come back")
    site.publish(300)
    account = site.drain()
    check(sink, account)


def test_a_link_that_is_dead_is_asked_for_a_share_of_its_allowance(
    tmp_path: Path, ways: TwoWays, far, make_child
) -> None:
    """Each second is what is set: on the cable it is far less than that after the first ones, and status says why."""
    _, proxy = far
    links = LINKS + f'probe = "tcp://{FAR}:1"\nprobe_interval = "1s"\nbudget = {{ per_hour = "256KiB" }}\n'
    ways.unplug("eth9")
    site = BoxSite(tmp_path, ways, endpoint=proxy.url, make_child=make_child, links=links)
    before = ways.carried("wwan9")
    site.start()

    def held_back_s() -> int:
        return int(site.status()["links"]["lte"].get("probes", {}).get("held_back_s", 0))

    wait_until(lambda: held_back_s() > 0, "probes to be held back")
    at_first_s = held_back_s()
    wait_until(lambda: 0 < held_back_s() <= at_first_s - 5, "five more of them not to go")
    spent = site.status()["links"]["lte"]["probes"]["spent_bytes"]
    assert ways.carried("wwan9") - before <= spent + MURMUR_BYTES
    assert spent <= SHARE * SAVED_SHARE * (256 << 10) + PROBE_BYTES
    assert site.status()["links"]["lte"]["reason"] == f"tcp://{FAR}:1: Connection refused"
