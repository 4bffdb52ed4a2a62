"""From a file to a Config, or to every problem in it."""

from __future__ import annotations

import os
import re
import socket
import tomllib
from pathlib import Path

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from gateway.codecs.mapping import Mapper
from gateway.codecs.otlp import NO_MARKS, MetricsEncoder
from gateway.codecs.otlp_json import JsonEncoder
from gateway.control import config as module
from gateway.control.config import (
    CONFIG_BYTES_MAX,
    ConfigError,
    example,
    load,
    look_at_disk,
    machine_name,
    parse_config,
    schema,
)
from gateway.core.contracts import Arrivals
from gateway.store.series import SeriesBounds, SeriesRegistry

DESIGN = """
[gateway]
id = "site-7"
state_dir = "STATE"
hw_profile = "auto"
attributes = { "deployment.environment.name" = "prod" }

[[sources]]
type = "mqtt"
name = "plant"
url = "mqtt://127.0.0.1:1883"
topics = ["plant/#"]
qos = 1

[[sources]]
type = "mqtt_server"
name = "direct"
listen = "127.0.0.1:1884"

[[sources]]
type = "serial"
name = "line1"
port = "/dev/serial/by-id/usb-1"
baud = 115200
framing = "cobs"
payload = "cbor"

[[mappings]]
match = "plant/{device}/climate"
payload = "json"
resource = { "device.id" = "{device}" }
time = { field = "ts", unit = "ms" }
metrics = [
  { field = "temp", name = "temperature", unit = "Cel" },
  { field = "hum",  name = "humidity",    unit = "%" },
]
class = "normal"
examples = [
  { topic = "plant/d/climate", payload = '{"ts":1700000000000,"temp":20.5}', gives = { temperature = 20.5 } },
]

[[mappings]]
match = "bulk/{device}/wave"
payload = "cbor"
resource = { "device.id" = "{device}" }
time = { start = "t0", step = "dt", unit = "ns" }
fields = "v"

[store]
max_bytes = "512MiB"
max_age = "30d"
commit_interval = "250ms"
when_full = "drop_oldest"

[[detectors]]
match = { metric = "temperature" }
type = "zscore"

[[uplinks]]
type = "otlp"
name = "cloud"
endpoint = "https://otel.example:4318"
protocol = "http/protobuf"
compression = "auto"
headers = { authorization = { env = "OTLP_TOKEN" } }

[control]
listen = "127.0.0.1:8181"
"""


def problems(text: str, **how) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse_config(text, **how)
    assert str(caught.value) == "\n".join(caught.value.problems)
    return caught.value.problems


def test_the_design_s_own_example_loads(tmp_path, monkeypatch) -> None:
    """As it stands there, but for what later versions bring."""
    monkeypatch.setenv("OTLP_TOKEN", "geheim")
    path = tmp_path / "tidegate.toml"
    path.write_text(DESIGN.replace("STATE", str(tmp_path / "state")))
    config = load(path)
    assert config.gateway.id == "site-7"
    assert [source.name for source in config.sources] == ["plant", "direct", "line1"]
    assert config.store.commit_interval == 0.25
    assert config.detectors[0].match.metric == "temperature"
    assert config.control is not None
    assert config.warnings() == []
    assert "geheim" not in repr(config)
    assert not (tmp_path / "state").exists(), "loading makes nothing"


def test_what_depends_on_the_machine_can_be_left_out(monkeypatch) -> None:
    """`explain` on another desk needs no secret and no state directory."""
    monkeypatch.delenv("OTLP_TOKEN", raising=False)
    text = DESIGN.replace("STATE", "relative/path")
    assert parse_config(text, offline=True).gateway.state_dir == "relative/path"
    assert problems(text) == [
        'gateway.state_dir: "relative/path" depends on where the gateway is started; write an absolute one',
        "uplinks[0].headers.authorization: the environment variable OTLP_TOKEN is not set",
    ]


