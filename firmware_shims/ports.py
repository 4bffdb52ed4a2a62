"""What a board talks through: a UART is used as it is, USB through `UsbPort`; and the board's own name."""

import sys


class UsbPort:
    """The USB of a board whose console it is (RP2040, ESP32-S3 and others): sys.stdin and sys.stdout as a port.

    Nothing else may be printed then, and Ctrl-C no longer stops the program: it is a byte like any other.
    """

    def __init__(self):
        from select import POLLIN, poll

        try:
            from micropython import kbd_intr

            kbd_intr(-1)
        except ImportError:  # a port without a console
            pass
        self._input = sys.stdin.buffer
        self._output = sys.stdout.buffer
        self._poll = poll()
        self._poll.register(sys.stdin, POLLIN)

    def any(self):
        """Return whether a byte waits, as 0 or 1."""
        return len(self._poll.poll(0))

    def readinto(self, buffer):
        """Read what waits into `buffer`; return how many bytes."""
        count = 0
        while count < len(buffer) and self._poll.poll(0):
            byte = self._input.read(1)
            if not byte:
                break
            buffer[count] = byte[0]
            count += 1
        return count

    def write(self, data):
        """Write `data`; return how many bytes went out."""
        return self._output.write(data)


def device_id():
    """Return the chip's own number in hexadecimal, or what the platform is called."""
    try:
        from binascii import hexlify

        from machine import unique_id

        return hexlify(unique_id()).decode()
    except ImportError:
        return sys.platform
