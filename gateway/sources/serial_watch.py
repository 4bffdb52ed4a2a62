"""What a line's bytes say about its wiring: that it is silent, or brings nothing but noise. Does no I/O.

A field engineer sees a port that is open and a count that does not move; what is wrong is nearly always one of a few
things, and the bytes tell them apart.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from gateway.sources.serial_settings import SerialSettings

SILENT_S: Final = 60.0
# So many damaged ones against one that is whole are no accident any more.
NOISE_MIN: Final = 50
NOISE_SHARE: Final = 10
# What is long ago counts less: past so many, both counts are halved.
COUNTED_MAX: Final = 2000
# So many frames' worth of bytes without an end of one.
ENDLESS_FRAMES: Final = 4


class LineWatch:
    """One open port: what has come of it. Seconds are of one steady clock."""

    def __init__(self, settings: SerialSettings, *, now_s: float) -> None:
        self._settings = settings
        self._opened_s = now_s
        self._bytes = 0
        self._whole = 0
        self._damaged = 0

    def heard(self, count: int) -> None:
        """Note bytes."""
        self._bytes += count

    def cut(self, *, whole: int = 0, damaged: int = 0) -> None:
        """Note what they turned out to be: frames or lines that could be used, and ones that could not."""
        self._whole += whole
        self._damaged += damaged
        if self._whole + self._damaged > COUNTED_MAX:
            self._whole //= 2
            self._damaged //= 2

    def advice(self, now_s: float) -> str:
        """Return what is probably wrong and what to look at, or ""."""
        settings = self._settings
        what = "frames" if settings.framing == "cobs" else "lines"
        if self._damaged >= NOISE_MIN and self._damaged > NOISE_SHARE * self._whole:
            return (
                f"nearly all {what} are damaged: is the device set to {settings.baud} baud, parity {settings.parity}, "
                f"{settings.stopbits} stop bit{'s' if settings.stopbits > 1 else ''}, and does it speak "
                f'framing = "{settings.framing}"? Else look at the ground wire and the cable'
            )
        if not self._whole and self._damaged <= 1 and self._bytes > ENDLESS_FRAMES * settings.frame_bytes_max:
            other = "lines" if settings.framing == "cobs" else "cobs"
            return f'bytes come and none of the {what} ends: is framing = "{other}" meant, or another baud rate?'
        if not self._bytes and now_s - self._opened_s >= SILENT_S:
            return "nothing has come since it was opened: is the device on, are TX and RX crossed, is it this port?"
        return ""
