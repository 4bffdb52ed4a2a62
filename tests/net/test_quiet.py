"""A token that travels in a header stands in no log, whoever listens to all that there is."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import hpack

from gateway.net import http2, http2_server, quiet

if TYPE_CHECKING:
    import pytest

TOKEN = "Bearer s3cret-s3cret-s3cret"


def test_headers_are_in_no_log(caplog: pytest.LogCaptureFixture) -> None:
    """Neither those that are sent nor those that come, whichever side of HTTP/2 is loaded."""
    assert (http2.hpack, http2_server.H2Connection) != (None, None)
    with caplog.at_level(logging.DEBUG):
        encoder, decoder = hpack.Encoder(), hpack.Decoder()
        for number in range(200):
            block = encoder.encode([("authorization", f"{TOKEN}{number}")])
            assert decoder.decode(block)
    assert TOKEN not in caplog.text
    assert "authorization" not in caplog.text


def test_hpack_would_have_said_them(caplog: pytest.LogCaptureFixture) -> None:
    """Else there were nothing to keep."""
    for module in quiet.MODULES:
        module.log.setLevel(logging.NOTSET)
    try:
        with caplog.at_level(logging.DEBUG):
            hpack.Encoder().encode([("authorization", TOKEN)])
        assert TOKEN in caplog.text
    finally:
        quiet.keep_headers_out_of_logs()
