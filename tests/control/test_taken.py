"""What the configuration says of who takes what: names that are not there, and what nobody takes."""

from __future__ import annotations

import pytest

from gateway.control.config import ConfigError, parse_config
from gateway.control.taken import not_taken, origins_of, takes_of
from gateway.core.contracts import Priority, Signal
from gateway.store.taking import ANY, EVERYTHING, origin_of

BOX = """
[gateway]
id = "box"
state_dir = "/var/lib/tidegate"

[[sources]]
type = "mqtt_server"
name = "door"
listen = "127.0.0.1:1884"
anonymous_topics = ["#"]

[[mappings]]
match = "climate/#"
name = "climate"
class = "normal"

[[mappings]]
match = "alarm/#"
name = "alarm"
class = "critical"

[[mappings]]
match = "wave/#"
class = "bulk"
"""
OTLP = """
[[sources]]
type = "otlp"
name = "programs"
http = "127.0.0.1:4318"
class = "bulk"
"""
DETECTORS = """
[[detectors]]
name = "odd"
type = "zscore"
match = { metric = "t" }
"""


def uplink(name: str, text: str = "") -> str:
    return f'[[uplinks]]\ntype = "otlp"\nname = "{name}"\nendpoint = "http://127.0.0.1:1"\n{text}\n'


def config_of(*parts: str):
    return parse_config("\n".join((BOX, *parts)), offline=True)


def notes_of(*parts: str) -> list[str]:
    return list(map(str, not_taken(config_of(*parts))))


def test_uplinks_take_what_they_name_and_else_all() -> None:
    """By the uplinks' names."""
    narrow = 'classes = ["critical"]\nsignals = ["metrics", "logs"]\nmappings = ["alarm"]'
    takes = takes_of(config_of(uplink("all"), uplink("some", narrow)).uplinks)
    assert takes["all"] == EVERYTHING
    some = takes["some"]
    assert (some.classes, some.signals) == ({Priority.CRITICAL}, {Signal.METRICS, Signal.LOGS})
    assert some.origins == {origin_of("alarm")}


def test_mappings_that_some_uplink_names_are_told_apart() -> None:
    """Others share their segments, with those that have no name."""
    config = config_of(uplink("a", 'mappings = ["alarm"]'), uplink("b"))
    assert origins_of(config.effective_mappings(), config.uplinks) == [ANY, origin_of("alarm"), ANY]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('mappings = ["climat"]', 'uplinks[0].mappings[0]: no mapping is called "climat"; did you mean "climate"?'),
        ('mappings = ["alarm", "q"]', 'uplinks[0].mappings[1]: no mapping is called "q"; known here: alarm, climate'),
        (
            'classes = ["criticl"]',
            'uplinks[0].classes[0]: "criticl" is not known here; one of "critical", "normal", "bulk"',
        ),
        ('signals = ["spans"]', "uplinks[0].signals[0]"),
        ("classes = []", "uplinks[0].classes"),
        ("mappings = []", "uplinks[0].mappings"),
    ],
)
def test_what_is_not_there_is_refused_by_name(text, problem) -> None:
    """With what would be right."""
    with pytest.raises(ConfigError) as failure:
        config_of(uplink("some", text))
    (said,) = failure.value.problems
    assert said.startswith(problem)


def test_without_names_it_is_said_how_to_give_one() -> None:
    """Nothing is known that could be meant."""
    text = BOX.replace('name = "climate"', "").replace('name = "alarm"', "") + uplink("a", 'mappings = ["x"]')
    with pytest.raises(ConfigError, match=r"give one a name: \[\[mappings\]\] name"):
        parse_config(text, offline=True)


def test_of_mappings_that_are_wrong_no_names_are_known() -> None:
    """What is wrong with one is said, and not that its name is missing too."""
    text = BOX.replace('match = "alarm/#"', 'match = "alarm/#/x"') + uplink("a", 'mappings = ["alarm", "z"]')
    with pytest.raises(ConfigError) as failure:
        parse_config(text, offline=True)
    assert not any("no mapping is called" in problem for problem in failure.value.problems)