def test_the_whole_example_loads_and_shows_every_key() -> None:
    """With its defaults commented out it is a configuration; it names each key of each table."""
    text = example()
    config = parse_config(text, offline=True)
    assert config.control is not None
    assert config.sources == ()
    for name in ("mqtt_server", "mqtt", "serial", "otlp", "zscore", "iqr"):
        assert f'# type = "{name}"' in text
    for key in (
        "log_level",
        "listen",
        "max_bytes",
        "match",
        "class",
        "threshold",
        "endpoint",
        "backlog_share",
    ):
        assert re.search(rf"^# {key} = ", text, re.MULTILINE), key
    assert max(map(len, text.splitlines())) <= 100


def test_every_line_of_the_example_is_toml_when_it_is_uncommented() -> None:
    """Taking a # away never makes a syntax error."""
    for line in example().splitlines():
        if match := re.fullmatch(r"# ([a-z_]+ = .*|\[\[?[a-z_]+\]?\])", line):
            tomllib.loads(match[1])


def test_what_an_uplink_takes_is_shown_as_it_may_be_said() -> None:
    """An empty list is none that is taken."""
    lines = {"classes": 'classes = ["critical"]', "signals": 'signals = ["metrics"]', "mappings": 'mappings = ["…"]'}
    for name, line in lines.items():
        found = {one for one in example().splitlines() if one.startswith(f"# {name} = ")}
        assert found == {f"# {line}"}


def test_the_schema_covers_everything() -> None:
    """Durations and sizes are texts with a pattern; defaults are as in the file; tags choose."""
    made = schema()
    assert made["title"] == "tidegate.toml"
    parts = made["$defs"]
    assert set(parts["Config"]["properties"]) >= {
        "gateway",
        "sources",
        "mappings",
        "store",
        "uplinks",
        "control",
    }
    age = parts["StoreSettings"]["properties"]["max_age"]
    assert age["default"] == "30d"
    assert re.fullmatch(age["pattern"], "30d")
    assert not re.fullmatch(age["pattern"], "30")
    assert parts["MqttServerSettings"]["properties"]["type"] == {"enum": ["mqtt_server"]}
    assert parts["ControlSettings"]["additionalProperties"] is False


def test_names_must_differ() -> None:
    """Within each kind of part; detectors may have none."""
    text = """
[[sources]]
type = "mqtt_server"
name = "a"
[[sources]]
type = "serial"
name = "a"
port = "/dev/null"
[[detectors]]
type = "zscore"
[[detectors]]
type = "zscore"
[[uplinks]]
type = "otlp"
name = "a"
endpoint = "http://127.0.0.1:1"
"""
    assert problems(text, offline=True) == ['sources[1].name: "a" is taken by sources[0]; names must differ']


@pytest.mark.parametrize(
    "part",
    [
        'sources]]\ntype = "mqtt_server"',
        'sources]]\ntype = "mqtt"\nurl = "mqtt://h"\ntopics = ["#"]',
        'sources]]\ntype = "serial"\nport = "/dev/null"',
        'uplinks]]\ntype = "otlp"\nendpoint = "http://127.0.0.1:1"',
    ],
)
def test_a_name_is_not_empty(part: str) -> None:
    """Status, quarantine and `explain --source` are about somebody."""
    (problem,) = problems(f'[[{part}\nname = ""\n', offline=True)
    assert re.match(r"(sources|uplinks)\[0\].name: ", problem)


def test_an_attribute_of_the_gateway_has_a_name() -> None:
    """A receiver that keeps to OTLP would refuse whatever leaves with one that has none."""
    said = 'gateway.attributes."": an attribute has a name, like "device.id"'
    assert problems('[gateway]\nattributes = { "" = "x" }\n', offline=True) == [said]


