"""Who may publish what to the gateway's own MQTT server, and how often one may guess. Does no I/O.

Passwords are compared in constant time and kept as keyed digests only. A wrong one is answered late, and an
address whose wrong answers for a name are still waiting is not listened to beyond a few at a time, for that
name: guessing costs time, while a device behind the same address, with a name of its own and the right
password, is let in at once.
"""

from __future__ import annotations

import hmac
import secrets
import socket
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec
from msgspec import Meta

from gateway.core.checks import Checked, Problem, below, check, parts
from gateway.net.addresses import packed_address
from gateway.net.secrets import Secret

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

# Topics that a user may publish to and that were asked for lately; past that all are forgotten.
TOPICS_ALLOWED_MAX: Final = 4096
TOPICS_ALLOWED_BYTES_MAX: Final = 512 << 10
GUESSES_MAX: Final = 4096
WAITING_PER_NAME_MAX: Final = 8
# Each holds a connection.
WAITING_PER_ADDRESS_MAX: Final = 64
DELAY_S: Final = 0.5
DELAY_S_MAX: Final = 8.0
FORGET_AFTER_S: Final = 600.0
ANONYMOUS: Final = ""
# How an IPv4 address begins where a socket is for both (RFC 4291, section 2.5.5.2).
_MAPPED: Final = bytes(10) + b"\xff\xff"


def _check_name(name: str, what: str) -> None:
    # A name stands in topic patterns: with these in it, it would open more than its own level.
    if not name or any(character in name for character in "/+#\0"):
        raise ValueError(f"{what} {name!r} must not be empty or hold /, + or #")


def wrong_patterns(field: str, patterns: Sequence[str]) -> Iterator[Problem]:
    """Yield the topic patterns of a field that MQTT does not know (MQTT 5.0 section 4.7.1)."""
    for index, pattern in parts(patterns):
        levels = pattern.split("/")
        hash_early = any("#" in level for level in levels[:-1])
        mixed = any(level not in {"+", "#"} and ("+" in level or "#" in level) for level in levels)
        if not pattern or hash_early or mixed:
            what = '+ stands for one whole level, # for the rest, like "a/+/b/#"'
            yield Problem(below(field, index), f"{pattern!r} is not a topic pattern; {what}")


