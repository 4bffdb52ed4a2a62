"""A port's name is judged before anybody looks for it."""

from __future__ import annotations

import pytest

from gateway.sources.serial_names import check_name


@pytest.mark.parametrize("name", ["usb:2e8a", "usb:xyz:1", "usb::", "ttyUSB0", "COM3", ""])
def test_a_name_that_can_never_be_found_is_refused(name: str) -> None:
    """With what would be right."""
    with pytest.raises(ValueError, match="usb:VID:PID"):
        check_name(name)


@pytest.mark.parametrize("name", ["/dev/ttyUSB0", "/dev/ttyACM*", "usb:2e8a:0005", "usb:2e8a:0005:E6:61"])
def test_a_name_that_can_be_found_is_fine(name: str) -> None:
    """A serial number may hold colons."""
    check_name(name)
