"""Messages become readings: which mapping takes which topic, then columns per mapping. Must not decode or do I/O.

| step                     | where                             |
| ------------------------ | --------------------------------- |
| topic → mapping and row  | here, one dict lookup per message |
| payload → document       | documents, payloads, structs      |
| documents → columns      | declared, leaves, arrays, columns |
| device time → Unix time  | timing, device_time               |

Everything a device sends may be wrong: what cannot be used comes back with a reason and a sentence, and costs
no other reading of the same buffer anything.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np

from gateway.codecs.declared import DeclaredPlan
from gateway.codecs.device_time import Moment
from gateway.codecs.explain import Explanation, check_examples, explain
from gateway.codecs.leaves import LeavesPlan
from gateway.codecs.mapping_settings import OWN_NAME, MapLimits, MappingSettings, default_mappings
from gateway.codecs.payloads import shown
from gateway.codecs.routes import Owners, Routes
from gateway.codecs.routing import Output, Plan, RefusingPlan, Topic, Work
from gateway.codecs.topics import Pattern
from gateway.core.batch import distinct
from gateway.core.clock import WALL_CEILING_NS, is_plausible
from gateway.core.contracts import BAD_TOPIC, DROPPED_BY_MAPPING, MalformedError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from gateway.codecs.routing import Resolve
    from gateway.core.batch import Batch
    from gateway.core.contracts import Arrivals, Lost, Priority

__all__ = ["Explanation", "MapLimits", "Mapped", "Mapper", "MappingSettings", "default_mappings"]

PATTERNS_SHOWN: Final = 8


@dataclass(slots=True)
class Mapped:
    """What arrivals became.

    `pieces` holds one batch for each priority and origin there is. `malformed` says what is lost, by payload, reason
    and sentence, with a count: its length says nothing of how many readings that are.
    """

    pieces: list[tuple[Priority, Batch]] = field(default_factory=list)
    malformed: list[Lost] = field(default_factory=list)
    readings: int = 0


class Mapper:
    """All mappings of a gateway. The first in order that matches a topic takes the message.

    `resolve` gives a series, brought by an owner, its number, or None where there are too many. Not thread-safe; one
    for all sources. `origins` has a number for each mapping that is told apart in what comes out, 0 for others.
    """

    def __init__(
        self,
        mappings: Sequence[MappingSettings],
        *,
        resolve: Resolve,
        limits: MapLimits | None = None,
        origins: Sequence[int] = (),
    ) -> None:
        self.mappings = tuple(mappings)
        # What nobody maps has an origin too: that of nothing.
        self._origins = [*(origins or [0] * len(self.mappings)), 0, 0, 0]
        self.limits = limits or MapLimits()
        self._patterns = [Pattern(mapping.match) for mapping in self.mappings]
        self._plans: list[Plan] = [_plan(mapping, resolve, self.limits) for mapping in self.mappings]
        self._plans += [RefusingPlan("no_mapping", self._no_mapping), RefusingPlan(BAD_TOPIC, self._bad_topic)]
        self._plans.append(RefusingPlan("bad_name", lambda topic: f"from the topic {shown(topic)}: {OWN_NAME}"))
        self._minds_source = any(mapping.source is not None or "{source}" in repr(mapping) for mapping in self.mappings)
        self._routes = Routes(count_max=self.limits.routes_max, bytes_max=self.limits.routes_bytes_max)

    def map(self, arrivals: Arrivals, *, wall_ns: int | None) -> Mapped:
        """Return the readings of `arrivals` and what is lost of them, with what was lost before they came here.

        `wall_ns` is the Unix time of their arrival if a clock is known; a device's time much later is not believed.
        """
        output = Output()
        if not arrivals.payloads:
            return Mapped()
        slots = self._find_routes(arrivals)
        plans, rows = self._routes.plans[slots], self._routes.rows[slots]
        moment = self.moment(arrivals.arrived_ns, wall_ns)
        owners = Owners(arrivals.source, arrivals.users)
        work = Work(arrivals.payloads, np.arange(len(rows)), rows, moment, owners, output)
        if arrivals.lost:
            for lost in arrivals.lost:
                output.lose(*lost)
            whole = np.delete(work.positions, [lost.at for lost in arrivals.lost])
            work, plans = work.take(whole), plans[whole]
        if len(plans) and (plans == plans[0]).all():
            output.origin = self._origins[int(plans[0])]
            self._plans[int(plans[0])].map(work)
        else:
            for number in distinct(plans).tolist():
                output.origin = self._origins[number]
                self._plans[number].map(work.take(np.flatnonzero(plans == number)))
        self._routes.note(slots, arrivals.arrived_ns)
        if self._routes.is_over:
            for number, dropped in self._routes.evict():
                self._plans[number].drop_topics(dropped)
        pieces = output.pieces()
        return Mapped(pieces, output.malformed, sum(len(batch) for _, batch in pieces))

    def forget_series(self, numbers: npt.NDArray[np.uint32]) -> None:
        """Let go of these numbers, distinct and in order: whose series they were is asked for again."""
        for plan in self._plans:
            plan.forget_series(numbers)

    def explain(self, topic: str, payload: bytes, *, wall_ns: int | None, source: str | None = None) -> Explanation:
        """Say what becomes of one message and why; nothing is remembered. Without `source` any source will do."""
        return explain(self, topic, payload, wall_ns=wall_ns, source=source)

    def check(self) -> list[str]:
        """Try each mapping's own examples; return sentences about those that are wrong."""
        return check_examples(self)

    def find(self, topic: str, source: str | None) -> tuple[int | None, list[tuple[int, str]]]:
        """Return which mapping takes a topic, and why each one before it does not.

        A `source` of None stands for any.
        """
        tried: list[tuple[int, str]] = []
        for number, (mapping, pattern) in enumerate(zip(self.mappings, self._patterns, strict=True)):
            if source is not None and mapping.source not in {None, source}:
                tried.append((number, f"the source is {source!r}, not {mapping.source!r}"))
            elif pattern.match(topic) is not None:
                return number, tried
            else:
                tried.append((number, pattern.why_not(topic)))
        return None, tried

    def moment(self, arrived_ns: int, wall_ns: int | None) -> Moment:
        """Return between which times what arrives now is believed; `wall_ns` is the time of day, if known."""
        # A clock that stands before this software was made was never set.
        if wall_ns is None or not is_plausible(wall_ns):
            return Moment(arrived_ns, self.limits.device_time_min, WALL_CEILING_NS)
        return Moment(arrived_ns, self.limits.device_time_min, wall_ns + self.limits.device_time_ahead_max)

    def _find_routes(self, arrivals: Arrivals) -> npt.NDArray[np.intp]:
        """Return the slot of each message's topic."""
        topics = arrivals.topics
        known = self._routes.of(arrivals.source if self._minds_source else "")
        try:
            return np.fromiter(map(known.get, topics), np.intp, len(topics))
        except TypeError:
            # In the order of arrival: where series run out, who came first has one.
            for topic in topics:
                if topic not in known:
                    self._add_route(topic, arrivals.source)
        return np.fromiter(map(known.__getitem__, topics), np.intp, len(topics))

    def _add_route(self, raw: bytes, source: str) -> None:
        """Look a topic up in the mappings."""
        number: int | None = len(self.mappings) + 1
        text = raw[: self.limits.topic_bytes_max].decode(errors="replace")
        if len(raw) > self.limits.topic_bytes_max:
            # Nobody sent half a letter: it was cut here.
            text = text.removesuffix("\ufffd")
        captures: dict[str, str] = {}
        if not self._topic_problem(raw):
            number, _ = self.find(text, source)
            if number is not None:
                captures = self._patterns[number].match(text) or {}
            else:
                number = len(self.mappings)
        assert number is not None, "what nobody takes has plans of its own"
        plan = self._plans[number]
        topic = Topic(text, {**captures, "topic": text, "source": source})
        try:
            row = plan.add_topic(topic)
        except MalformedError:
            number = len(self.mappings) + 2
            plan = self._plans[number]
            row = plan.add_topic(topic)
        self._routes.add(
            source if self._minds_source else "",
            raw,
            plan=number,
            row=row,
            texts=(text, *captures.values()),
            row_bytes=plan.row_bytes,
        )

    def _topic_problem(self, raw: bytes) -> str:
        if len(raw) > self.limits.topic_bytes_max:
            return f"longer than {self.limits.topic_bytes_max} bytes"
        if raw.count(b"/") >= self.limits.topic_levels_max:
            return f"of more than {self.limits.topic_levels_max} levels"
        try:
            raw.decode()
        except UnicodeDecodeError:
            return "not UTF-8"
        return ""

    def _no_mapping(self, topic: str) -> str:
        patterns = [mapping.match for mapping in self.mappings]
        more = f" and {len(patterns) - PATTERNS_SHOWN} more" if len(patterns) > PATTERNS_SHOWN else ""
        return f"no mapping takes the topic {shown(topic)}; there are {', '.join(patterns[:PATTERNS_SHOWN])}{more}"

    def _bad_topic(self, topic: str) -> str:
        limits = self.limits
        too_much = f"longer than {limits.topic_bytes_max} bytes or of more than {limits.topic_levels_max} levels"
        problem = "not UTF-8" if "\ufffd" in topic else too_much
        return f"the topic {shown(topic)} is {problem}"


def _plan(settings: MappingSettings, resolve: Resolve, limits: MapLimits) -> Plan:
    if settings.drop:
        return RefusingPlan(DROPPED_BY_MAPPING, lambda topic: f"the mapping of {shown(topic)} says drop")
    if settings.metrics or settings.payload == "text":
        return DeclaredPlan(settings, resolve=resolve, limits=limits)
    return LeavesPlan(settings, resolve=resolve, limits=limits)
