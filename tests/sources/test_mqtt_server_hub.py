"""Checks for what connections share."""

from __future__ import annotations

from gateway.net.mqtt_packets import Will
from gateway.sources.mqtt_server_session import Session


async def test_a_will_is_said_once(mqtt_server) -> None:
    """Whoever wakes it first."""
    rig = await mqtt_server.start()
    hub = rig.source._hub
    session = Session(("u", b"d"), will=Will(b"state", b"offline", 0))
    hub.wake_will(session)
    hub.wake_will(session)
    await rig.until(lambda: rig.door.messages == [(b"state", b"offline")])
    assert rig.source.status()["received"] == 1


async def test_the_last_connection_to_go_is_noticed(mqtt_server) -> None:
    """Stopping waits for that and nothing else."""
    rig = await mqtt_server.start()
    hub = rig.source._hub
    client = await rig.connect()
    hub.all_gone.clear()
    client.writer.transport.abort()
    await hub.all_gone.wait()
    assert not hub.connections


async def test_a_will_that_fails_disturbs_nobody(mqtt_server, caplog) -> None:
    """It has no connection to end."""
    rig = await mqtt_server.start()
    rig.door.failure = RuntimeError("a mistake")
    rig.source._hub.publish_will(Will(b"state", b"offline", 0))
    await rig.until(lambda: "a mistake" in caplog.text)
    assert rig.source.status()["in_flight_bytes"] == 0
