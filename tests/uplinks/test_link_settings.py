"""What can be said of a link, and what is wrong is refused by name."""

from __future__ import annotations

import pytest

from gateway.core.units import Duration, Size
from gateway.uplinks.budget_settings import BudgetSettings
from gateway.uplinks.link_settings import LinkSettings


def test_a_link_says_how_it_is_recognised() -> None:
    """By one of three, or by several."""
    assert LinkSettings(name="a", interface="wwan0").metered
    assert LinkSettings(name="a", gateway="fe80::1", metered=False).gateway == "fe80::1"
    assert LinkSettings(name="a", probe="tcp://[2001:db8::1]:443").probed() == ("2001:db8::1", 443)


@pytest.mark.parametrize(
    ("given", "what"),
    [
        ({}, "nothing says when it is up"),
        ({"interface": "no/name"}, 'interface: "no/name" is no interface\'s name'),
        ({"gateway": "router.example"}, 'gateway: "router.example" is no address'),
        ({"gateway": "fe80::1%eth0"}, 'gateway: "fe80::1%eth0" has an interface in it; write interface = "eth0"'),
        ({"probe": "http://a:1"}, "probe: "),
        ({"probe": "tcp://host"}, 'probe: "tcp://host" is not a server like'),
        ({"probe": "tcp://host:0"}, "probe: "),
        ({"probe": "tcp://host:1/path"}, "probe: "),
        ({"interface": "a", "probe_interval": Duration(0.5)}, "probe_interval: is 500ms"),
        ({"interface": "a", "probe_timeout": Duration(0)}, "probe_timeout: is 0s"),
        ({"interface": "a", "settle": Duration(-1)}, "settle: is not negative"),
        (
            {"interface": "a", "metered": False, "budget": BudgetSettings(per_day=Size(1 << 20))},
            "metered: false says that the link is free, and its budget has an allowance",
        ),
    ],
)
def test_what_is_wrong_is_said(given: dict, what: str) -> None:
    """With what would be right."""
    with pytest.raises(ValueError, match=".") as error:
        LinkSettings(name="lte", **given)
    assert str(error.value).startswith(what)
