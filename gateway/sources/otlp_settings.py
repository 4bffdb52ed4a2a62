"""Settings of the OTLP receiver, and its side of TLS. Must not listen or let anybody in."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Annotated, Final, Literal

import msgspec
from msgspec import Meta

from gateway.core.checks import Checked, check, parts
from gateway.core.contracts import Priority
from gateway.core.units import Duration, Size
from gateway.net.addresses import is_loopback, split_address
from gateway.net.secrets import Secret
from gateway.sources.server_tls import ServerTls, server_context

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterator

REQUEST_BYTES_MIN: Final = 16 * 1024
# A message of the shelf holds as much at most, whatever its sender splits.
REQUEST_BYTES_MOST: Final = 64 << 20
# One request has at most such a part of what the store holds.
STORE_PART: Final = 4


class OtlpUser(Checked, msgspec.Struct, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """Who may send, with a name and a password (`Authorization: Basic …`)."""

    name: Annotated[str, Meta(description="The user name.", min_length=1, max_length=256)]
    password: Annotated[Secret, Meta(description="Where the password is: env, file or credential.")]

    @check("name")
    def _name_can_be_sent(self) -> None:
        if ":" in self.name or not self.name.isprintable():
            raise ValueError("a user name has no colon in it, and no character that cannot be seen")


class OtlpSettings(
    Checked, msgspec.Struct, kw_only=True, forbid_unknown_fields=True, frozen=True, tag_field="type", tag="otlp"
):
    """Programs send their metrics, logs and traces as OTLP over HTTP or gRPC; a 200, or OK, says they are on disk."""

    name: Annotated[str, Meta(description="What this source is called in status.", min_length=1)]
    http: Annotated[
        str,
        Meta(
            description="Address and port for OTLP over HTTP, protobuf and JSON. Beyond loopback a token, users or "
            "tls.client_ca_file must be given."
        ),
    ] = "127.0.0.1:4318"
    grpc: Annotated[
        str,
        Meta(
            description="Address and port for OTLP over gRPC as well, like 127.0.0.1:4317 (`pip install "
            "tidegate[grpc]`); without it there is none. What is said here of HTTP holds for it, too."
        ),
    ] = ""
    class_: Annotated[
        Literal["critical", "normal", "bulk"],
        Meta(description="How much what comes here matters: what is more important leaves first and goes last."),
    ] = msgspec.field(default="normal", name="class")
    token: Annotated[
        Secret | None, Meta(description="What programs send as `Authorization: Bearer …`; users may come beside it.")
    ] = None
    users: Annotated[tuple[OtlpUser, ...], Meta(description="Who may send, by name and password.")] = ()
    tls: Annotated[
        ServerTls | None,
        Meta(
            description="TLS; without it tokens and passwords travel in the clear. Whoever shows a certificate of "
            "client_ca_file may send."
        ),
    ] = None
    connections_max: Annotated[
        int,
        Meta(
            description="Connections at a time, to each of both ports; one without a request makes room for a new one.",
            ge=1,
            le=4096,
        ),
    ] = 64
    timeout: Annotated[
        Duration, Meta(description="How long a request may take to arrive, and its answer to be read.")
    ] = Duration(30)
    keep_alive: Annotated[Duration, Meta(description="How long a connection is kept without a request.")] = Duration(
        300
    )
    request_bytes_max: Annotated[
        Size,
        Meta(
            description="Largest request, before and after it is decompressed, a quarter of [store] max_bytes at most; "
            "larger ones are answered 413, over gRPC RESOURCE_EXHAUSTED."
        ),
    ] = Size(4 * 1024 * 1024)
    json_bytes_max: Annotated[
        Size, Meta(description="Largest request in JSON, of which much more memory is made; 413 too.")
    ] = Size(2 * 1024 * 1024)
    in_flight_bytes_total: Annotated[
        Size,
        Meta(
            description="Bytes of all requests that are being read or wait for the commit; past that 503 is answered."
        ),
    ] = Size(8 * 1024 * 1024)

    @check("http")
    def _http_is_an_address(self) -> None:
        split_address(self.http)

    @check("http", "token", "users", "tls")
    def _is_not_open_to_everybody(self) -> None:
        _check_reach(self.http, is_open=_is_open(token=self.token, users=self.users, tls=self.tls))

    @check("grpc")
    def _grpc_is_an_address(self) -> None:
        if self.grpc:
            split_address(self.grpc)

    @check("grpc", "token", "users", "tls")
    def _grpc_is_not_open_to_everybody(self) -> None:
        if self.grpc:
            _check_reach(self.grpc, is_open=_is_open(token=self.token, users=self.users, tls=self.tls))

    @check("users")
    def _users_differ(self) -> Iterator[str]:
        for name, count in Counter(user.name for _, user in parts(self.users, "name")).items():
            if count > 1:
                yield f"user {name!r} is named twice"

    @check("timeout")
    def _requests_have_time(self) -> None:
        if self.timeout <= 0:
            raise ValueError('is over zero, like "30s"')

    @check("keep_alive")
    def _connections_may_stay(self) -> None:
        if self.keep_alive <= 0:
            raise ValueError('is over zero, like "5m"')

    @check("request_bytes_max", "in_flight_bytes_total")
    def _requests_have_room(self) -> None:
        largest = min(self.in_flight_bytes_total, REQUEST_BYTES_MOST)
        if not REQUEST_BYTES_MIN <= self.request_bytes_max <= largest:
            raise ValueError(
                f"is {Size(REQUEST_BYTES_MIN)} to {Size(REQUEST_BYTES_MOST)} and at most in_flight_bytes_total"
            )

    @property
    def lets_anyone_in(self) -> bool:
        """Whether nobody has to show anything."""
        return _is_open(token=self.token, users=self.users, tls=self.tls)

    @property
    def priority(self) -> Priority:
        """The class."""
        return Priority[self.class_.upper()]


def _is_open(*, token: Secret | None, users: tuple[OtlpUser, ...], tls: ServerTls | None) -> bool:
    return token is None and not users and (tls is None or not tls.client_ca_file)


def _check_reach(address: str, *, is_open: bool) -> None:
    """Raise ValueError where who reaches an address would be let in, and is not on this machine."""
    if is_open and not is_loopback(split_address(address)[0]):
        raise ValueError(
            f'is {address}, which other machines reach: add token = {{ env = "NAME" }}, name users, give '
            "tls.client_ca_file, or listen on 127.0.0.1"
        )


def tls_context(settings: OtlpSettings) -> ssl.SSLContext:
    """Build the context; raise ValueError that names the file."""
    assert settings.tls is not None
    return server_context(settings.tls, only_certificates=settings.token is None and not settings.users)
