"""What can be set about watchers. Must not compute anything."""

from __future__ import annotations

from typing import Annotated, TypeAlias

import msgspec
from msgspec import Meta

from gateway.core.units import Duration


class Match(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """Which series a detector watches: all given must fit; `*` stands for any text, `?` for one letter."""

    metric: Annotated[str, Meta(description="The metric's name.", min_length=1)] = "*"
    unit: Annotated[str, Meta(description="The metric's unit.")] = "*"
    attributes: Annotated[
        dict[str, str],
        Meta(
            description='Attributes of the resource or the point, like { "device.id" = "pump-*" }.',
            max_length=32,
        ),
    ] = {}


class CommonSettings(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, frozen=True, tag_field="type"):
    """What every kind of detector can be told."""

    name: Annotated[str, Meta(description="What its findings are signed with; the type if not given.")] = ""
    match: Annotated[
        Match,
        Meta(
            description="Which series it watches, of devices and of OTLP (gauges and sums); all of them if not given."
        ),
    ] = Match()
    warmup: Annotated[int, Meta(description="Readings of a series before it is judged.", ge=8, le=1_000_000)] = 64
    silence: Annotated[
        Duration,
        Meta(description="How long a series says nothing more after a finding; for 120 readings at least."),
    ] = Duration(600)
    habituation: Annotated[
        int,
        Meta(
            description="A finding must top the series' earlier ones, whose memory halves in so many "
            "readings; 0: they don't matter.",
            ge=0,
        ),
    ] = 7000
    series_max: Annotated[
        int, Meta(description="Series watched at most; more are counted and left alone.", ge=1, le=1_000_000)
    ] = 10_000
    findings_max: Annotated[
        int, Meta(description="Findings at most from one batch; more are counted.", ge=1, le=10_000)
    ] = 64


class ZScoreSettings(CommonSettings, kw_only=True, forbid_unknown_fields=True, frozen=True, tag="zscore"):
    """How many standard deviations a reading is away from the recent mean of its series."""

    threshold: Annotated[float, Meta(description="Standard deviations from which a reading is a finding.", gt=0)] = 5.0
    span: Annotated[int, Meta(description="Readings over which mean and deviation forget.", ge=8, le=10_000_000)] = 1000
    scale_min: Annotated[float, Meta(description="Smallest standard deviation, in the metric's unit.", ge=0)] = 0.0


class IqrSettings(CommonSettings, kw_only=True, forbid_unknown_fields=True, frozen=True, tag="iqr"):
    """How many interquartile ranges a reading is outside the quartiles of its recent past."""

    threshold: Annotated[float, Meta(description="Interquartile ranges from which a reading is a finding.", gt=0)] = 3.0
    window: Annotated[
        int,
        Meta(
            description="How many readings are kept of each series. A range of n readings counts as wider by 12/n, "
            "and one of fewer than 32, or than a quarter of a smaller window, judges nobody.",
            ge=8,
            le=4096,
        ),
    ] = 128
    stride: Annotated[
        int,
        Meta(
            description="One of so many readings is kept; window times stride is how far it looks back. Of a new "
            "series more are kept, evenly, so that there are enough when it is judged.",
            ge=1,
            le=10_000,
        ),
    ] = 8
    scale_min: Annotated[float, Meta(description="Smallest interquartile range, in the metric's unit.", ge=0)] = 0.0


DetectorSettings: TypeAlias = ZScoreSettings | IqrSettings
