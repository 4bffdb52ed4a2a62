"""What the MQTT server answers to a packet: pure functions of the packet and the session. Do no I/O."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gateway.net.mqtt import VERSION_5, Packet, Publishes
from gateway.net.mqtt_fields import PacketType, ReasonCode, malformed, protocol_error
from gateway.net.mqtt_packets import (
    PINGRESP_BYTES,
    answer_bytes,
    read_answer,
    read_filters,
    suback_bytes,
    unsuback_bytes,
)

if TYPE_CHECKING:
    from gateway.core.contracts import Lost
    from gateway.sources.mqtt_server_auth import Grant
    from gateway.sources.mqtt_server_session import PacketIdSet, Session


@dataclass(slots=True)
class SortedOut:
    """PUBLISHes that may be handed in, and the answers to all of them, in their order.

    `exactly_once` are the packet ids of new QoS 2 messages; `unacknowledged` counts those handed in with an
    id, and `lost` are those that are not to be used. `must_hang_up` is true when one is not allowed and the
    version has no word for it: the rest was not read.
    """

    topics: list[bytes] = field(default_factory=list)
    payloads: list[bytes] = field(default_factory=list)
    answers: list[bytes] = field(default_factory=list)
    lost: list[Lost] = field(default_factory=list)
    exactly_once: list[bytes] = field(default_factory=list)
    forbidden: list[bytes] = field(default_factory=list)
    unacknowledged: int = 0
    must_hang_up: bool = False


def sort_out(publishes: Publishes, *, grant: Grant, session: Session, version: int) -> SortedOut:
    """Look at PUBLISHes one by one: mixed ones, those of QoS 2, and topics that were not asked for before.

    Notes new QoS 2 messages as offered in `session`, and repeated ones as owed or answered.
    """
    out = SortedOut()
    lost = {one.at: one for one in publishes.lost}
    columns = zip(publishes.topics, publishes.payloads, publishes.packet_ids, publishes.qos, strict=True)
    for at, (topic, payload, packet_id, qos) in enumerate(columns):
        kind = PacketType.PUBREC if qos == 2 else PacketType.PUBACK
        if not grant.allows(topic):
            out.forbidden.append(topic)
            if qos and version != VERSION_5:
                # 3.1.1 can only say yes or hang up (section 3.3.5 there).
                out.must_hang_up = True
                break
            if qos:
                out.answers.append(answer_bytes(kind, packet_id, code=ReasonCode.NOT_AUTHORIZED, version=version))
            continue
        if qos == 2:
            if packet_id in session.kept:
                out.answers.append(answer_bytes(kind, packet_id))
                continue
            if packet_id in session.offered:
                session.owed.add(packet_id)
                continue
            session.offered.add(packet_id)
            out.exactly_once.append(packet_id)
        if qos:
            out.answers.append(answer_bytes(kind, packet_id))
            out.unacknowledged += 1
        if at in lost:
            out.lost.append(lost[at]._replace(at=len(out.topics)))
        out.topics.append(topic)
        out.payloads.append(payload)
    return out


def reply(packet: Packet, *, kept: PacketIdSet, version: int) -> bytes:
    """Return the answer to a packet that is no PUBLISH, CONNECT or DISCONNECT; a PUBREL releases its id.

    Raises ProtocolError for one that a client must not send to a server that never publishes.
    """
    kind = packet.type
    if kind is PacketType.PINGREQ:
        if packet.body:
            raise malformed("a PINGREQ with a body")
        return PINGRESP_BYTES
    if kind is PacketType.PUBREL:
        packet_id, _ = read_answer(packet.body, version)
        code = ReasonCode.SUCCESS if kept.discard(packet_id) else ReasonCode.PACKET_ID_NOT_FOUND
        return answer_bytes(PacketType.PUBCOMP, packet_id, code=code, version=version)
    if kind is PacketType.SUBSCRIBE:
        packet_id, filters = read_filters(packet.body, version, kind)
        return suback_bytes(packet_id, [ReasonCode.NOT_AUTHORIZED] * len(filters), version=version)
    if kind is PacketType.UNSUBSCRIBE:
        packet_id, filters = read_filters(packet.body, version, kind)
        codes = [ReasonCode.NO_SUBSCRIPTION_EXISTED] * len(filters)
        return unsuback_bytes(packet_id, codes, version=version)
    raise protocol_error(f"a {kind.name} that nobody asked for")
