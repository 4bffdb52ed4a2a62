"""What `tidegate check` says of topics that no mapping takes, and of mappings that take nothing or too much."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest

from gateway.control.config import Config
from gateway.control.reach import look_at_topics
from gateway.control.reading import PROBLEMS_MAX, read_parts

BROKER = '[[sources]]\ntype = "mqtt"\nname = "plant"\nurl = "mqtt://h"\ntopics = TOPICS\n'
SERVER = '[[sources]]\ntype = "mqtt_server"\nname = "direct"\n'
RECEIVER = '[[sources]]\ntype = "otlp"\nname = "local"\n'
LINE = '[[sources]]\ntype = "serial"\nname = "line1"\nport = "/dev/ttyS0"\nframing = "FRAMING"\n'


def look(text: str) -> tuple[list[str], list[str]]:
    """Return problems and notes."""
    table: dict[str, Any] = tomllib.loads(text)
    found = look_at_topics(read_parts(table, Config))
    return [str(problem) for problem in found.wrong], [str(problem) for problem in found.notes]


def mapping(match: str, more: str = 'resource = { t = "{topic}" }') -> str:
    return f'[[mappings]]\nmatch = "{match}"\n{more}\n'


def broker(*topics: str) -> str:
    return BROKER.replace("TOPICS", str(list(topics)).replace("'", '"'))


@pytest.mark.parametrize(
    "text",
    [
        "",
        broker("tidegate/#", "plant/a") + 'otlp = ["tidegate/+/{signal}"]\n' + mapping("plant/a"),
        SERVER + mapping("a/{x}"),
        broker("plant/#") + mapping("plant/{device}/climate"),
        broker("$share/group/plant/+") + mapping("plant/a"),
        broker("$queue/plant/+", "$exclusive/plant/b", "$SYS/#") + mapping("plant/{x}") + mapping("$SYS/{y}/#"),
        broker("plant/#"),
        broker("plant/#") + mapping("#", 'source = "plant"\nresource = { t = "{topic}" }'),
        LINE.replace("FRAMING", "cobs") + mapping("line1/{x}"),
        LINE.replace("FRAMING", "lines") + mapping("line1"),
        LINE.replace("FRAMING", "lines") + 'payload = "csv"\n' + broker("a") + mapping("a"),
        RECEIVER,
        RECEIVER + SERVER + mapping("a/{x}"),
    ],
)
def test_what_fits_is_not_mentioned(text: str) -> None:
    """Each source brings something that some mapping takes, and each mapping takes something."""
    assert look(text) == ([], [])


def test_a_source_of_which_nothing_is_taken_is_a_problem() -> None:
    """Its framing says what topic a line has; of a broker's topics one that is taken is enough for a note."""
    no = 'no mapping takes what arrives as "{0}"; add [[mappings]] match = "{0}"'
    assert look(SERVER + LINE.replace("FRAMING", "lines") + mapping("line1/{x}")) == (
        [f"sources[1].framing: {no.format('line1')}"], [],
    )  # fmt: skip
    found = look(SERVER + LINE.replace("FRAMING", "cobs") + mapping("line2/{x}"))
    assert found == ([f"sources[1].framing: {no.format('line1/#')}"], [])
    assert look(broker("plant/#", "state/+") + mapping("plant/{x}")) == (
        [], [f"sources[0].topics[1]: {no.format('state/+')}"],
    )  # fmt: skip
    wrong, _ = look(broker("plant/#", "state/+") + mapping("factory/{x}"))
    assert [line.partition(":")[0] for line in wrong] == ["sources[0].topics[0]", "sources[0].topics[1]"]


def test_what_users_may_publish_is_what_a_server_brings() -> None:
    """With their names filled in; clients without a name only where they are let in."""
    users = (
        'users = [ { name = "pump", password = { env = "A" }, topics = ["plant/%u/#", "log/{user}"] } ]\n'
        'certificates = [ { common_name = "fan", topics = ["plant/%u", "x"] } ]\n'
        'tls = { cert_file = "c", key_file = "k", client_ca_file = "a" }\n'
    )
    wrong, notes = look(SERVER + users + mapping("plant/pump/{x}") + mapping("plant/fan"))
    assert wrong == []
    assert [note.partition(";")[0] for note in notes] == [
        'sources[0].users[0].topics[1]: no mapping takes what arrives as "log/pump"',
        'sources[0].certificates[0].topics[1]: no mapping takes what arrives as "x"',
    ]
    wrong, _ = look(SERVER + 'anonymous_topics = ["a/#"]\n' + mapping("b"))
    assert wrong[0].startswith('sources[0].anonymous_topics[0]: no mapping takes what arrives as "a/#"')


