"""What the configuration says of links: names that are not there, and what is perhaps not meant. Must ask nobody."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.control.reading import did_you_mean
from gateway.core.checks import Problem, below, parts
from gateway.uplinks.link_settings import LinkSettings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gateway.control.reading import Reading
    from gateway.control.settings import Config


def unknown_links(reading: Reading) -> Iterator[Problem]:
    """Say which links uplinks name that are not there, or twice."""
    links = getattr(reading.value, "links", ())
    # What is wrong with one may be its name.
    are_known = all(isinstance(link, LinkSettings) for link in links)
    known = sorted({link.name for link in links}) if are_known else []
    for index, uplink in parts(getattr(reading.value, "uplinks", ()), "links"):
        for number, name in enumerate(uplink.links):
            path = below("uplinks", index, "links", number)
            if name in uplink.links[:number]:
                yield Problem(path, f'"{name}" stands before it already; leave one out')
            elif are_known and name not in known:
                hint = did_you_mean(name, known) if known else f'add [[links]] name = "{name}"'
                yield Problem(path, f'no link is called "{name}"; {hint}')


def look_at_links(config: Config) -> Iterator[Problem]:
    """Say what of links is allowed and perhaps not meant, on this machine too."""
    used = {name for uplink in config.uplinks for name in getattr(uplink, "links", ())}
    for index, link in enumerate(config.links):
        if link.name not in used:
            what = f'no uplink uses it; write links = ["{link.name}"] in one'
            yield Problem(below("links", index), what)
        if not (link.interface or link.gateway) and len(config.links) > 1:
            what = "says when the link is up, but not by which way it goes; add interface or gateway"
            yield Problem(below("links", index, "probe"), what)
        first = next(n for n, other in enumerate(config.links) if _way_of(other) == _way_of(link))
        if first != index and any(_way_of(link)) and link.metered and config.links[first].metered:
            what = f"is the way of links[{first}] too, and each counts what it carries alone: one modem has one bill"
            yield Problem(below("links", index), what)
        if link.interface and not _is_there(link.interface):
            what = f"there is no {link.interface} on this machine now; the link is down until there is"
            yield Problem(below("links", index, "interface"), what)


def _way_of(link: LinkSettings) -> tuple[str, str]:
    return link.interface, link.gateway


def _is_there(device: str) -> bool:
    from gateway.net.devices import is_there  # noqa: PLC0415  only where a link names one

    return is_there(device)
