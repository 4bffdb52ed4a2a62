"""The server's side of TLS for sources that others connect to: settings, and OpenSSL's context. Must not listen."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import msgspec
from msgspec import Meta

if TYPE_CHECKING:
    import ssl

# What asyncio keeps ready for each TLS connection to read into, from its first byte on: a TLS record, and not sixteen.
TLS_READ_BYTES: Final = 16 * 1024


class ServerTls(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """The server's own certificate, and whose clients' certificates it believes."""

    cert_file: Annotated[str, Meta(description="The server's certificate and its chain, PEM.")]
    key_file: Annotated[str, Meta(description="Its private key, PEM.")]
    client_ca_file: Annotated[
        str,
        Meta(description="The authority whose client certificates are believed, PEM; without it none are."),
    ] = ""


def server_context(tls: ServerTls, *, only_certificates: bool) -> ssl.SSLContext:
    """Build the context; raise ValueError that names the file.

    With `only_certificates` nobody gets in without one; else one is welcome and not asked for.
    """
    import ssl  # noqa: PLC0415  only where it is used: net/tls.py
    from asyncio.sslproto import SSLProtocol  # noqa: PLC0415  another one where ssl came later: net/tls.py

    # No public name, and all of asyncio's TLS reads by it. Without it three hundred strangers who begin a handshake
    # take 60 MB: the buffer is filled with zeros when it is made.
    if hasattr(SSLProtocol, "max_size"):
        SSLProtocol.max_size = TLS_READ_BYTES
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    files = [tls.cert_file, tls.key_file, *filter(None, [tls.client_ca_file])]
    for name in files:
        if not Path(name).is_file():
            raise ValueError(f"tls: there is no file {name}")
    try:
        context.load_cert_chain(tls.cert_file, tls.key_file, password="")  # or OpenSSL asks for one on the terminal
        if tls.client_ca_file:
            context.load_verify_locations(tls.client_ca_file)
    except OSError as error:
        raise ValueError(f"tls: cannot use {', '.join(files)}: {getattr(error, 'reason', None) or error}") from error
    if tls.client_ca_file:
        context.verify_mode = ssl.CERT_REQUIRED if only_certificates else ssl.CERT_OPTIONAL
    return context
