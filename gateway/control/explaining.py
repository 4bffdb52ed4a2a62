"""What becomes of one message, offline: by a mapping, or past them as OTLP. Must not keep or send anything."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.sources.mqtt_settings import OTLP_PRIORITY, MqttSettings

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from gateway.codecs.mapping import Mapper


def explain_message(
    mapper: Mapper, topic: str, payload: bytes, *, sources: Sequence[Any], source: str | None, wall_ns: int
) -> tuple[str, bool]:
    """Return what becomes of a message from the source of that name (None: any), and whether all of it is used."""
    for one in sources:
        if isinstance(one, MqttSettings) and one.otlp and source in {None, one.name}:
            found = _explain_otlp(one, topic, payload)
            if found is not None:
                return found
    explanation = mapper.explain(topic, payload, wall_ns=wall_ns, source=source)
    return str(explanation), not explanation.problems


def _explain_otlp(source: MqttSettings, topic: str, payload: bytes) -> tuple[str, bool] | None:
    from gateway.sources.mqtt_otlp import signal_of, try_request  # noqa: PLC0415  only where it is configured

    signal = signal_of(source.otlp, topic)
    if signal is None:
        return None
    said, is_used = try_request(payload, signal, bytes_max=int(source.otlp_max))
    kind = f"an OTLP request of {signal.name.lower()}, past the mappings; class {OTLP_PRIORITY.name.lower()}"
    lines = [f"topic    {topic}", f"payload  {len(payload)} bytes", f"taken by the source {source.name} as {kind}"]
    return "\n".join([*lines, f"{'holds' if is_used else 'problem':8} {said}"]), is_used
