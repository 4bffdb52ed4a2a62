"""An example: the temperature of the chip, once a second, over a UART. Copy it to the board as /main.py.

Shows the whole of it: sample at a steady pace, poll often, tell whether anything was lost.
"""

import time

import machine
from tidegate.ports import device_id
from tidegate.uplink import Uplink


def make_reader():
    """Return a function that reads the chip's temperature in Celsius, on RP2040 and ESP32."""
    try:
        from esp32 import mcu_temperature

        return mcu_temperature
    except ImportError:
        sensor = machine.ADC(4)
        return lambda: 27 - (sensor.read_u16() * 3.3 / 65535 - 0.706) / 0.001721


def set_clock(unix_ms, quality):
    """Set the board's clock from the gateway's, if that one is right."""
    if quality == 0:
        year, month, day, hour, minute, second, weekday, _ = time.gmtime(unix_ms // 1000 - EPOCH_S)
        machine.RTC().datetime((year, month, day, weekday, hour, minute, second, 0))


# Some boards count from 2000, others from 1970.
EPOCH_S = 946684800 if time.gmtime(0)[0] == 2000 else 0
EVERY_MS = 1000

# UART 0 on GP0 and GP1 of a Pico; for an ESP32 use UART(1, 115200, tx=17, rx=16). Over USB: port = UsbPort().
port = machine.UART(0, 115200, tx=machine.Pin(0), rx=machine.Pin(1), timeout=0, rxbuf=256)
uplink = Uplink(
    port,
    fields=(("temperature", "f"),),
    topic="chip",
    device_id=device_id(),
    records=1024,  # 17 minutes at one sample a second
    on_time=set_clock,
)
read = make_reader()
values = [0.0]
due = time.ticks_ms()
while True:
    if time.ticks_diff(time.ticks_ms(), due) >= 0:
        due = time.ticks_add(due, EVERY_MS)
        values[0] = read()
        uplink.sample(values)
    uplink.poll()
    time.sleep_ms(10)
