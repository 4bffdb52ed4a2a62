r"""Numbers as Prometheus text, format 0.0.4: families in, lines out. Must not know what is counted, or by whom.

The format (prometheus.io/docs/instrumenting/exposition_formats): for each name one `# HELP` and one `# TYPE` line, then
a line for each set of labels. Backslashes and line ends are escaped in help and labels, double quotes in labels alone.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Final

from gateway.control.instruments import COUNTER_ENDING
from gateway.core.telemetry import Family

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gateway.core.telemetry import Labels

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

_NO_NAME: Final = re.compile(r"^[0-9]|[^a-zA-Z0-9_:]")
_NO_LABEL: Final = re.compile(r"^[0-9]|[^a-zA-Z0-9_]")
_IN_HELP: Final = str.maketrans({"\\": r"\\", "\n": r"\n"})
_IN_LABEL: Final = str.maketrans({"\\": r"\\", "\n": r"\n", '"': r"\""})


def exposition(families: Iterable[Family]) -> bytes:
    r"""Return the page that a scraper reads: families in the order they come, label sets in theirs.

    `kind` is "counter" or "gauge"; a counter's name ends in `_total` here, whether it did or not. A name
    that comes twice is one family, as the format wants it: the first says what it is, and how much where labels agree.
    A letter that UTF-8 has no bytes for is a question mark: it must not take the page away.

    >>> print(exposition([Family("read", "Read.", "counter", {(("from", 'a"b'),): 2})]).decode(), end="")
    # HELP read_total Read.
    # TYPE read_total counter
    read_total{from="a\"b"} 2.0
    """
    lines: list[str] = []
    for name, family in _merged(families).items():
        lines.append(f"# HELP {name} {family.help.translate(_IN_HELP)}\n# TYPE {name} {family.kind}\n")
        lines += [f"{name}{_labels(labels)} {number(value)}\n" for labels, value in family.values.items()]
    return "".join(lines).encode("utf-8", errors="replace")


def number(value: float) -> str:
    """Return a number as the format has it: as short as can be read back exactly.

    >>> number(5), number(0.1), number(float("nan")), number(float("-inf"))
    ('5.0', '0.1', 'NaN', '-Inf')
    """
    value = float(value)
    if math.isfinite(value):
        return repr(value)
    return "NaN" if math.isnan(value) else "+Inf" if value > 0 else "-Inf"


def _merged(families: Iterable[Family]) -> dict[str, Family]:
    merged: dict[str, Family] = {}
    for family in families:
        name = _NO_NAME.sub("_", family.name)
        if family.kind == "counter":
            name = name.removesuffix(COUNTER_ENDING) + COUNTER_ENDING
        first = merged.setdefault(name, Family(name, family.help, family.kind))
        first.values = family.values | first.values
    return merged


def _labels(labels: Labels) -> str:
    if not labels:
        return ""
    said = (f'{_NO_LABEL.sub("_", name)}="{value.translate(_IN_LABEL)}"' for name, value in sorted(labels))
    return "{" + ",".join(said) + "}"
