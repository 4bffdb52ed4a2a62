"""What can be said of a link in the config: how it is told to be up, and whether it is paid. Must not ask anybody."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Annotated, Final

import msgspec
from msgspec import Meta

from gateway.core.checks import Checked, Problem, check
from gateway.core.units import Duration
from gateway.net.addresses import split_address
from gateway.uplinks.budget_settings import BudgetSettings

if TYPE_CHECKING:
    from collections.abc import Iterator

PROBE_INTERVAL_MIN: Final = Duration(1)
PROBE_TIMEOUT_S_MAX: Final = 60.0
_PROBE: Final = "tcp://"


class LinkSettings(Checked, msgspec.Struct, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """A way out of this box that uplinks may use. All that is given of interface, gateway and probe has to be right."""

    name: Annotated[str, Meta(description="What uplinks, status and metrics call it.", min_length=1, max_length=64)]
    interface: Annotated[
        str,
        Meta(
            description='A network interface like "wwan0": the link is up while that is, with an address. What uses '
            "the link leaves by it and by no other."
        ),
    ] = ""
    gateway: Annotated[
        str, Meta(description='A router like "192.168.8.1": the link is up while the default route leads there.')
    ] = ""
    probe: Annotated[
        str,
        Meta(
            description='A server like "tcp://192.0.2.7:443": the link is up while that takes a connection over it. It '
            "is asked before an uplink changes to the link, and where something fails that was sent over it."
        ),
    ] = ""
    probe_interval: Annotated[
        Duration, Meta(description="How often it is asked at most, at random up to a fifth later.")
    ] = Duration(60)
    probe_timeout: Annotated[Duration, Meta(description="How long it may take to answer.")] = Duration(5)
    settle: Annotated[
        Duration,
        Meta(
            description="How long the link has to be up before an uplink comes back to it from another one: one that "
            "comes and goes costs a new connection each time."
        ),
    ] = Duration(30)
    metered: Annotated[
        bool,
        Meta(
            description="Whether what goes over it is paid. Over a link that is not, nothing counts against an "
            "uplink's own allowances."
        ),
    ] = True
    budget: Annotated[
        BudgetSettings,
        Meta(description="What it may carry, of all uplinks that use it together; the keys are those of an uplink's."),
    ] = BudgetSettings()

    @check("interface")
    def _interface_is_a_name(self) -> None:
        if not self.interface:
            return
        from gateway.net.devices import is_device_name  # noqa: PLC0415  only where a link names one

        if not is_device_name(self.interface):
            raise ValueError(f'"{self.interface}" is no interface\'s name; `ip link` lists them')

    @check("gateway")
    def _gateway_is_an_address(self) -> None:
        address, _, device = self.gateway.partition("%")
        try:
            if self.gateway:
                ipaddress.ip_address(address)
        except ValueError:
            raise ValueError(f'"{self.gateway}" is no address; write one like "192.168.8.1"') from None
        if device:
            # Routes have both apart, so it would be down for ever.
            what = f'"{self.gateway}" has an interface in it; write interface = "{device}", and gateway = "{address}"'
            raise ValueError(what)

    @check("probe")
    def _probe_is_a_server(self) -> None:
        if self.probe:
            read_probe(self.probe)

    @check("interface", "gateway", "probe")
    def _it_can_be_recognised(self) -> Iterator[Problem]:
        if not (self.interface or self.gateway or self.probe):
            yield Problem("", 'nothing says when it is up; add interface = "eth0", gateway = "192.168.8.1" or a probe')

    @check("probe_interval", "probe_timeout", "settle")
    def _times_are_possible(self) -> Iterator[Problem]:
        if self.probe_interval < PROBE_INTERVAL_MIN:
            yield Problem("probe_interval", f'is {self.probe_interval}; it is at least "{PROBE_INTERVAL_MIN}"')
        if not 0 < self.probe_timeout <= PROBE_TIMEOUT_S_MAX:
            what = f"is {self.probe_timeout}; it is over zero and at most {Duration(PROBE_TIMEOUT_S_MAX)}"
            yield Problem("probe_timeout", what)
        if self.settle < 0:
            yield Problem("settle", "is not negative")

    @check("metered", "budget")
    def _what_is_free_has_no_allowance(self) -> Iterator[Problem]:
        if not self.metered and self.budget.allowances():
            yield Problem("metered", "false says that the link is free, and its budget has an allowance; leave out one")

    def probed(self) -> tuple[str, int]:
        """Return host and port of the server that is asked."""
        return read_probe(self.probe)


def read_probe(text: str) -> tuple[str, int]:
    """Return host and port of a server as a link names it; raise ValueError for what is none.

    >>> read_probe("tcp://192.0.2.7:443")
    ('192.0.2.7', 443)
    """
    what = f'"{text}" is not a server like "tcp://192.0.2.7:443"'
    if not text.startswith(_PROBE) or "/" in text.removeprefix(_PROBE):
        raise ValueError(what)
    try:
        host, port = split_address(text.removeprefix(_PROBE))
    except ValueError:
        raise ValueError(what) from None
    if not port:
        raise ValueError(what)
    return host, port
