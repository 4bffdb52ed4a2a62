"""OpenSSL is left out where nothing asks for it, and asked about without being loaded."""

from __future__ import annotations

import ssl
import subprocess
import sys

import pytest

from gateway.net import tls


@pytest.mark.parametrize(
    "text",
    [
        'endpoint = "https://otel.example"',
        'url = "mqtts://broker"',
        'url = "WSS://broker"',
        "[sources.tls]",
        'cert_file = "a.pem"',
        'ca_file = "ca.pem"',
    ],
)
def test_every_way_to_ask_for_tls_is_seen(text: str) -> None:
    """An address, a table, a certificate."""
    assert tls.mentions_tls(text)


def test_errors_are_told_apart() -> None:
    """OpenSSL's own from others, and its way to say "later" too."""
    assert tls.is_tls_error(ssl.SSLError())
    assert not tls.is_tls_error(ConnectionResetError())
    assert tls.is_waiting(ssl.SSLWantReadError())
    assert tls.is_waiting(BlockingIOError())
    assert not tls.is_waiting(ssl.SSLError())


def test_what_is_loaded_already_is_not_left_out() -> None:
    """Too late is said, and changes nothing."""
    assert not tls.leave_out()
    assert not tls.is_left_out()


def test_a_process_without_it_runs() -> None:
    """asyncio, hashes and HMACs work, and no error is taken for one of OpenSSL's."""
    code = """
from gateway.net import tls
assert tls.leave_out() and tls.is_left_out() and tls.leave_out()
import asyncio, hashlib, hmac, random, secrets
assert not tls.is_tls_error(OSError()) and not tls.is_waiting(OSError())
assert hashlib.blake2b(b"x", digest_size=4).hexdigest() and hmac.digest(b"k", b"m", "sha256")
asyncio.run(asyncio.sleep(0))
assert "libcrypto" not in open("/proc/self/maps").read()
print("fine")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("fine\n", "")


def test_it_comes_back_whole(authority) -> None:
    """Left out while asyncio was loaded, it serves a TLS connection all the same once it is wanted."""
    identity = authority.issue()
    code = """
import sys
from gateway.net import tls
assert tls.leave_out()
import asyncio
tls.bring_back()
assert not tls.is_left_out()
tls.bring_back()
import ssl

async def main(chain, key, authority):
    served = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    served.load_cert_chain(chain, key)

    async def answer(reader, writer):
        writer.write(await reader.readline())
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=served)
    port = server.sockets[0].getsockname()[1]
    trusting = ssl.create_default_context(cafile=authority)
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trusting, server_hostname="localhost")
    writer.write(b"tide\\n")
    print((await reader.readline()).decode().strip())
    writer.close()
    try:
        await asyncio.open_connection("127.0.0.1", port, ssl=True, server_hostname="localhost")
    except ssl.SSLCertVerificationError as error:
        print(tls.is_tls_error(error))
    server.close()

asyncio.run(main(*sys.argv[1:]))
"""
    files = [str(identity.certificate), str(identity.key), str(authority.certificate)]
    done = subprocess.run([sys.executable, "-c", code, *files], capture_output=True, text=True, check=False)
    assert done.stdout == "tide\nTrue\n", done.stderr


def test_who_was_loaded_without_it_has_all_of_it_afterwards() -> None:
    """paho loads urllib, and who comes later wants its classes for TLS."""
    code = """
from gateway.net import tls
assert tls.leave_out()
import paho.mqtt.client, urllib.request
assert not hasattr(urllib.request, "HTTPSHandler") and paho.mqtt.client.ssl is None
tls.bring_back()
assert urllib.request.HTTPSHandler and paho.mqtt.client.ssl
print("fine")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "fine\n", done.stderr