def test_addresses_must_differ() -> None:
    """Two listeners, one port; port 0 is any free one."""
    source = '[[sources]]\ntype = "mqtt_server"\nname = "a"\nlisten = "127.0.0.1:{}"\n'
    text = source + '[control]\nlisten = "127.0.0.1:{}"\n'
    assert problems(text.format(8181, 8181), offline=True) == [
        "control.listen: 127.0.0.1:8181 is taken by sources[0].listen; give it another port"
    ]
    assert parse_config(text.format(0, 0), offline=True)
    otlp = '[[sources]]\ntype = "otlp"\nname = "b"\nhttp = "127.0.0.1:{}"\ngrpc = "127.0.0.1:{}"\n'
    assert problems(source.format(1884) + otlp.format(4318, 4318), offline=True) == [
        "sources[1].grpc: 127.0.0.1:4318 is taken by sources[1].http; give it another port"
    ]
    assert problems(source.format(4317) + otlp.format(4318, 4317), offline=True) == [
        "sources[1].grpc: 127.0.0.1:4317 is taken by sources[0].listen; give it another port"
    ]
    assert parse_config(source.format(0) + otlp.format(0, 0), offline=True)


def test_listening_beyond_loopback_wants_a_token() -> None:
    """With what to add."""
    (found,) = problems('[control]\nlisten = "0.0.0.0:8181"')
    assert found.startswith("control.listen: is 0.0.0.0:8181, which other machines reach: add token = { env")


def test_a_state_directory_that_could_not_be_made_is_named(tmp_path) -> None:
    """Below a file, or where this user may not write."""
    (tmp_path / "file").write_text("")
    (found,) = problems(f'[gateway]\nstate_dir = "{tmp_path}/file/state"')
    assert found == f"gateway.state_dir: {tmp_path}/file is a file; name a directory"


@pytest.mark.parametrize("path", ["/proc/x", "/proc"])
def test_a_place_where_no_file_can_be_is_named(path) -> None:
    """Its mode lets root write there, and nothing can be made all the same."""
    (found,) = problems(f'[gateway]\nstate_dir = "{path}"')
    assert found.startswith(f"gateway.state_dir: {path} cannot be ")
    assert found.endswith("; choose another directory")


def test_a_place_that_cannot_even_be_looked_at_is_named(tmp_path, monkeypatch) -> None:
    """Below a directory of somebody else's; the part that can be seen is judged."""
    real = Path.exists

    def exists(path: Path) -> bool:
        if path.is_relative_to(tmp_path / "theirs"):
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(Path, "exists", exists)
    monkeypatch.setattr(os, "access", lambda *_: False)
    (found,) = problems(f'[gateway]\nstate_dir = "{tmp_path}/theirs/state"')
    assert f"/theirs/state cannot be made in {tmp_path} by this user" in found
    monkeypatch.setattr(Path, "exists", lambda _: (_ for _ in ()).throw(PermissionError))
    (found,) = problems('[gateway]\nstate_dir = "/theirs"')
    assert "cannot be made in / by this user" in found


def test_a_directory_on_a_read_only_disk_is_named(make_small_disk) -> None:
    """And nothing is left on one that can be written."""
    disk = make_small_disk(1 << 20)
    text = f'[gateway]\nstate_dir = "{disk.path}/state"'
    assert parse_config(text).gateway.state_dir == f"{disk.path}/state"
    assert list(disk.path.iterdir()) == []
    disk.read_only()
    (found,) = problems(text)
    assert f"cannot be made in {disk.path}" in found
    assert "the disk is read-only" in found


def test_a_shelf_larger_than_its_disk_is_a_note(make_small_disk) -> None:
    """The disk is the bound then; a file system that has no size is none."""
    disk = make_small_disk(1 << 20)
    text = f'[gateway]\nstate_dir = "{disk.path}/state"\n[store]\nmax_bytes = '
    assert look_at_disk(parse_config(text + '"2MiB"')) == [
        f"store.max_bytes: 2MiB is more than the whole disk has (1 MiB, mounted at {disk.path}); the store is full when "
        "the disk is, so give it less than that"
    ]
    assert look_at_disk(parse_config(text + '"1MiB"')) == []
    assert look_at_disk(parse_config('[gateway]\nstate_dir = "/proc/x"', offline=True)) == []


