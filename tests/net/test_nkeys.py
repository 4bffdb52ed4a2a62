"""A nonce is signed by what a seed says, and what is no seed is said without showing it."""

from __future__ import annotations

import base64
import binascii

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from gateway.net.nkeys import prove, read_credentials


def seed_of(secret: bytes, *, kind: int = 20 << 3) -> str:
    """Write a seed as nats.io's tools do."""
    data = bytes([18 << 3 | kind >> 5, (kind & 31) << 3]) + secret
    return base64.b32encode(data + binascii.crc_hqx(data, 0).to_bytes(2, "little")).decode().rstrip("=")


SEED = seed_of(bytes(range(32)))
FILE = f"-----BEGIN NATS USER JWT-----\neyJ0.e30.sig\n------END NATS USER JWT------\n\n*** keep it ***\n-----BEGIN USER NKEY SEED-----\n{SEED}\n------END USER NKEY SEED------\n"


def test_a_nonce_is_signed() -> None:
    """By the key whose public half is said."""
    assert SEED.startswith("SU")
    assert len(SEED) == 58
    proof = prove(f"{SEED}\n", "nonce")
    assert proof.public.startswith("U")
    public = base64.b32decode(proof.public + "=" * (-len(proof.public) % 8))[1:-2]
    signature = base64.urlsafe_b64decode(proof.signature + "=" * (-len(proof.signature) % 4))
    Ed25519PublicKey.from_public_bytes(public).verify(signature, b"nonce")


@pytest.mark.parametrize("seed", ["", "SU", SEED[:-1] + "A", seed_of(bytes(32), kind=0), "é", "1" * 58, SEED * 2])
def test_what_is_no_users_seed_is_not_shown(seed: str) -> None:
    """Nor is what is one of something else."""
    with pytest.raises(ValueError, match="is no seed of a user") as error:
        prove(seed, "nonce")
    assert len(seed) < 3 or seed not in str(error.value)


def test_a_credentials_file_has_both() -> None:
    """Whatever stands around it."""
    assert read_credentials(FILE) == ("eyJ0.e30.sig", SEED)
    for text in ("", FILE[:60], FILE.replace("NKEY", "KEY"), FILE * 1000):
        with pytest.raises(ValueError, match="is no credentials file"):
            read_credentials(text)
