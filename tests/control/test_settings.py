"""The whole configuration as one class."""

from __future__ import annotations

import ast
import inspect
import textwrap
from typing import TYPE_CHECKING, get_args, get_origin

import msgspec
import pytest

from gateway.control.config import parse_config
from gateway.control.reading import alternatives
from gateway.control.settings import Config, ControlSettings, GatewaySettings
from gateway.core.checks import checks_of
from gateway.core.units import Duration, Size
from gateway.net.secrets import Secret
from gateway.sources.mqtt_server_auth import MqttUser
from gateway.sources.mqtt_server_settings import MqttServerSettings
from gateway.sources.mqtt_settings import MqttSettings
from gateway.sources.otlp_settings import OtlpSettings, OtlpUser
from gateway.sources.server_tls import ServerTls
from gateway.uplinks.settings import OtlpUplinkSettings, TlsSettings

if TYPE_CHECKING:
    from gateway.core.checks import Check


def settings_classes(wanted: object = Config) -> set[type[msgspec.Struct]]:
    """Return a settings class and all that stand in it."""
    found: set[type[msgspec.Struct]] = set()
    for part in alternatives(wanted):
        if get_origin(part) in {tuple, dict}:
            found.update(*map(settings_classes, get_args(part)))
        elif isinstance(part, type) and issubclass(part, msgspec.Struct):
            found.update({part}, *(settings_classes(item.type) for item in msgspec.structs.fields(part)))
    return found


CHECKS = [
    pytest.param(kind, one, id=f"{kind.__name__}.{one.function.__name__}")
    for kind in sorted(settings_classes(), key=lambda kind: kind.__name__)
    for one in checks_of(kind)
]


@pytest.mark.parametrize(("kind", "one"), CHECKS)
def test_a_check_names_the_fields_it_looks_at(kind: type, one: Check) -> None:
    """And at no others: where one could not be read, or is wrong, the check is left out."""
    names = {item.name for item in msgspec.structs.fields(kind)}
    assert set(one.fields) <= names
    tree = ast.parse(textwrap.dedent(inspect.getsource(one.function)))
    looked = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self"
    }
    assert looked <= set(one.fields)


def test_settings_are_refused_by_their_checks_alone() -> None:
    """What a class refuses in another way would hide what else is wrong."""
    own = [kind.__name__ for kind in settings_classes() if "__post_init__" in vars(kind)]
    assert own == []
    assert len(CHECKS) > 40


def test_nothing_needs_to_be_set() -> None:
    """An empty file is a configuration, though one that says what it lacks."""
    config = Config()
    assert config.control is None
    assert [warning.split(":")[0] for warning in config.warnings()] == ["sources", "uplinks"]


SERVER = """
[[sources]]
type = "mqtt_server"
name = "direct"
users = [
  { name = "pump", password = { env = "A" }, topics = ["#"] },
  { name = "fan", password = { env = "B" }, topics = ["#"] },
]
"""
LINE = '[[sources]]\ntype = "serial"\nname = "line1"\nport = "/dev/ttyS0"\nframing = "lines"\n'


def test_sources_and_users_share_what_is_scarce() -> None:
    """Each user of the server by itself, those without a name together, each other source as one."""
    assert parse_config(SERVER + LINE, offline=True).owners() == ("direct/pump", "direct/fan", "line1")
    anonymous = SERVER.replace("users", "anonymous = true\nusers")
    assert parse_config(anonymous, offline=True).owners() == ("direct/pump", "direct/fan", "direct")
    assert parse_config('[[sources]]\ntype = "mqtt_server"\nname = "a"\n', offline=True).owners() == ("a",)


def test_a_series_is_given_time_to_come_back() -> None:
    """An hour at least; a week if nothing is said."""
    assert GatewaySettings().series_idle == Duration(7 * 86_400)
    assert GatewaySettings(series_idle=Duration(3600)).series_idle == 3600
    with pytest.raises(ValueError, match="an hour or more"):
        GatewaySettings(series_idle=Duration(3599))


