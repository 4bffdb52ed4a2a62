"""What can be said of an uplink that writes files, on a stick or a share, in the config. Must not look at the disk."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Annotated, ClassVar, Final, Literal

import msgspec
from msgspec import Meta

from gateway.core.checks import Checked, check
from gateway.core.units import Duration, Size
from gateway.uplinks.budget_settings import BudgetSettings
from gateway.uplinks.file_records import FILE_JSON, FILE_PROTOBUF
from gateway.uplinks.settings import (
    BATCH_READINGS_MAX,
    MAPPINGS_MAX,
    REQUEST_BYTES_MAX,
    TIMEOUT_S_MAX,
    Classes,
    Evidence,
    RetrySettings,
    SignalNames,
)

Format = Literal["json", "protobuf"]

# The largest file of FAT, which sticks come with, has a byte less than 4 GiB.
ROTATE_BYTES_MAX: Final = Size(2 << 30)
ROTATE_BYTES_MIN: Final = Size(64 * 1024)
ROTATE_AFTER_MIN: Final = Duration(1)
# What every file system takes in a name, FAT too.
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]{0,63}")
# A write cannot be broken off; this only bounds how large a record gets where the medium is slow.
_TIMEOUT: Final = Duration(10)


class FileUplinkSettings(
    Checked, msgspec.Struct, tag_field="type", tag="file", kw_only=True, forbid_unknown_fields=True, frozen=True
):
    """Files of OTLP, for a stick that is carried by hand or a network share."""

    NOT_HERE: ClassVar[dict[str, str]] = {
        "budget": "a stick has no rate and no allowance; max_bytes bounds what lies on it",
        "endpoint": "files have no endpoint; name their directory",
        "protocol": 'files have no protocol; write format = "json" or "protobuf"',
    }

    name: Annotated[
        str,
        Meta(
            description="What status, metrics and the ledger call it; a part of the files' names, so letters, digits, "
            ". and - alone."
        ),
    ]
    directory: Annotated[str, Meta(description="Where the files go, an absolute path.")]
    mount_point: Annotated[
        str,
        Meta(
            description="Where the stick is mounted: `directory` itself or above it. While nothing is mounted there "
            "nothing is written, and directories that are missing below it are made. Without it whatever disk has "
            "`directory` is written to, and `directory` must be there."
        ),
    ] = ""
    format: Annotated[
        Format,
        Meta(
            description='How a record is written: "json", a line of OTLP JSON as `tidegate export` writes it; or '
            '"protobuf", its length as a varint and an Export…ServiceRequest, a third of the work and half the bytes.'
        ),
    ] = "json"
    compression: Annotated[
        Literal["zstd", "gzip", "none"],
        Meta(description="Each record is compressed by itself, so that a file that was cut can be read up to there."),
    ] = "zstd"
    rotate_bytes: Annotated[Size, Meta(description="A file that would grow over this is followed by the next.")] = Size(
        64 << 20
    )
    rotate_after: Annotated[
        Duration, Meta(description="So is one that was begun so long ago, when there is something to be written.")
    ] = Duration(86400)
    max_bytes: Annotated[
        Size | None,
        Meta(description="What all files of this uplink may take there; without it as much as the disk has room for."),
    ] = None
    when_full: Annotated[
        Literal["hold", "drop_oldest"],
        Meta(
            description="What to do when that is reached, or the disk is full: keep what is to come in the store until "
            "files were taken away, or delete the oldest file, although it was delivered there."
        ),
    ] = "hold"
    batch_interval: Annotated[
        Duration,
        Meta(description="How long fresh data may wait to be written together: a stick wears with each write."),
    ] = Duration(10)
    batch_readings_max: Annotated[int, Meta(description="Readings in one record at most.", ge=1)] = BATCH_READINGS_MAX
    request_bytes_max: Annotated[
        Size, Meta(description="Size of one record at most, before compression; larger ones are split.")
    ] = Size(REQUEST_BYTES_MAX)
    evidence: Evidence = Duration(60)
    classes: Classes = None
    signals: SignalNames = None
    mappings: Annotated[
        Annotated[tuple[str, ...], Meta(min_length=1, max_length=MAPPINGS_MAX)] | None,
        Meta(
            description="The mappings whose readings it takes, by their `name`, with what was found in these; without "
            "it all, and what no mapping makes."
        ),
    ] = None
    backlog_share: Annotated[
        Annotated[float, Meta(ge=0, le=1)] | None,
        Meta(
            description="Its own `[store] backlog_share`: how much of what is written is backlog while live data waits."
        ),
    ] = None
    retry: Annotated[
        RetrySettings,
        Meta(description="Waits between attempts; `unreachable_max` is for a stick that is not there."),
    ] = RetrySettings()
    stop_grace: Annotated[
        Duration, Meta(description="How long to go on writing fresh data when the gateway stops.")
    ] = Duration(2)

    @check("name")
    def _name_can_be_a_files(self) -> None:
        if _NAME.fullmatch(self.name) is None:
            raise ValueError(f'"{self.name}" is to be a part of file names: use letters, digits, . and -, 64 at most')

    @check("directory")
    def _directory_is_a_path(self) -> None:
        _check_path(self.directory)

    @check("mount_point", "directory")
    def _mount_point_is_above(self) -> None:
        if not self.mount_point:
            return
        _check_path(self.mount_point)
        if not PurePosixPath(self.directory).is_relative_to(self.mount_point):
            raise ValueError(f"{self.directory} is not below {self.mount_point}; a stick is mounted above its files")

    @check("rotate_bytes", "max_bytes")
    def _files_have_a_size(self) -> None:
        if not ROTATE_BYTES_MIN <= self.rotate_bytes <= ROTATE_BYTES_MAX:
            raise ValueError(f'rotate_bytes is {self.rotate_bytes}; it is "{ROTATE_BYTES_MIN}" to "{ROTATE_BYTES_MAX}"')
        if self.max_bytes is not None and self.max_bytes < 2 * self.rotate_bytes:
            raise ValueError(f"max_bytes is {self.max_bytes}; it has room for two files of rotate_bytes at least")

    @check("rotate_after")
    def _rotate_after_is_some_time(self) -> None:
        if self.rotate_after < ROTATE_AFTER_MIN:
            raise ValueError(f"is {self.rotate_after}; it is at least {ROTATE_AFTER_MIN}")

    @check("batch_interval", "stop_grace")
    def _times_are_times(self) -> None:
        if not (0 <= self.batch_interval <= TIMEOUT_S_MAX and self.stop_grace >= 0):
            raise ValueError("is not negative, and no longer than a day")

    @check("request_bytes_max")
    def _records_have_room(self) -> None:
        if self.request_bytes_max < 1024:
            raise ValueError('is at least "1KiB"')

    @property
    def protocol(self) -> str:
        """How requests are written, as `encoder_of` knows it."""
        return FILE_JSON if self.format == "json" else FILE_PROTOBUF

    @property
    def budget(self) -> BudgetSettings:
        """There is none: nothing here is paid by the byte."""
        return BudgetSettings()

    @property
    def timeout(self) -> Duration:
        """How long a record may take; half of it is what their size is chosen for, at most."""
        return _TIMEOUT

    def warnings(self) -> list[str]:
        """Return what works and should be thought about, for `tidegate check`."""
        said = []
        if self.when_full == "drop_oldest":
            said.append("when_full: files that nobody has taken yet are deleted when there is no room for the next")
        return said


def _check_path(path: str) -> None:
    if (
        "\0" in path
        or not path.startswith("/")
        or ".." in PurePosixPath(path).parts
        or PurePosixPath(path) == PurePosixPath("/")
    ):
        raise ValueError(f"{path!r} is not an absolute path of a directory, like /media/stick")