def test_nothing_is_said_where_all_is_taken() -> None:
    """By one or by several together; and where there is no uplink at all, that is said elsewhere."""
    assert notes_of(uplink("all")) == []
    assert notes_of(uplink("a", 'classes = ["critical", "normal"]'), uplink("b", 'classes = ["bulk"]')) == []
    assert notes_of() == []


def test_what_no_uplink_takes_is_said() -> None:
    """By the place where its class is set."""
    assert notes_of(uplink("a", 'classes = ["critical", "normal"]')) == [
        "mappings[2].class: no uplink takes metrics of class bulk: kept while there is room, and sent nowhere"
    ]
    (climate, wave) = notes_of(uplink("a", 'mappings = ["alarm"]'))
    assert climate.startswith("mappings[0].class: no uplink takes metrics of class normal")
    assert wave.startswith("mappings[2].class")
    (logs, traces) = notes_of(OTLP, uplink("a", 'signals = ["metrics"]'))
    assert "the logs that programs send, of class bulk" in logs
    assert "the traces that programs send, of class bulk" in traces


def test_findings_that_no_uplink_takes_are_said() -> None:
    """They are logs of class critical, of the mapping in whose readings they were found."""
    found = notes_of(DETECTORS, uplink("a", 'signals = ["metrics"]'))
    assert found == [
        "detectors: no uplink takes findings, which are logs of class critical: kept while there is room, and sent "
        "nowhere"
    ]
    apart = uplink("a", 'signals = ["metrics"]\nmappings = ["alarm"]')
    assert "no uplink takes findings in what the mapping alarm makes, which" in "".join(
        notes_of(DETECTORS, apart, uplink("b", 'classes = ["bulk"]'))
    )


def test_findings_in_what_programs_send_are_of_no_mapping() -> None:
    """Who takes some mappings alone does not get them."""
    found = notes_of(DETECTORS, OTLP, uplink("all"))
    assert found == []
    text = BOX.replace('"wave/#"', '"wave/#"\nname = "wave"') + DETECTORS + OTLP
    text += uplink("a", 'mappings = ["alarm", "climate", "wave"]')
    said = [str(one) for one in not_taken(parse_config(text, offline=True)) if one.path == "detectors"]
    assert len(said) == 1
    assert "no uplink takes findings in what programs send, which are logs of class critical" in said[0]


def test_an_uplink_that_takes_nothing_is_said() -> None:
    """Whoever configured it expects something of it."""
    assert notes_of(uplink("all"), uplink("odd", 'signals = ["traces"]')) == [
        "uplinks[1]: of all that comes in it takes nothing but the gateway's own numbers; look at its classes, "
        "signals and mappings"
    ]


def test_otlp_that_a_broker_brings_is_taken_too() -> None:
    """It is of class normal, of all signals, and of no mapping."""
    broker = """
    [[sources]]
    type = "mqtt"
    name = "fleet"
    url = "mqtt://127.0.0.1:1883"
    topics = ["tidegate/#"]
    otlp = ["tidegate/+/{signal}"]
    """
    assert notes_of(broker, uplink("all"), uplink("spans", 'signals = ["traces"]')) == []
    (logs, traces) = notes_of(broker, uplink("a", 'signals = ["metrics"]'))
    assert logs.startswith("sources[1].otlp: no uplink takes the logs that come as OTLP, of class normal")
    assert "the traces" in traces


def test_what_is_dropped_on_purpose_is_for_nobody() -> None:
    """No uplink is missed by it."""
    text = BOX + '[[mappings]]\nmatch = "noise/#"\ndrop = true\nclass = "bulk"\n'
    config = parse_config(text + uplink("a", 'classes = ["critical", "normal", "bulk"]'), offline=True)
    assert list(not_taken(config)) == []