def test_a_subscription_in_a_mappings_words_is_noted() -> None:
    """A broker takes braces as letters, so nothing would ever come."""
    said = [f"sources[0].topics[{n}]: to a broker braces are letters like others; write + for a level" for n in (0, 1)]
    assert look(broker("plant/{device}/climate", "x{y}", "a/#")) == ([], said)


def test_a_mapping_of_no_source_is_a_problem() -> None:
    """A name that was mistyped, most of the time."""
    assert look(SERVER + mapping("#", 'source = "dirct"\nresource = { t = "{topic}" }') + mapping("#")) == (
        ['mappings[0].source: no source is called "dirct"; did you mean "direct"?'],
        ['mappings[0].match: no source brings what "#" would take'],
    )


def test_a_source_whose_mapping_was_mistyped_is_not_blamed() -> None:
    """What follows from a problem is not said."""
    wrong, _ = look(broker("a/#") + mapping("a/b", 'source = "plnt"\nresource = { t = "{topic}" }'))
    assert wrong == ['mappings[0].source: no source is called "plnt"; did you mean "plant"?']


@pytest.mark.parametrize(
    ("first", "second", "is_taken"),
    [
        (mapping("#"), mapping("plant/{x}"), True),
        (mapping("plant/+"), mapping("plant/{x}"), True),
        (mapping("plant/{x}", "drop = true"), mapping("plant/a"), True),
        (mapping("#", 'source = "direct"\nresource = { t = "{topic}" }'), mapping("a"), False),
        (mapping("plant/a"), mapping("plant/{x}"), False),
    ],
)
def test_a_mapping_behind_one_that_takes_all_of_it_is_noted(first: str, second: str, is_taken: bool) -> None:
    """One for a single source leaves the others' messages."""
    wrong, notes = look(SERVER + first + second)
    assert wrong == []
    assert len(notes) == is_taken
    if is_taken:
        assert "takes all of its messages first; put this mapping before it" in notes[0]
        assert notes[0].startswith("mappings[1].match: mappings[0] (")


def test_a_mapping_that_nobody_brings_anything_for_is_noted() -> None:
    """Where there are no sources yet, that is said elsewhere."""
    assert look(broker("plant/#") + mapping("plant/a") + mapping("plnt/b")) == (
        [], ['mappings[1].match: no source brings what "plnt/b" would take'],
    )  # fmt: skip
    assert look(mapping("plnt/b")) == ([], [])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (mapping("plant/{device}/climate", ""), '{device} is used nowhere, so the readings of all of them are one '
            'series; add resource = { "device.id" = "{device}" }, or write + for it'),
        (mapping("{site}/{device}", 'resource = { "device.id" = "d-{device}", n = 5 }'), '{site} is used nowhere, so '
            'the readings of all of them are one series; add resource = { "site.id" = "{site}" }, or write + for it'),
        (mapping("#", 'fields = "*"'), 'the readings of all topics that "#" takes are one series; add resource = '
            '{ "mqtt.topic" = "{topic}" }, or name a level'),
        (mapping("plant/+/climate", ""), 'the readings of all topics that "plant/+/climate" takes are one series; add '
            'resource = { "mqtt.topic" = "{topic}" }, or name a level'),
        (mapping("plant/{device}/climate", 'attributes = { d = "{device}" }'), ""),
        (mapping("plant/{device}", 'metrics = [ { field = "t", name = "t_{device}" } ]'), ""),
        (mapping("plant/{device}"), ""),
        (mapping("plant/{device}/+", 'resource = { "device.id" = "{device}" }'), ""),
        (mapping("plant/d1/climate", ""), ""),
        (mapping("plant/{device}", "drop = true"), ""),
        (mapping("#", 'source = "direct"'), ""),
    ],
)  # fmt: skip
def test_readings_that_are_thrown_together_are_noted(text: str, said: str) -> None:
    """Two devices in one series overwrite each other upstream, and nothing says so."""
    assert look(SERVER + text) == ([], [f"mappings[0].match: {said}"] if said else [])


def test_what_is_said_is_bounded() -> None:
    """However many do not fit."""
    wrong, notes = look(
        "".join(broker(f"{n}/#").replace("plant", f"s{n}") for n in range(250)) + mapping("a/{x}", "") * 250
    )
    assert len(wrong) == PROBLEMS_MAX
    assert len(notes) == 2 * PROBLEMS_MAX


@pytest.mark.parametrize("text", ['[[mappings]]\nmatch = "a/b+"\n', "mappings = 1\n", LINE.replace("FRAMING", "x")])
def test_where_a_part_is_wrong_nothing_is_said_of_how_they_fit(text: str) -> None:
    """It would follow from what is said already."""
    assert look(text + mapping("plant/{device}", "") if text[0] == "[" else text) == ([], [])
