"""NKeys: who a NATS client is, by a key of Ed25519 that never leaves the box. Does no I/O.

A seed is 32 bytes with a prefix that says whose it is, and a CRC, in base32 (the "nkeys" of nats.io); a credentials
file has one with a token (JWT) that somebody signed for it. A server says a nonce, and we sign it. The package
`cryptography` is imported where a seed is configured and nowhere else (`pip install tidegate[nats]`).
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import Final, NamedTuple

SEED: Final = 18 << 3  # S
USER: Final = 20 << 3  # U
SEED_BYTES: Final = 32
_ALL_BYTES: Final = 2 + SEED_BYTES + 2
TEXT_CHARS_MAX: Final = 64 * 1024
_PART: Final = re.compile(r"-----BEGIN ([A-Z ]+)-----\s*([A-Za-z0-9_.=-]+)\s*-+END \1-+")


class Credentials(NamedTuple):
    """What a credentials file holds."""

    jwt: str
    seed: str


class Proof(NamedTuple):
    """A public key, and what proves that its seed is here."""

    public: str
    signature: str


def read_credentials(text: str) -> Credentials:
    """Return what stands in a credentials file; raise ValueError that shows nothing of it."""
    found = dict(_PART.findall(text)) if len(text) <= TEXT_CHARS_MAX else {}
    jwt, seed = found.get("NATS USER JWT", ""), found.get("USER NKEY SEED", "")
    if not jwt or not seed:
        raise ValueError("is no credentials file: it has NATS USER JWT and USER NKEY SEED in it")
    return Credentials(jwt, seed)


def prove(seed: str, nonce: str) -> Proof:
    """Sign `nonce`; raise ValueError, which shows nothing of it, for what is no user's seed."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import (  # noqa: PLC0415  only where a seed is configured
        Ed25519PrivateKey,
    )

    key = Ed25519PrivateKey.from_private_bytes(_bytes_of(seed))
    public = bytes([USER]) + key.public_key().public_bytes_raw()
    written = base64.b32encode(public + _crc(public)).decode().rstrip("=")
    signature = base64.urlsafe_b64encode(key.sign(nonce.encode())).decode().rstrip("=")
    return Proof(written, signature)


def _bytes_of(seed: str) -> bytes:
    text = seed.strip()
    try:
        data = base64.b32decode(text + "=" * (-len(text) % 8))
    except (binascii.Error, ValueError):
        data = b""
    is_whole = len(data) == _ALL_BYTES and data[-2:] == _crc(data[:-2])
    if not is_whole or data[0] & 0xF8 != SEED or (data[0] & 7) << 5 | data[1] >> 3 != USER:
        raise ValueError("is no seed of a user: those begin with SU, and have 58 letters")
    return data[2:-2]


def _crc(data: bytes) -> bytes:
    """Return the CRC-16 of XMODEM, low byte first."""
    return binascii.crc_hqx(data, 0).to_bytes(2, "little")
