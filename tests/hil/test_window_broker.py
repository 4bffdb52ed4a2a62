"""The rig keeps to its window, or what is measured with it means nothing."""

from __future__ import annotations

import asyncio

import pytest

from gateway.net.mqtt import PublishScanner
from gateway.net.mqtt_packets import connect_bytes, packet_bytes
from hil.window_broker import WindowBroker


@pytest.mark.parametrize("version", [4, 5])
async def test_no_more_is_under_way_than_the_window_allows(version: int) -> None:
    """Each PUBACK lets one more through, in order, until all have come."""
    backlog = [b"%d" % number for number in range(50)]
    async with WindowBroker(backlog, window=7) as broker:
        reader, writer = await asyncio.open_connection("127.0.0.1", broker.port)
        properties = b"\0" if version == 5 else b""
        writer.write(connect_bytes(b"c", version=version))
        writer.write(packet_bytes(0x82, b"\0\x01" + properties + b"\0\x01#\x01"))
        scanner = PublishScanner(packet_bytes_max=1 << 20, version=version)
        payloads: list[bytes] = []
        while len(payloads) < 50:
            async with asyncio.timeout(60):
                items = scanner.feed(await reader.read(1 << 16))
            for item in items:
                if hasattr(item, "payloads"):
                    payloads += item.payloads
                    for packet_id in item.packet_ids:
                        writer.write(b"\x40\x02" + packet_id)
        assert payloads == backlog
        assert broker.most_under_way == 7
        writer.close()
        await writer.wait_closed()