def test_a_state_directory_of_somebody_else_is_named(tmp_path, monkeypatch) -> None:
    """Asked of the system, so that nothing is written to find out."""
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    (there,) = problems(f'[gateway]\nstate_dir = "{tmp_path}"')
    assert there.startswith(f"gateway.state_dir: {tmp_path} cannot be written by this user")
    (new,) = problems(f'[gateway]\nstate_dir = "{tmp_path}/state"')
    assert new.startswith(f"gateway.state_dir: {tmp_path}/state cannot be made in {tmp_path} by this user")


def test_a_shelf_that_cannot_be_written_can_be_run_all_the_same(tmp_path, monkeypatch) -> None:
    """What it holds can be sent. `tidegate check` names it as ever, and without a shelf there is nothing to run."""
    monkeypatch.setattr("gateway.control.config.os.access", lambda _, mode: mode == os.R_OK and is_there)
    text = f'[gateway]\nstate_dir = "{tmp_path}"'
    is_there = True
    assert parse_config(text, to_run=True).gateway.state_dir == str(tmp_path)
    assert len(problems(text)) == 1
    is_there = False
    with pytest.raises(ConfigError, match="cannot be written"):
        parse_config(text, to_run=True)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a = \nb = 1", "x.toml: not TOML: Invalid value (at line 1, column 5)"),
        ("[store\n", "x.toml: not TOML: "),
        ("a = 1\na = 2", "x.toml: not TOML: Cannot overwrite a value"),
        ("a = " + "[" * 5000, "x.toml: not TOML: "),
    ],
)
def test_what_is_no_toml_is_said_with_its_place(text: str, problem: str) -> None:
    """Line and column; depth has an end."""
    (found,) = problems(text, name="x.toml")
    assert found.startswith(problem)


def test_a_file_that_is_not_there_says_how_to_make_one(tmp_path) -> None:
    """`tidegate init`."""
    with pytest.raises(ConfigError, match=r"there is no such file; `tidegate init --out .*x\.toml` writes one"):
        load(tmp_path / "x.toml")


def test_a_file_that_cannot_be_read_says_why(tmp_path) -> None:
    """A directory, too large, not UTF-8."""
    with pytest.raises(ConfigError, match=r"cannot be read \(Is a directory\)"):
        load(tmp_path)
    path = tmp_path / "x.toml"
    path.write_bytes(b"#" * (CONFIG_BYTES_MAX + 1))
    with pytest.raises(ConfigError, match="larger than"):
        load(path)
    path.write_bytes(b"a = 1\n# caf\xe9\n")
    with pytest.raises(ConfigError, match="line 2 is not UTF-8"):
        load(path)


def test_a_gateway_without_a_name_gets_one_from_its_machine(tmp_path, monkeypatch) -> None:
    """Always the same, made from the machine id and not showing it; without one, the host's name."""
    path = tmp_path / "machine-id"
    path.write_text("0123456789abcdef0123456789abcdef\n")
    monkeypatch.setattr(module, "MACHINE_ID_PATHS", (tmp_path / "none", path))
    name = machine_name()
    assert name == machine_name() == parse_config("", offline=True).gateway.id
    assert re.fullmatch("[0-9a-f]{32}", name)
    assert name != "0123456789abcdef0123456789abcdef"
    for content in ("", "uninitialized\n"):
        path.write_text(content)
        assert machine_name() == socket.gethostname()


def test_a_thousand_wrong_lines_end() -> None:
    """Bounded in number, quick."""
    text = "".join(f'[[sources]]\ntype = "mqtt_server"\nnme = {number}\n' for number in range(200))
    assert 10 < len(problems(text)) <= 100


