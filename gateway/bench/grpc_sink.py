"""The counting receiver over gRPC: h2 keeps the conversation, calls are counted and answered OK. Keeps nothing.

Must not be imported where the extra `grpc` is not installed. The gateway's uplink speaks HTTP/2 without h2.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import h2.config
import h2.connection
import h2.events
import h2.settings

from gateway.codecs.grpc import CONTENT_TYPE, METHODS, PREFIX_BYTES, prefix
from gateway.core.contracts import Signal

if TYPE_CHECKING:
    from collections.abc import Callable

# So much may come of all calls together before more is allowed: no request waits for a window here.
WINDOW_BYTES: Final = 16 << 20
PATHS: Final = {path.encode(): signal is Signal.METRICS for signal, path in METHODS.items()}
_ANSWER: Final = prefix(0, is_compressed=False)


class GrpcReceiver(asyncio.Protocol):
    """One connection. `take(is_metrics, encoding, message)` counts what a call brought."""

    def __init__(self, take: Callable[[bool, str, bytes], None]) -> None:
        self._take = take
        self._h2 = h2.connection.H2Connection(
            h2.config.H2Configuration(client_side=False, header_encoding=None, validate_inbound_headers=False)
        )
        self._calls: dict[int, tuple[bool, str, list[bytes]]] = {}
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin, with windows that nobody has to wait for."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._h2.initiate_connection()
        self._h2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: WINDOW_BYTES})
        self._h2.increment_flow_control_window(WINDOW_BYTES)
        transport.write(self._h2.data_to_send())

    def data_received(self, data: bytes) -> None:
        """Take what came, and answer what is whole."""
        assert self._transport is not None
        for event in self._h2.receive_data(data):
            if isinstance(event, h2.events.RequestReceived):
                headers = dict(event.headers)
                encoding = headers.get(b"grpc-encoding", b"").decode("ascii")
                self._calls[event.stream_id] = PATHS[headers[b":path"]], encoding, []
            elif isinstance(event, h2.events.DataReceived):
                self._calls[event.stream_id][2].append(event.data)
                self._h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            elif isinstance(event, h2.events.StreamEnded):
                self._answer(event.stream_id)
        self._transport.write(self._h2.data_to_send())

    def _answer(self, stream: int) -> None:
        is_metrics, encoding, pieces = self._calls.pop(stream)
        framed = b"".join(pieces)
        is_compressed, size_bytes = framed[0], int.from_bytes(framed[1:PREFIX_BYTES], "big")
        message = framed[PREFIX_BYTES:]
        assert len(message) == size_bytes, f"one message of {size_bytes} bytes, and {len(message)} came"
        self._take(is_metrics, encoding if is_compressed else "", message)
        self._h2.send_headers(stream, [(":status", "200"), ("content-type", CONTENT_TYPE)])
        self._h2.send_data(stream, _ANSWER)
        self._h2.send_headers(stream, [("grpc-status", "0")], end_stream=True)
