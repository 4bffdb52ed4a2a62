"""Who may send to the OTLP receiver: a token, a name with its password, or a certificate. Must not read a body.

Secrets are compared as keyed digests, in a time that says nothing of them; they are read once, when this is built.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import secrets
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from gateway.net.http_requests import Request
    from gateway.sources.otlp_settings import OtlpSettings

# Longer ones are nobody's, and cost time to decode.
HEADER_CHARS_MAX: Final = 4096
CHALLENGES: Final = {"basic": 'Basic realm="tidegate", charset="UTF-8"', "bearer": "Bearer"}


class Doorkeeper:
    """Looks at what a request shows."""

    def __init__(self, settings: OtlpSettings) -> None:
        self.lets_anyone_in = settings.lets_anyone_in
        self._trusts_certificates = settings.tls is not None and bool(settings.tls.client_ca_file)
        self._key = secrets.token_bytes(32)
        self._token = None if settings.token is None else self._digest(settings.token.read().encode())
        self._users = {user.name: self._digest(user.password.read().encode()) for user in settings.users}
        self._nobody = self._digest(secrets.token_bytes(32))
        schemes = [("bearer", settings.token), ("basic", settings.users)]
        self.challenge = ", ".join(CHALLENGES[scheme] for scheme, given in schemes if given)

    def knows(self, request: Request) -> bool:
        """Whether whoever sends this may."""
        if self.lets_anyone_in or (self._trusts_certificates and request.has_certificate):
            return True
        scheme, shown = _shown(request)
        if scheme == "bearer" and self._token is not None:
            return hmac.compare_digest(self._token, self._digest(shown.encode()))
        found = _name_and_password(shown) if scheme == "basic" else None
        if found is None:
            return False
        # A name that nobody has takes as long as a wrong password.
        return hmac.compare_digest(self._users.get(found[0], self._nobody), self._digest(found[1]))

    def _digest(self, secret: bytes) -> bytes:
        return hmac.digest(self._key, secret, "sha256")


def claimed_name(request: Request) -> str:
    """Return who a request says it is from, "" where it shows no name: guesses are counted by it."""
    scheme, shown = _shown(request)
    found = _name_and_password(shown) if scheme == "basic" else None
    return "" if found is None else found[0]


def _shown(request: Request) -> tuple[str, str]:
    scheme, _, shown = request.headers.get("authorization", "").partition(" ")
    return scheme.lower(), shown.strip() if len(shown) <= HEADER_CHARS_MAX else ""


def _name_and_password(shown: str) -> tuple[str, bytes] | None:
    try:
        name, colon, password = base64.b64decode(shown, validate=True).partition(b":")
        return (name.decode(), password) if colon else None
    except (binascii.Error, ValueError):
        return None