def test_the_path_may_be_anything_path_like(tmp_path) -> None:
    """An empty file is a configuration."""
    path = Path(tmp_path) / "empty.toml"
    path.write_text("")
    assert load(path, offline=True).uplinks == ()


def test_two_sources_cannot_have_one_port() -> None:
    """The second would say that the port is in use, and by whom would be a riddle."""
    line = '[[sources]]\ntype = "serial"\nname = "line{n}"\nport = "/dev/ttyUSB0"\n'
    with pytest.raises(ConfigError, match=r"sources\[1\].port: /dev/ttyUSB0 is read by sources\[0\]"):
        parse_config(line.format(n=1) + line.format(n=2), offline=True)


NUMBERS = """
[gateway]
attributes = {{ serial = {0} }}
max_series = {0}
[[mappings]]
match = "plant/{{device}}"
resource = {{ "device.serial" = {0}, kept = 9223372036854775807 }}
attributes = {{ number = {0} }}
metrics = [ {{ field = "t", name = "a", scale = {0} }} ]
examples = [ {{ topic = "plant/d", payload = "{{}}", gives = {{ a = [{0}] }} }} ]
"""


@pytest.mark.parametrize(
    ("number", "bits"),
    [("9223372036854775808", 65), ("-9223372036854775809", 65), ("1" + "0" * 400, 1330), ("0x1" + "0" * 5000, 20_002)],
)
def test_whole_numbers_beyond_64_bits_are_named_wherever_they_stand(number: str, bits: int) -> None:
    """They fit in no column and in no attribute: every arrival would fail by them."""
    with pytest.raises(ConfigError) as caught:
        parse_config(NUMBERS.format(number), offline=True)
    said = f"a whole number has 64 bits at most, not {bits}; where a text will do, quote it"
    assert caught.value.problems == [
        f"gateway.attributes.serial: {said}",
        f"gateway.max_series: {said}",
        f'mappings[0].resource."device.serial": {said}',
        f"mappings[0].attributes.number: {said}",
        f"mappings[0].metrics[0].scale: {said}",
        f"mappings[0].examples[0].gives.a[0]: {said}",
    ]


def test_whole_numbers_of_64_bits_are_numbers() -> None:
    """The least and the largest there are, as they stand."""
    least, largest = -(1 << 63), (1 << 63) - 1
    config = parse_config(f"[gateway]\nattributes = {{ a = {least}, b = {largest} }}", offline=True)
    assert config.gateway.attributes == {"a": least, "b": largest}


def test_a_number_of_thousands_of_digits_is_a_sentence() -> None:
    """Python will not read it, and says so in its own way."""
    with pytest.raises(ConfigError, match="a whole number has 64 bits at most, one here has thousands"):
        parse_config(f"[gateway]\nmax_series = 1{'0' * 5000}", offline=True)


def odd_attributes() -> list[str]:
    """Return values that a table of attributes may be given, as TOML."""
    numbers = ["nan", "inf", "-inf", "1e400", "0x7fffffffffffffff", "-9223372036854775808", "-0.0"]
    texts = ['""', '"\\u0000"', '"°😀"', '"{topic}{source}{device}"', f'"{"x" * 1024}"', f'"{"{device}" * 16}"']
    return [*numbers, *texts, "true"]


