"""What programs give as times, values and attributes, made into columns' types or refused by name. Asks no clock.

Refused is what can only be a mistake of whoever wrote the program: a wrong type, another unit, a name that nothing may
have. A time that cannot be right is no such mistake, since a box without a clock gives such: the door marks it.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np

from gateway.codecs.mapping_settings import NAME_LENGTH_MAX, TEXT_LENGTH_MAX, is_own_name
from gateway.core.batch import ValueKind
from gateway.core.clock import NS_PER_S, is_plausible
from gateway.core.contracts import Priority

if TYPE_CHECKING:
    import numpy.typing as npt

    from gateway.core.batch import Attributes, AttributeValue

    Numbers: TypeAlias = npt.NDArray[np.float64] | npt.NDArray[np.int64] | npt.NDArray[np.bool_]

ATTRIBUTES_MAX: Final = 64
UNIT_LENGTH_MAX: Final = 63
PRIORITIES: Final = {priority.name.lower(): priority for priority in Priority}
KINDS: Final = ("gauge", "sum")
# Nothing that fits a column of nanoseconds is later.
NS_MAX: Final = 1 << 62
INT_MAX: Final = 1 << 63

_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_SCALES: Final = {NS_PER_S: "seconds", 1_000_000: "milliseconds", 1_000: "microseconds"}
_RIGHT_TIME: Final = (
    "give Unix nanoseconds as time.time_ns has them, seconds as a float like time.time, or an aware datetime"
)


def unix_ns(time: Any, what: str = "time") -> int:
    """Return Unix nanoseconds; raise TypeError, or ValueError that says what would be right.

    A whole number is nanoseconds, a float is seconds, to the microsecond: more a double does not hold.

    >>> unix_ns(1_790_000_000.25), unix_ns(1_790_000_000_250_000_000)
    (1790000000250000000, 1790000000250000000)
    """
    if isinstance(time, bool | np.bool_):
        raise TypeError(f"{what} is {time}; {_RIGHT_TIME}")
    if isinstance(time, int | np.integer):
        return _checked_ns(int(time), what)
    if isinstance(time, float | np.floating):
        if not abs(float(time)) < NS_MAX / NS_PER_S:
            raise ValueError(f"{what} is {time}, which is no number of seconds since 1970; {_RIGHT_TIME}")
        whole, rest = divmod(float(time), 1.0)
        return int(whole) * NS_PER_S + round(rest * 1e6) * 1000
    if isinstance(time, dt.datetime):
        if time.tzinfo is None:
            raise ValueError(f"{what} is a datetime without a time zone; give it one, like timezone.utc")
        since = time - _EPOCH
        return ((since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds) * 1000
    if isinstance(time, np.datetime64):
        if np.isnat(time):
            raise ValueError(f"{what} is NaT; {_RIGHT_TIME}")
        return int(time.astype("datetime64[ns]").astype(np.int64))
    raise TypeError(f"{what} is a {type(time).__name__}; {_RIGHT_TIME}")


def _checked_ns(time_ns: int, what: str) -> int:
    if not -NS_MAX < time_ns < NS_MAX:
        raise ValueError(f"{what} is {time_ns}, which is no number of nanoseconds since 1970; {_RIGHT_TIME}")
    if not is_plausible(time_ns):
        for scale, unit in _SCALES.items():
            if is_plausible(time_ns * scale):
                raise ValueError(f"{what} is {time_ns}, as it seems in {unit}; whole numbers are nanoseconds")
    return time_ns


def unix_ns_of_each(times: Any, count: int, what: str = "time") -> npt.NDArray[np.int64]:
    """Return Unix nanoseconds of `count` times, as `unix_ns` reads each; raise TypeError or ValueError."""
    given = np.asarray(times)
    if given.ndim != 1 or len(given) != count:
        shape = f"{len(given)} times" if given.ndim == 1 else f"an array of {given.ndim} dimensions"
        raise ValueError(f"{what} is {shape} for {count} values; give each value its time")
    if given.dtype.kind in "iu":
        for edge in (given.min(), given.max()):
            _checked_ns(int(edge), what)
        return given.astype(np.int64)
    if given.dtype.kind == "f":
        if not (np.abs(given) < NS_MAX / NS_PER_S).all():
            raise ValueError(f"{what} has one that is no number of seconds since 1970; {_RIGHT_TIME}")
        whole = np.floor(given)
        return np.asarray(whole.astype(np.int64) * NS_PER_S + np.rint((given - whole) * 1e6).astype(np.int64) * 1000)
    if given.dtype.kind == "M":
        if np.isnat(given).any():
            raise ValueError(f"{what} has a NaT; {_RIGHT_TIME}")
        return given.astype("datetime64[ns]").astype(np.int64)
    return np.fromiter((unix_ns(time, what) for time in given.tolist()), np.int64, count)


def stepped_ns(start_ns: int, step: Any, count: int) -> npt.NDArray[np.int64]:
    """Return `count` times from `start_ns` on, `step` apart: seconds, or a timedelta.

    >>> stepped_ns(0, 0.5, 3).tolist()
    [0, 500000000, 1000000000]
    """
    if isinstance(step, dt.timedelta):
        step = step.total_seconds()
    if isinstance(step, bool) or not isinstance(step, int | float | np.integer | np.floating):
        raise TypeError(f"step is a {type(step).__name__}; give the seconds between two values, or a timedelta")
    step_ns = float(step) * NS_PER_S
    if not 0 <= step_ns * count < NS_MAX:
        raise ValueError(f"step is {step}; give the seconds from one value to the next, like 0.001")
    return np.asarray(start_ns + np.rint(np.arange(count) * step_ns).astype(np.int64))


def is_many(value: Any) -> bool:
    """Whether `value` is an array or a list of values, and not one."""
    if isinstance(value, str | bytes | bytearray):
        return False
    return isinstance(value, Sequence | memoryview) or (hasattr(value, "__array__") and np.ndim(value) > 0)


def one_number(value: Any, what: str = "value") -> tuple[ValueKind, float | int]:
    """Return the kind of one value, and it as Python has it; raise TypeError.

    An integer that int64 does not hold becomes a double.

    >>> one_number(True), one_number(np.float32(0.5)), one_number(1 << 70)[0]
    ((<ValueKind.BOOL: 2>, 1), (<ValueKind.DOUBLE: 0>, 0.5), <ValueKind.DOUBLE: 0>)
    """
    if isinstance(value, np.generic) or getattr(value, "__array__", None) is not None:
        value = np.asarray(value).item()
    if isinstance(value, bool):
        return ValueKind.BOOL, int(value)
    if isinstance(value, int):
        return (ValueKind.INT, value) if -INT_MAX <= value < INT_MAX else (ValueKind.DOUBLE, float(value))
    if isinstance(value, float):
        return ValueKind.DOUBLE, value
    if isinstance(value, complex | str | bytes | None) or not hasattr(value, "__float__"):
        raise TypeError(f"{what} is a {type(value).__name__}; give a number, a bool, or an array of them")
    # Decimal and Fraction, say.
    return ValueKind.DOUBLE, float(value)


def many_numbers(values: Any, what: str = "value") -> Numbers:
    """Return a copy of an array of values as float64, int64 or bool; raise TypeError or ValueError.

    >>> many_numbers([1, 2]).dtype, many_numbers(np.array([1.5], np.float32)).tolist()
    (dtype('int64'), [1.5])
    """
    given = np.asarray(values)
    if given.ndim != 1:
        raise ValueError(f"{what} has {given.ndim} dimensions; send each row as a metric of its own")
    kind = given.dtype.kind
    if kind == "u" and given.dtype.itemsize == 8 and len(given) and int(given.max()) >= INT_MAX:
        kind = "f"
    if kind not in "fiub":
        if len(given):
            raise TypeError(f"{what} is an array of {given.dtype}; give numbers or bools")
        kind = "f"
    return given.astype({"f": np.float64, "b": np.bool_}.get(kind, np.int64), copy=True)


def metric_name(name: Any) -> str:
    """Return a metric's name; raise TypeError or ValueError."""
    if not isinstance(name, str):
        raise TypeError(f"the name of a metric is a text, not a {type(name).__name__}")
    _check_text(name, "the name of a metric")
    if not name or len(name) > NAME_LENGTH_MAX:
        raise ValueError(f"a metric's name has 1 to {NAME_LENGTH_MAX} letters, this one {len(name)}")
    if is_own_name(name):
        raise ValueError(f"{name} is a name of the gateway's own numbers; call it something else")
    return name


