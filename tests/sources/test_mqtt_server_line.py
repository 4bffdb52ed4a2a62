"""Checks for the line to one client: when it is read, and how much of it."""

from __future__ import annotations

from gateway.net.mqtt_packets import PINGREQ_BYTES, PINGRESP_BYTES
from gateway.sources.mqtt_server_line import READ_BYTES, READ_BYTES_FIRST, READ_BYTES_MIN, Pause


async def test_nothing_is_read_until_every_reason_is_gone(mqtt_server) -> None:
    """In whatever order; taking a reason away that is not there does nothing."""
    rig = await mqtt_server.start()
    client = await rig.connect()
    (connection,) = rig.source._hub.connections
    transport = connection._transport
    connection.pause(Pause.OWN)
    connection.pause(Pause.TALK)
    connection.resume(Pause.OWN)
    connection.resume(Pause.REST)
    assert not transport.is_reading()
    await client.send(PINGREQ_BYTES)
    connection.resume(Pause.TALK)
    assert transport.is_reading()
    assert await client.packet() == PINGRESP_BYTES


async def test_what_is_lent_is_little_when_enough_was_heard(mqtt_server) -> None:
    """However much it would be otherwise; and where it takes long to take in what is read."""
    rig = await mqtt_server.start()
    await rig.connect()
    (connection,) = rig.source._hub.connections
    for is_enough, look_bytes, lent in (
        (False, READ_BYTES, READ_BYTES),
        (True, READ_BYTES, READ_BYTES_MIN),
        (True, 5, 5),
        (False, READ_BYTES_FIRST, READ_BYTES_FIRST),
    ):
        rig.source._hub.talkers.is_enough = is_enough
        connection._look_bytes = look_bytes
        assert len(connection.get_buffer(-1)) == lent
    rig.source._hub.talkers.is_enough = False
    rig.source._hub.intake.portion.size_bytes = 2000
    assert len(connection.get_buffer(-1)) == 2000


async def test_nothing_is_written_to_whom_is_gone(mqtt_server) -> None:
    """Answers may come later than the end."""
    rig = await mqtt_server.start()
    await rig.connect()
    (connection,) = rig.source._hub.connections
    connection.abort()
    connection.write(PINGRESP_BYTES)
    assert connection._transport.get_write_buffer_size() == 0
    await rig.until(lambda: not rig.source._hub.connections)