class MqttUser(Checked, msgspec.Struct, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """Someone who may publish with a name and a password."""

    name: Annotated[str, Meta(description="The user name that the client sends.")]
    password: Annotated[Secret, Meta(description="Where the password is: env, file or credential.")]
    topics: Annotated[
        tuple[str, ...],
        Meta(description="Topics it may publish to, with + and #; {user} or %u stands for its own name."),
    ]

    @check("name")
    def _name_is_one_level(self) -> None:
        _check_name(self.name, "the user name")

    @check("topics")
    def _topics_are_patterns(self) -> Iterator[Problem]:
        yield from wrong_patterns("topics", self.topics)


class MqttCertificate(Checked, msgspec.Struct, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """Someone who may publish with a client certificate."""

    common_name: Annotated[str, Meta(description="The certificate's common name, or one of its alternative names.")]
    topics: Annotated[
        tuple[str, ...],
        Meta(description="Topics it may publish to, with + and #; {user} or %u stands for the common name."),
    ]

    @check("common_name")
    def _name_is_one_level(self) -> None:
        _check_name(self.common_name, "the common name")

    @check("topics")
    def _topics_are_patterns(self) -> Iterator[Problem]:
        yield from wrong_patterns("topics", self.topics)


class Grant:
    """One identity and the topics it may publish to. What was allowed is remembered, bounded."""

    def __init__(self, name: str, patterns: Iterable[str]) -> None:
        self.name = name
        filled = [pattern.replace("{user}", name).replace("%u", name) for pattern in patterns]
        self.allows_all = "#" in filled
        self._patterns = [pattern.encode().split(b"/") for pattern in filled]
        self._allowed: set[bytes] = set()
        self._allowed_bytes = 0

    def allows(self, topic: bytes) -> bool:
        """Whether a message may have this topic. `#` covers topics with $ too: this is no subscription."""
        if self.allows_all or topic in self._allowed:
            return True
        levels = topic.split(b"/")
        if not any(_matches(pattern, levels) for pattern in self._patterns):
            return False
        if len(self._allowed) >= TOPICS_ALLOWED_MAX or self._allowed_bytes >= TOPICS_ALLOWED_BYTES_MAX:
            self._allowed.clear()
            self._allowed_bytes = 0
        self._allowed.add(topic)
        self._allowed_bytes += len(topic)
        return True

    def knows_all(self, topics: Iterable[bytes]) -> bool:
        """Whether each of `topics` was allowed before: one quick look for a whole buffer."""
        return self.allows_all or self._allowed.issuperset(topics)


def _matches(pattern: Sequence[bytes], levels: Sequence[bytes]) -> bool:
    """Compare level by level.

    >>> _matches([b"a", b"+", b"#"], [b"a", b"b"])
    True
    """
    if pattern[-1] == b"#":
        pattern = pattern[:-1]
        if len(levels) < len(pattern):
            return False
    elif len(levels) != len(pattern):
        return False
    return all(part in (b"+", level) for part, level in zip(pattern, levels, strict=False))


class Authenticator:
    """Turns what a client shows into a Grant. Reads the secrets once, when it is built."""

    def __init__(
        self,
        *,
        users: Sequence[MqttUser],
        certificates: Sequence[MqttCertificate],
        anonymous_topics: Sequence[str] | None,
    ) -> None:
        self._key = secrets.token_bytes(32)
        self._users = {
            user.name: (self._digest(user.password.read().encode()), Grant(user.name, user.topics)) for user in users
        }
        self.has_users = bool(self._users)
        self._certificates = {entry.common_name: Grant(entry.common_name, entry.topics) for entry in certificates}
        self._anonymous = None if anonymous_topics is None else Grant(ANONYMOUS, anonymous_topics)
        self._nobody = self._digest(secrets.token_bytes(32))

    def admit(self, *, username: str | None, password: bytes | None, peer_names: Sequence[str] = ()) -> Grant | None:
        """Return what this client may do, or None: a certificate counts first, then the password."""
        for name in peer_names:
            grant = self._certificates.get(name)
            if grant is not None:
                return grant
        if username is None:
            return self._anonymous
        # A name that nobody has takes as long as a wrong password.
        expected, found = self._users.get(username, (self._nobody, None))
        is_right = hmac.compare_digest(expected, self._digest(password or b""))
        return found if is_right else None

    def _digest(self, password: bytes) -> bytes:
        return hmac.digest(self._key, password, "sha256")


def certificate_names(certificate: dict[str, Any] | None) -> list[str]:
    """Return the common name and the alternative names of what `SSLSocket.getpeercert` gives."""
    if not certificate:
        return []
    names = [value for part in certificate.get("subject", ()) for key, value in part if key == "commonName"]
    return names + [value for kind, value in certificate.get("subjectAltName", ()) if kind in {"DNS", "URI", "email"}]


@dataclass(slots=True)
class _Guesses:
    failures: int = 0
    waiting: int = 0
    last_s: float = 0.0
    held_until_s: float = 0.0


@dataclass(slots=True)
class Attempts:
    """Wrong passwords by address and user name: how long each answer waits, and whether to listen at all.

    At most GUESSES_MAX are remembered, each for FORGET_AFTER_S after its last failure; the one that failed
    longest ago goes first. Answers that wait hold a connection each: at most WAITING_PER_ADDRESS_MAX for one
    address, whatever names it thinks of. Past that the answer comes at once, and the name is held instead.
    """

    _guesses: dict[tuple[str, int], _Guesses] = field(default_factory=dict)
    _waiting: dict[str, int] = field(default_factory=dict)

    def is_held(self, address: str, username: str, *, now_s: float) -> bool:
        """Whether so many wrong answers for this name and address are waiting that no other is tried."""
        entry = self._guesses.get(_guess_key(address, username))
        return entry is not None and (entry.waiting >= WAITING_PER_NAME_MAX or now_s < entry.held_until_s)

    def failed(self, address: str, username: str, *, now_s: float) -> float:
        """Note a wrong password; return after how many seconds to answer. Call `answered` then, if more than 0."""
        key = _guess_key(address, username)
        entry = self._guesses.pop(key, None)
        if entry is None or now_s - entry.last_s > FORGET_AFTER_S:
            entry = _Guesses(waiting=entry.waiting if entry else 0)
        entry.failures += 1
        entry.last_s = now_s
        self._guesses[key] = entry
        if len(self._guesses) > GUESSES_MAX:
            del self._guesses[next(iter(self._guesses))]
        group = key[0]
        waiting = self._waiting.get(group, 0)
        if waiting >= WAITING_PER_ADDRESS_MAX:
            entry.held_until_s = now_s + DELAY_S_MAX
            return 0.0
        entry.waiting += 1
        self._waiting[group] = waiting + 1
        return min(DELAY_S * 2.0 ** min(entry.failures - 1, 30), DELAY_S_MAX)

    def answered(self, address: str, username: str) -> None:
        """Note that a wrong password was answered, or that the client did not wait for it."""
        key = _guess_key(address, username)
        entry = self._guesses.get(key)
        if entry is not None and entry.waiting:
            entry.waiting -= 1
        waiting = self._waiting.pop(key[0], 0)
        if waiting > 1:
            self._waiting[key[0]] = waiting - 1


def _guess_key(address: str, username: str) -> tuple[str, int]:
    # A name may be as long as a CONNECT: its hash, which nobody outside can foresee, stands for it.
    return address_group(address), hash(username)


def address_group(address: str) -> str:
    """Return what stands for one guesser: an IPv4 address, or the first 64 bits of an IPv6 one.

    >>> address_group("2001:db8::5"), address_group("192.0.2.7")
    ('2001:db8::/64', '192.0.2.7')
    """
    packed = packed_address(address)
    if len(packed) <= 4:
        return address
    if packed[:12] == _MAPPED:
        return socket.inet_ntoa(packed[12:])
    return f"{socket.inet_ntop(socket.AF_INET6, packed[:8] + bytes(8))}/64"
