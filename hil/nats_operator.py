"""An operator of NATS servers with an account and its users: keys, tokens and credentials files, made here. No network.

    operator ─ signs → account ─ signs → user: what stands in a credentials file, with the user's own seed

Written from the description of NATS' tokens (JWT of ed25519-nkey), without the gateway's own code for keys.
"""

from __future__ import annotations

import base64
import binascii
import json
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

if TYPE_CHECKING:
    from pathlib import Path

# The first letter of a key says whose it is.
_KINDS: Final = {"operator": 14 << 3, "account": 0, "user": 20 << 3}
_SEED: Final = 18 << 3
_ALL: Final = -1
_ACCOUNT_LIMITS: Final = {
    **dict.fromkeys(("subs", "data", "payload", "imports", "exports", "conn", "leaf"), _ALL),
    "wildcards": True,
}
_ROOM: Final = dict.fromkeys(("mem_storage", "disk_storage", "streams", "consumer"), _ALL)


def _text(data: bytes) -> str:
    return base64.b32encode(data + binascii.crc_hqx(data, 0).to_bytes(2, "little")).decode().rstrip("=")


def _url_text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


@dataclass
class Key:
    """Somebody's key."""

    kind: str
    _key: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)

    @property
    def public(self) -> str:
        """The half that is known."""
        return _text(bytes([_KINDS[self.kind]]) + self._key.public_key().public_bytes_raw())

    @property
    def seed(self) -> str:
        """The half that is not."""
        kind = _KINDS[self.kind]
        return _text(bytes([_SEED | kind >> 5, (kind & 31) << 3]) + self._key.private_bytes_raw())

    def sign(self, text: str) -> str:
        """Return a signature as it stands in tokens and in CONNECT."""
        return _url_text(self._key.sign(text.encode()))

    def token(self, subject: Key, name: str, claims: dict[str, Any], *, until_s: float | None = None) -> str:
        """Return what this one says of `subject`."""
        said: dict[str, Any] = {
            "jti": f"{name}-{time.time_ns()}",
            "iat": int(time.time()),
            "iss": self.public,
            "sub": subject.public,
            "name": name,
            "nats": {"type": subject.kind, "version": 2, **claims},
        }
        if until_s is not None:
            said["exp"] = int(until_s)
        parts = ({"typ": "JWT", "alg": "ed25519-nkey"}, said)
        text = ".".join(_url_text(json.dumps(part, separators=(",", ":")).encode()) for part in parts)
        return f"{text}.{self.sign(text)}"


class Operator:
    """One with an account that has JetStream, and one for the system, which servers want."""

    def __init__(self) -> None:
        self._key, self.account = Key("operator"), Key("account")
        self._system = Key("account")

    def lines(self) -> tuple[str, ...]:
        """Return what stands in the configuration of a server that trusts it."""
        claims = {"system_account": self._system.public}
        with_room = {"limits": {**_ACCOUNT_LIMITS, **_ROOM}}
        accounts = {
            self.account.public: self._key.token(self.account, "A", with_room),
            self._system.public: self._key.token(self._system, "SYS", {"limits": _ACCOUNT_LIMITS}),
        }
        preload = "\n".join(f"{public}: {token}" for public, token in accounts.items())
        return (
            f"operator: {self._key.token(self._key, 'O', claims)}",
            f"system_account: {self._system.public}",
            "resolver: MEMORY",
            f"resolver_preload: {{\n{preload}\n}}",
        )

    def user(self, *, signer: Key | None = None, until_s: float | None = None, **claims: Any) -> User:
        """Return a user of the account; `claims` are its rights and limits."""
        limits = dict.fromkeys(("subs", "data", "payload"), _ALL)
        key = Key("user")
        token = (signer or self.account).token(key, "box", {**limits, **claims}, until_s=until_s)
        return User(key, token)


@dataclass
class User:
    """Who may connect."""

    key: Key
    token: str

    def prove(self, nonce: str) -> dict[str, str]:
        """Return what CONNECT says."""
        return {"jwt": self.token, "sig": self.key.sign(nonce)}

    def write(self, path: Path) -> Path:
        """Write a credentials file as nats.io's tools do."""
        path.write_text(
            f"-----BEGIN NATS USER JWT-----\n{self.token}\n------END NATS USER JWT------\n\n"
            "************************* IMPORTANT *************************\n"
            "NKEY Seed printed below can be used to sign and prove identity.\n\n"
            f"-----BEGIN USER NKEY SEED-----\n{self.key.seed}\n------END USER NKEY SEED------\n"
        )
        return path