def test_beyond_loopback_a_token_is_needed() -> None:
    """And with one, a word about what travels in the clear."""
    with pytest.raises(ValueError, match="which other machines reach"):
        ControlSettings(listen="0.0.0.0:8181")
    control = ControlSettings(listen="0.0.0.0:8181", token=Secret(env="TOKEN"))
    assert (
        "control.listen: the token travels unencrypted; put a TLS proxy before it" in Config(control=control).warnings()
    )
    assert not any("control" in warning for warning in Config(control=ControlSettings()).warnings())


@pytest.mark.parametrize(
    "wrong", [{"listen": "8181"}, {"listen": "::1:8181"}, {"timeout": Duration(0)}, {"request_max": Size(10)}]
)
def test_a_window_that_could_not_open_is_refused(wrong) -> None:
    """No address, no time, no room."""
    with pytest.raises(ValueError):
        ControlSettings(**wrong)


def test_unencrypted_roads_are_named() -> None:
    """Beyond loopback http:// is allowed and said, as is what then has no use."""
    near = OtlpUplinkSettings(name="near", endpoint="http://127.0.0.1:4318")
    far = OtlpUplinkSettings(name="far", endpoint="http://otel.example:4318", tls=TlsSettings(ca_file="/ca.pem"))
    said = [warning for warning in Config(uplinks=(near, far)).warnings() if warning.startswith("uplinks")]
    assert said == [f"uplinks[1].{warning}" for warning in far.warnings()]
    assert len(said) == 2


def test_passwords_that_others_can_read_are_named() -> None:
    """Beyond loopback and without TLS, whoever sends them."""
    password = Secret(env="A")
    users = (MqttUser(name="pump", password=password, topics=("#",)),)
    tls = ServerTls(cert_file="/c.pem", key_file="/k.pem")
    sources = [
        MqttServerSettings(name="a", listen="0.0.0.0:1884", users=users),
        MqttServerSettings(name="b", listen="0.0.0.0:8883", users=users, tls=tls),
        MqttServerSettings(name="c", users=users),
        *(
            MqttSettings(name=url, url=url, topics=("#",), username="me", password=password)
            for url in ("mqtt://broker", "ws://broker", "mqtts://broker", "mqtt://localhost")
        ),
        MqttSettings(name="h", url="mqtt://broker", topics=("#",)),
        OtlpSettings(name="i", http="0.0.0.0:4318", token=password),
        OtlpSettings(name="j", http="0.0.0.0:4318", users=(OtlpUser(name="app", password=password),)),
        OtlpSettings(name="k", http="0.0.0.0:4318", token=password, tls=tls),
        OtlpSettings(name="l", token=password),
    ]
    said = [warning for warning in Config(sources=tuple(sources)).warnings() if warning.startswith("sources")]
    assert said == [
        "sources[0].users: passwords travel unencrypted to 0.0.0.0:1884; give it tls = { cert_file = …, key_file = … }",
        "sources[3].password: it travels unencrypted to mqtt://broker; use mqtts:// or wss://",
        "sources[4].password: it travels unencrypted to ws://broker; use mqtts:// or wss://",
        "sources[8].token: it travels unencrypted to 0.0.0.0:4318; give it tls = { cert_file = …, key_file = … }",
        "sources[9].users: passwords travel unencrypted to 0.0.0.0:4318; give it tls = { cert_file = …, key_file = … }",
    ]


def test_a_serial_lines_payload_is_a_mapping_behind_the_files_own() -> None:
    """Without a mapping for its topics it is read as the line says; with no mapping at all the default stays last."""
    line = '[[sources]]\ntype = "serial"\nname = "line1"\nport = "/dev/ttyS0"\nframing = "lines"\npayload = "csv"\n'
    alone = parse_config(line, offline=True).effective_mappings()
    assert [(m.match, m.source, m.payload) for m in alone] == [("#", "line1", "csv"), ("#", None, "auto")]
    mapped = parse_config(line + '[[mappings]]\nmatch = "a/#"\nfields = "*"\n', offline=True).effective_mappings()
    assert [m.match for m in mapped] == ["a/#", "#"]
