"""What each kind of uplink is built of, with a real store and nothing run."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import pytest

from gateway.control.metrics import MetricsPage
from gateway.control.summary import render
from gateway.core.clock import FakeClock
from gateway.core.telemetry import Telemetry
from gateway.roads import Ground, build_road, shows_certificates
from gateway.store.database import Store, StoreSettings
from gateway.uplinks.bridge_settings import MqttUplinkSettings
from gateway.uplinks.delivery import Uplink
from gateway.uplinks.endpoint_settings import EndpointSettings
from gateway.uplinks.file_settings import FileUplinkSettings
from gateway.uplinks.nats_settings import NatsUplinkSettings
from gateway.uplinks.settings import OtlpUplinkSettings

if TYPE_CHECKING:
    from pathlib import Path


def settings_of(kind: str, folder: Path) -> Any:
    """Return the least that an uplink of a kind needs."""
    more: dict[str, Any] = {"name": "up"}
    if kind == "otlp":
        return OtlpUplinkSettings(endpoint="http://127.0.0.1:9", **more)
    if kind == "file":
        return FileUplinkSettings(directory=str(folder), **more)
    if kind == "nats":
        return NatsUplinkSettings(url="nats://127.0.0.1:9", **more)
    return MqttUplinkSettings(url="mqtt://127.0.0.1:9", topic="out/{signal}", **more)


@pytest.mark.parametrize(
    ("kind", "leads_to"), [("otlp", "endpoint"), ("file", "directory"), ("mqtt", "client_id"), ("nats", "duplicates")]
)
async def test_each_kind_has_its_wire(tmp_path: Path, kind: str, leads_to: str) -> None:
    """Status says where it leads."""
    clock = FakeClock()
    store = await Store.open(
        state_dir=tmp_path / "state",
        settings=StoreSettings(),
        clock=clock,
        uplinks=["up"],
        max_series=10,
        telemetry=Telemetry(),
        commit_interval_s=0.01,
    )
    try:
        ground = Ground(
            store=store,
            telemetry=Telemetry(),
            gateway_id="g",
            attributes=(("tidegate.gateway.id", "g"),),
            links=None,
            on_server_time=lambda *_, is_vouched: None,
            clock=clock,
            random=random.Random(1),
        )
        uplink = build_road(settings_of(kind, tmp_path), ground)
        assert isinstance(uplink, Uplink)
        assert uplink.name == "up"
        told = uplink.status()
        assert (told["type"], leads_to in told) == (kind, True), told
        # And who looks at it from outside sees it.
        status = {"uplinks": {"up": told}}
        assert f"up: {told['state']}" in render(status, colour=False)
        page = MetricsPage(telemetry=Telemetry(), status=lambda: status).render().decode()
        assert 'tidegate_uplink_put_off_leases{uplink="up"} 0' in page
    finally:
        await store.close()


@pytest.mark.parametrize(
    ("endpoints", "does"),
    [
        (["https://a.example"], True),
        (["https://a.example", EndpointSettings(url="https://b.example")], True),
        (["http://a.example", EndpointSettings(url="http://b.example")], False),
        (["HTTPS://a.example"], True),
    ],
)
def test_who_shows_certificates_is_asked_for_the_time(endpoints: list[str | EndpointSettings], does: bool) -> None:
    """One that anybody on the way can answer for does not count, nor do roads that say no time."""
    assert shows_certificates(OtlpUplinkSettings(name="up", endpoints=endpoints)) is does
    assert not shows_certificates(MqttUplinkSettings(name="up", url="mqtts://a.example", topic="out/{signal}"))
