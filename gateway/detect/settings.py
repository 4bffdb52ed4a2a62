"""What can be set about watchers. Must not compute anything."""

from __future__ import annotations

from typing import Annotated, TypeAlias

import msgspec

from gateway.core.units import Duration


def _about(text: str, **bounds: float) -> msgspec.Meta:
    return msgspec.Meta(description=text, **bounds)


class Match(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """Which series a detector watches: all that is given must fit. `*` and `?` stand for any text and any letter."""

    metric: Annotated[str, _about("The metric's name.", min_length=1)] = "*"
    unit: Annotated[str, _about("The metric's unit.")] = "*"
    attributes: Annotated[
        dict[str, str],
        _about('Attributes of the resource or the point, like { "device.id" = "pump-*" }.', max_length=32),
    ] = {}


class CommonSettings(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, frozen=True, tag_field="type"):
    """What every kind of detector can be told."""

    name: Annotated[str, _about("What its findings are signed with; the type if not given.")] = ""
    match: Annotated[Match, _about("Which series it watches; all of them if not given.")] = Match()
    silence: Annotated[
        Duration, _about("How long a series says nothing more after a finding; at least 120 readings.")
    ] = Duration(600)
    habituation: Annotated[
        int,
        _about(
            "A new finding must top the series' earlier ones, whose memory halves in so many readings; 0 forgets at "
            "once.",
            ge=0,
        ),
    ] = 7000
    series_max: Annotated[
        int, _about("Series watched at most; more are counted and left alone.", ge=1, le=1_000_000)
    ] = 10_000
    findings_max: Annotated[
        int, _about("Findings at most from one batch; more are counted.", ge=1, le=10_000)
    ] = 64


class ZScoreSettings(CommonSettings, kw_only=True, forbid_unknown_fields=True, frozen=True, tag="zscore"):
    """How many standard deviations a reading is away from the recent mean of its series."""

    threshold: Annotated[float, _about("Standard deviations from which a reading is a finding.", gt=0)] = 5.0
    warmup: Annotated[int, _about("Readings of a series before it is judged.", ge=8, le=1_000_000)] = 64
    span: Annotated[int, _about("Readings over which mean and deviation forget.", ge=8, le=10_000_000)] = 1000
    scale_min: Annotated[float, _about("Smallest standard deviation, in the metric's unit.", ge=0)] = 0.0


class IqrSettings(CommonSettings, kw_only=True, forbid_unknown_fields=True, frozen=True, tag="iqr"):
    """How many interquartile ranges a reading is outside the quartiles of its recent past."""

    threshold: Annotated[float, _about("Interquartile ranges from which a reading is a finding.", gt=0)] = 3.0
    warmup: Annotated[int, _about("Readings of a series before it is judged.", ge=8, le=1_000_000)] = 64
    window: Annotated[int, _about("How many readings are kept of each series.", ge=8, le=4096)] = 128
    stride: Annotated[int, _about("Every how-manieth reading is kept.", ge=1, le=10_000)] = 8
    scale_min: Annotated[float, _about("Smallest interquartile range, in the metric's unit.", ge=0)] = 0.0


DetectorSettings: TypeAlias = ZScoreSettings | IqrSettings
