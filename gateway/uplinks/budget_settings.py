"""What can be said of an uplink's or a link's budget in the config. Does no I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final, Literal

import msgspec
from msgspec import Meta

from gateway.core.checks import Checked, Problem, below, check
from gateway.core.contracts import Priority
from gateway.core.units import Rate, Size
from gateway.uplinks.free import FreeHours, read_hours

if TYPE_CHECKING:
    from collections.abc import Iterator

Class = Literal["critical", "normal", "bulk"]
Zone = Literal["UTC", "local"]
# The windows of a budget.
HOUR: Final = "hour"
DAY: Final = "day"
MONTH: Final = "month"
# A connection with TLS, and a request of one reading.
ALLOWANCE_BYTES_MIN: Final = Size(64 * 1024)
RATE_MIN: Final = Rate(300 / 8)


class BudgetSettings(Checked, msgspec.Struct, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """What the link may carry, in bytes on the wire: both directions, after compression, with all headers and TLS."""

    rate: Annotated[
        Rate | None, Meta(description='How fast it may send, like "64kbit/s"; without it as fast as the line takes it.')
    ] = None
    per_hour: Annotated[Size | None, Meta(description="What may go in an hour of UTC's clock.")] = None
    per_day: Annotated[Size | None, Meta(description="What may go in a day, see `windows`.")] = None
    per_month: Annotated[Size | None, Meta(description="What may go in a month, see `windows`.")] = None
    month_begins: Annotated[
        int, Meta(description="The day on which a month begins, as the bill has it.", ge=1, le=28)
    ] = 1
    windows: Annotated[Zone, Meta(description="Whose midnight begins a day, and a month: this box's, or UTC's.")] = (
        "UTC"
    )
    free: Annotated[
        tuple[str, ...],
        Meta(
            description='Hours of each day in which what goes counts against no allowance, like "22:00-06:00" in UTC '
            'or "22:00-06:00 local" in this box\'s time zone. Only while a time server stands behind the clock; '
            "`rate` holds then too.",
            max_length=8,
        ),
    ] = ()

    overdraw: Annotated[
        tuple[Class, ...],
        Meta(
            description="Classes that are sent whole and at once though an allowance is spent, up to `overdraw_max` "
            "beyond each; nothing else goes then.",
        ),
    ] = ()
    overdraw_max: Annotated[
        Size | None, Meta(description="How much more than each allowance may go for the classes of `overdraw`.")
    ] = None

    @check("rate")
    def _rate_is_one(self) -> None:
        if self.rate is not None and self.rate < RATE_MIN:
            raise ValueError(f'is {self.rate}; it is at least "{RATE_MIN}"')

    @check("per_hour", "per_day", "per_month")
    def _allowances_hold_a_request(self) -> Iterator[Problem]:
        given = {"per_hour": self.per_hour, "per_day": self.per_day, "per_month": self.per_month}
        for name, size in given.items():
            if size is not None and size < ALLOWANCE_BYTES_MIN:
                yield Problem(name, f'is {size}; one request with its connection needs "{ALLOWANCE_BYTES_MIN}"')

    @check("free")
    def _free_hours_are_hours(self) -> Iterator[Problem]:
        for index, text in enumerate(self.free):
            try:
                read_hours(text)
            except ValueError as error:
                yield Problem(below("free", index), str(error))

    @check("free", "per_hour", "per_day", "per_month")
    def _free_hours_are_free_of_something(self) -> None:
        if self.free and (self.per_hour, self.per_day, self.per_month) == (None, None, None):
            raise ValueError("there is no allowance that they would be free of; add per_hour, per_day or per_month")

    @check("overdraw", "overdraw_max", "per_hour", "per_day", "per_month")
    def _overdraft_is_bounded(self) -> Iterator[Problem]:
        if self.overdraw and self.overdraw_max is None:
            yield Problem("overdraw", 'has no bound; add overdraw_max = "…", what may go beyond each allowance')
        elif self.overdraw_max is not None and not self.overdraw:
            yield Problem("overdraw_max", 'is for nobody; add overdraw = ["critical"]')
        elif self.overdraw_max is not None and self.overdraw_max < ALLOWANCE_BYTES_MIN:
            what = f'is {self.overdraw_max}; one request with its connection needs "{ALLOWANCE_BYTES_MIN}"'
            yield Problem("overdraw_max", what)
        elif self.overdraw and (self.per_hour, self.per_day, self.per_month) == (None, None, None):
            yield Problem("overdraw", "there is no allowance to go beyond; add per_hour, per_day or per_month")

    def overdraws(self) -> frozenset[Priority]:
        """Return the classes that may go beyond an allowance."""
        return frozenset(Priority[word.upper()] for word in self.overdraw)

    def free_hours(self) -> FreeHours:
        """Return when what goes is free."""
        return FreeHours(tuple(map(read_hours, self.free)))

    def allowances(self) -> dict[str, int]:
        """Return the limits of those windows that have one."""
        given = {HOUR: self.per_hour, DAY: self.per_day, MONTH: self.per_month}
        return {window: int(size) for window, size in given.items() if size is not None}
