"""What the configuration says of links: names that are not there, and interfaces that are not here."""

from __future__ import annotations

import pytest

from gateway.control.config import ConfigError, parse_config
from gateway.control.linked import look_at_links

BOX = """
[gateway]
id = "box"
state_dir = "/var/lib/tidegate"

[[links]]
name = "ethernet"
interface = "lo"
metered = false

[[links]]
name = "lte"
interface = "wwan9nothere"
budget = { per_day = "20MiB" }
"""


def uplink(text: str, kind: str = "otlp") -> str:
    where = {"otlp": 'endpoint = "http://127.0.0.1:1"', "mqtt": 'url = "mqtt://127.0.0.1"'}[kind]
    return f'[[uplinks]]\ntype = "{kind}"\nname = "cloud"\n{where}\n{text}\n'


def problems(*parts: str) -> list[str]:
    with pytest.raises(ConfigError) as error:
        parse_config("\n".join((BOX, *parts)), offline=True)
    return error.value.problems


@pytest.mark.parametrize("kind", ["otlp", "mqtt"])
def test_an_uplink_names_links_that_are_there(kind: str) -> None:
    """In the order in which it wants them."""
    config = parse_config(BOX + uplink('links = ["ethernet", "lte"]', kind), offline=True)
    assert config.uplinks[0].links == ("ethernet", "lte")


def test_names_that_are_not_there_are_said_with_what_is() -> None:
    """A slip of the keyboard, and one that stands there twice."""
    assert problems(uplink('links = ["ethernet", "ltee", "ethernet"]')) == [
        'uplinks[0].links[1]: no link is called "ltee"; did you mean "lte"?',
        'uplinks[0].links[2]: "ethernet" stands before it already; leave one out',
    ]


def test_links_that_nobody_has_defined() -> None:
    """It is said what to add."""
    with pytest.raises(ConfigError, match=r'no link is called "lte"; add \[\[links\]\] name = "lte"'):
        parse_config(uplink('links = ["lte"]'), offline=True)


def test_two_links_of_one_name() -> None:
    """Nobody would know which is meant."""
    assert problems('[[links]]\nname = "lte"\ninterface = "a"') == [
        'links[2].name: "lte" is taken by links[1]; names must differ'
    ]


def test_what_is_wrong_with_a_link_says_nothing_of_its_users() -> None:
    """It may be its name."""
    found = problems('[[links]]\nname = "third"', uplink('links = ["third", "fourth"]'))
    assert found == ['links[2]: nothing says when it is up; add interface = "eth0", gateway = "192.168.8.1" or a probe']


def test_a_file_has_no_links() -> None:
    """A stick is no way out."""
    stick = '[[uplinks]]\ntype = "file"\nname = "stick"\ndirectory = "/media/stick"\nlinks = ["lte"]\n'
    assert any("uplinks[0].links" in line for line in problems(stick))


def test_a_probe_alone_says_not_which_way_is_meant() -> None:
    """Where there are several."""
    text = '[[links]]\nname = "a"\nprobe = "tcp://192.0.2.7:443"\n' + uplink('links = ["a"]')
    assert list(look_at_links(parse_config(text, offline=True))) == []
    found = list(map(str, look_at_links(parse_config(BOX + text, offline=True))))
    assert "links[2].probe: says when the link is up, but not by which way it goes; add interface or gateway" in found


def test_two_links_of_one_modem_have_a_bill_each() -> None:
    """Which is perhaps not meant; with a cable, or a second router behind one interface, it is another thing."""
    again = '[[links]]\nname = "{}"\ninterface = "{}"\n{}\n'
    more = again.format("sim2", "wwan9nothere", "") + again.format("free", "lo", "")
    more += again.format("other", "wwan9nothere", 'gateway = "192.0.2.1"')
    config = parse_config(BOX + more + uplink('links = ["ethernet", "lte", "sim2", "free", "other"]'), offline=True)
    found = [str(one) for one in look_at_links(config) if "one bill" in str(one)]
    assert found == [
        "links[2]: is the way of links[1] too, and each counts what it carries alone: one modem has one bill"
    ]


def test_an_interface_that_is_not_here_is_no_mistake() -> None:
    """Modems come and go; a link that nobody uses is perhaps not meant."""
    config = parse_config(BOX + uplink('links = ["lte"]'), offline=True)
    assert list(map(str, look_at_links(config))) == [
        'links[0]: no uplink uses it; write links = ["ethernet"] in one',
        "links[1].interface: there is no wwan9nothere on this machine now; the link is down until there is",
    ]