@pytest.mark.parametrize("value", odd_attributes())
@pytest.mark.parametrize("table", ["resource", "attributes"])
def test_what_passes_the_check_can_be_kept_and_sent(table: str, value: str) -> None:
    """Whatever stands in attributes, and whatever the longest and oddest topics put there."""
    mapping = f'[[mappings]]\nmatch = "{{device}}/#"\n{table} = {{ a = {value} }}\n'
    config = parse_config(mapping + 'metrics = [ { field = "t", name = "{device}{topic}" } ]', offline=True)
    registry = SeriesRegistry([], series_max=9, bounds=SeriesBounds())
    mapper = Mapper(config.mappings, resolve=registry.resolve)
    topics = [b"d/x", "°😀/\ufffe".encode(), b"x" * 1022 + b"/y", b"/", b"\x00/\x1b"]
    mapped = mapper.map(Arrivals("s", topics, [b'{"t": 1}'] * 5, 1), wall_ns=None)
    assert (mapped.readings, mapped.malformed) == (5, [])
    encoder = MetricsEncoder(series=registry.series, gateway_attributes=(), version="1")
    ((_, batch),) = mapped.pieces
    request = ExportMetricsServiceRequest.FromString(encoder.encode([(batch.sorted(), NO_MARKS)]))
    assert sum(len(scope.metrics) for one in request.resource_metrics for scope in one.scope_metrics) == 5
    assert JsonEncoder(series=registry.series, gateway_attributes=(), version="1").metrics([(batch.sorted(), NO_MARKS)])


SUBSCRIBER = '[[sources]]\ntype = "mqtt"\nname = "NAME"\nurl = "URL"\ntopics = ["#"]\nclient_id = "ID"\n'


def subscribers(*pairs: tuple[str, str]) -> str:
    """Return a configuration with a subscriber for each URL and client id."""
    made = (
        SUBSCRIBER.replace("NAME", f"m{n}").replace("URL", url).replace("ID", name)
        for n, (url, name) in enumerate(pairs)
    )
    return "".join(made)


def test_two_sessions_of_one_name_at_one_broker_are_refused() -> None:
    """The broker would end the one whenever the other comes (MQTT 5.0 section 3.1.4), for ever."""
    text = subscribers(("mqtt://B.example", "gw"), ("mqtt://b.example:1883", "gw"), ("x://y", "gw"))
    assert problems(text, offline=True)[0] == (
        'sources[1].client_id: "gw" is the session of sources[0] at this broker; give each its own, or leave it out'
    )
    parse_config(subscribers(("mqtt://a", "gw"), ("mqtt://b", "gw"), ("mqtt://a", ""), ("mqtt://a", "")), offline=True)


def test_a_program_may_bring_the_tables_itself(tmp_path) -> None:
    """Of a file or of its own: checked as any other configuration, and its dict is left as it was."""
    path = tmp_path / "tidegate.toml"
    path.write_text('[gateway]\nstate_dir = "relative"\n[store]\nmax_age = "5"\n', encoding="utf-8")
    tables = module.read_table(path)
    assert tables == {"gateway": {"state_dir": "relative"}, "store": {"max_age": "5"}}
    with pytest.raises(ConfigError) as caught:
        module.parse_table(tables)
    assert len(caught.value.problems) == 2
    good = {"gateway": {"state_dir": str(tmp_path)}, "store": {"max_age": "5d"}}
    assert float(module.parse_table(good).store.max_age) == 5 * 86_400
    with pytest.raises(ConfigError, match="there is no such file"):
        module.read_table(tmp_path / "other.toml")


def test_an_uplink_to_a_broker_has_a_session_of_its_own_too() -> None:
    """Beside the sources' and those of other uplinks."""
    uplink = '[[uplinks]]\ntype = "mqtt"\nname = "NAME"\nurl = "mqtt://b"\nclient_id = "gw"\n'
    text = subscribers(("mqtt://b", "gw"))
    assert problems(text + uplink.replace("NAME", "up"), offline=True) == [
        'uplinks[0].client_id: "gw" is the session of sources[0] at this broker; give each its own, or leave it out'
    ]
    both = uplink.replace("NAME", "one") + uplink.replace("NAME", "two")
    assert problems(both, offline=True)[0].startswith('uplinks[1].client_id: "gw" is the session of uplinks[0]')
    parse_config(both.replace("b", "c", 1).replace('client_id = "gw"', ""), offline=True)