def metric_unit(unit: Any) -> str:
    """Return a unit; raise TypeError or ValueError."""
    if not isinstance(unit, str):
        raise TypeError(f"a unit is a text like 'Cel' or 'm/s', not a {type(unit).__name__}")
    _check_text(unit, "a unit")
    if len(unit) > UNIT_LENGTH_MAX:
        raise ValueError(f"a unit has {UNIT_LENGTH_MAX} letters at most, this one {len(unit)}")
    return unit


def _check_text(text: str, what: str) -> None:
    """Raise ValueError for what no UTF-8 can say: half of a pair of surrogates."""
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"{what} is no Unicode: {error.reason}") from error


def one_of(what: str, value: Any, known: Any) -> None:
    """Raise ValueError where `value` is not among `known`."""
    if not isinstance(value, str) or value not in known:
        raise ValueError(f"{what} is {value!r}; it is {', '.join(known)}")


def scalar_attributes(attributes: Any, what: str = "attributes") -> Attributes:
    """Return attributes of a series or resource, sorted by key; raise TypeError or ValueError.

    They stand on every point that leaves: so they are texts, numbers and bools, and not long ones.
    """
    if attributes is None:
        return ()
    if not isinstance(attributes, Mapping):
        raise TypeError(f'{what} is a {type(attributes).__name__}; give a dict like {{"device.id": "d1"}}')
    if len(attributes) > ATTRIBUTES_MAX:
        raise ValueError(f"{what} has {len(attributes)} entries; {ATTRIBUTES_MAX} are the most")
    return tuple(sorted(_plain(key, value, what) for key, value in attributes.items()))


