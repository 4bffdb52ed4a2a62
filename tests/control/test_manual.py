"""Pages made from the settings classes."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from gateway.control.manual import (
    CONFIGURATION,
    METRICS,
    example_of,
    main,
    metrics_page,
    page_of,
    profile_sections,
    schema_of,
)
from gateway.control.reading import read
from gateway.core.units import Duration, Size
from gateway.net.secrets import Secret


class Inner(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """What is inside."""

    deep: Annotated[float | None, Meta(description="How | deep.")] = None
    switch: Annotated[bool | None, Meta(description="On?")] = None


class One(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, frozen=True, tag_field="type", tag="one"):
    """The first kind."""

    name: Annotated[str, Meta(description="Its name.")]
    wait: Annotated[Duration, Meta(description="How long.")] = Duration(90)
    room: Annotated[Size | None, Meta(description="How much.")] = None
    inner: Annotated[Inner, Meta(description="Inside.")] = Inner()
    many: Annotated[dict[str, Inner], Meta(description="Many.")] = {}
    listed: Annotated[list[int] | None, Meta(description="Numbers.")] = None
    token: Annotated[Secret | None, Meta(description="Who we are.")] = None
    table: Annotated[dict[str, str] | None, Meta(description="A table.")] = None
    odd: Annotated[None, Meta(description="Nothing.")] = None


class Root(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """All."""

    needed: Annotated[int, Meta(description="A number that must be given.")]
    table: Annotated[Inner, Meta(description="One table.")] = Inner()
    ones: Annotated[tuple[One, ...], Meta(description="Several.")] = ()


def test_a_page_lists_every_key_once() -> None:
    """Kind, default, what it does; tables inside tables come behind, secrets are explained at the top."""
    page = page_of(Root)
    for row in (
        "| `needed` | whole number | **needed** | A number that must be given. |",
        '| `wait` | duration | `"90s"` | How long. |',
        "| `room` | size |  | How much. |",
        "| `inner` | table | `{}` | Inside. |",
        "| `many` | table of table | `{}` | Many. |",
        "| `deep` | number |  | How \\| deep. |",
        "| `token` | secret |  | Who we are. |",
        "| `listed` | list of whole number |  | Numbers. |",
    ):
        assert page.count(row) == 1, row
    assert '## `[[ones]]` with `type = "one"`\n\nSeveral. The first kind.' in page
    assert "## `[table]`\n\nWhat is inside." in page


def test_an_example_is_a_file_in_which_only_what_is_needed_is_set() -> None:
    """Required keys stand there, the rest is commented out, durations as text."""
    lines = example_of(Root).splitlines()
    assert "needed = 1" in lines
    assert "[table]" in lines
    for line in (
        "# [[ones]]",
        '# type = "one"',
        '# name = "…"',
        '# wait = "90s"',
        '# room = "64KiB"',
        "# deep = 1.0",
    ):
        assert line in lines, line
    for line in (
        "# switch = false",
        "# listed = [1]",
        '# token = { env = "NAME" }',
        "# table = {}",
        '# odd = ""',
    ):
        assert line in lines, line


def test_a_schema_shows_durations_as_they_stand_in_the_file() -> None:
    """As texts with a default that `read` would take."""
    one = schema_of(Root)["$defs"]["One"]["properties"]
    assert one["wait"]["default"] == "90s"
    assert one["type"] == {"enum": ["one"]}
    built, problems = read({"needed": 1, "ones": [{"type": "one", "name": "x", "wait": one["wait"]["default"]}]}, Root)
    assert problems == []
    assert built is not None
    assert built.ones[0].wait == 90


class Two(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, frozen=True, tag_field="type", tag="two"):
    """The second kind."""

    inner: Annotated[Inner, Meta(description="Inside.")] = Inner()


class Both(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """All."""

    each: Annotated[tuple[One | Two, ...], Meta(description="Several.")] = ()


def test_a_table_inside_a_table_says_whose_it_is() -> None:
    """One that several have stands there once, with all of them."""
    headings = [line for line in page_of(Both).splitlines() if line.startswith("## ") and "Above" not in line]
    first, second = '`[[each]]` with `type = "one"`', '`[[each]]` with `type = "two"`'
    inner = f"## `inner` in {first}, and `many` in {first}, and `inner` in {second}"
    assert headings == [f"## {first}", f"## {second}", inner]


def test_a_profile_is_explained_key_by_key() -> None:
    """But for its name, which is its file's."""
    text = profile_sections()
    assert "| `memory_max` | size | **needed** |" in text
    assert "## `detect` in a hardware profile" in text
    assert "| `name` |" not in text


def test_the_page_of_metrics_has_a_row_for_each() -> None:
    """As it is named on /metrics."""
    page = metrics_page()
    assert page.count("| `tidegate_ledger_readings_total` | counter | `uplink`, `reason` | Readings that will not") == 1
    assert page.count("| `tidegate_healthy` | gauge |  | 1 while") == 1


def test_the_command_writes_the_page(tmp_path) -> None:
    """Into the directory that is named; anything else is a wrong call."""
    assert main([]) == 2
    assert main([str(tmp_path)]) == 0
    assert (tmp_path / CONFIGURATION).read_text(encoding="utf-8").startswith("# Configuration\n")
    assert (tmp_path / METRICS).read_text(encoding="utf-8") == metrics_page()