def _plain(key: Any, value: Any, what: str) -> tuple[str, AttributeValue]:
    """Return an attribute in Python's own types; raise TypeError or ValueError."""
    if not isinstance(key, str) or not key:
        raise TypeError(f"a key of {what} is {key!r}; it is a text like 'device.id'")
    if isinstance(value, np.generic):
        value = value.item()
    if not isinstance(value, str | bool | int | float):
        raise TypeError(f"{what}[{key!r}] is a {type(value).__name__}; give a text, a number or a bool")
    if len(key) > TEXT_LENGTH_MAX or (isinstance(value, str) and len(value) > TEXT_LENGTH_MAX):
        raise ValueError(f"{what}[{key[:40]!r}] has more than {TEXT_LENGTH_MAX} letters; a log can say more")
    _check_text(key, f"a key of {what}")
    if isinstance(value, str):
        _check_text(value, f"{what}[{key!r}]")
    if isinstance(value, bool):
        return key, value
    if isinstance(value, int) and not -INT_MAX <= value < INT_MAX:
        raise ValueError(f"{what}[{key!r}] is {value}, which has more than 64 bits; give it as a text")
    # Of enumerations and other types that are made from these, what they are made from.
    kind = next(kind for kind in (str, int, float) if isinstance(value, kind))
    return str.__str__(key), kind.__str__(value) if kind is str else kind(value)
