"""The bounds of memory fit a board together, and nothing is scaled that need not be."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from gateway.control.config import parse_config
from gateway.control.fitting import CORE_BYTES, SOURCE_BOUND_MIN, WATCHED_SHARE, fit
from gateway.control.profiles import load, names
from gateway.core.units import Size

MIB = 1 << 20
SERVER = '[[sources]]\ntype = "mqtt_server"\nname = "s{n}"\nlisten = "127.0.0.1:{port}"\n'
BROKER = '[[sources]]\ntype = "mqtt"\nname = "b{n}"\nurl = "mqtt://127.0.0.1"\ntopics = ["a"]\n'
LINE = '[[sources]]\ntype = "serial"\nname = "l{n}"\nport = "/dev/ttyS{n}"\n'
UPLINK = '[[uplinks]]\ntype = "otlp"\nname = "u{n}"\nendpoint = "http://127.0.0.1:4318"\n'


def config_of(*parts: str, store: str = "") -> Any:
    text = "".join(part.format(n=n, port=2000 + n) for n, part in enumerate(parts))
    return parse_config(text + f"[store]\n{store}\n", offline=True)


def test_a_large_machine_gets_what_the_settings_say() -> None:
    """Only what its profile bounds anyway is bounded."""
    config = config_of(SERVER, BROKER, LINE, UPLINK)
    fitted = fit(config, load("x86-64"))
    assert fitted.share == 1
    assert fitted.config == config
    assert fitted.notes(load("x86-64")) == []


@pytest.mark.parametrize("name", names())
def test_with_the_usual_doors_every_board_has_room_for_all_of_them(name: str) -> None:
    """A server, a broker, a line and an uplink: everything full fits into memory_max."""
    profile = load(name)
    fitted = fit(config_of(SERVER, BROKER, LINE, UPLINK), profile)
    assert fitted.bounds_bytes + CORE_BYTES <= profile.memory_max
    assert fitted.share > 0.3


def test_each_uplink_wants_memory_of_its_own() -> None:
    """A request under way for each: what is left for all else is as much less."""
    profile = load("pi-zero-2w")
    one, three = (fit(config_of(SERVER, *[UPLINK] * count), profile) for count in (1, 3))
    assert three.share < one.share
    assert three.bounds_bytes + CORE_BYTES <= profile.memory_max


def test_what_is_watched_of_programs_wants_memory_too() -> None:
    """Where programs send and something is watched, both."""
    profile = load("pi-zero-2w")
    programs, watcher = '[[sources]]\ntype = "otlp"\nname = "p"\n', '[[detectors]]\ntype = "zscore"\n'
    sent, both = fit(config_of(programs, UPLINK), profile), fit(config_of(programs, UPLINK, watcher), profile)
    assert both.bounds_bytes == sent.bounds_bytes + int(profile.series_bytes) // WATCHED_SHARE
    assert fit(config_of(SERVER, UPLINK, watcher), profile).share == fit(config_of(SERVER, UPLINK), profile).share


def test_on_a_small_board_all_bounds_are_held_to_one_share() -> None:
    """And people are told, with what would help where floors are reached."""
    profile = load("pi-zero-2w")
    config = config_of(SERVER, BROKER, UPLINK)
    fitted = fit(config, profile)
    store, (server, broker) = fitted.config.store, fitted.config.sources
    share = fitted.share
    assert 0 < share < 1
    assert store.pending_bytes == int(min(config.store.pending_bytes, profile.pending_bytes) * share)
    assert store.recent_bytes == int(config.store.recent_bytes * share)
    assert server.in_flight_bytes_total == int(config.sources[0].in_flight_bytes_total * share)
    assert broker.buffer_max == int(config.sources[1].buffer_max * share)
    (note,) = fitted.notes(profile)
    assert f"held to {share:.0%}" in note
    assert "64MiB of pi-zero-2w" in note


def test_a_request_of_a_program_always_fits() -> None:
    """However small the board: what one may have is not scaled, only how many there may be at once."""
    receiver = '[[sources]]\ntype = "otlp"\nname = "o{n}"\nhttp = "127.0.0.1:{port}"\n'
    fitted = fit(config_of(SERVER, BROKER, LINE, receiver, receiver, UPLINK), load("pi-zero-2w"))
    source = fitted.config.sources[3]
    assert fitted.share < 0.5
    assert source.in_flight_bytes_total == source.request_bytes_max == 4 * MIB


def test_what_tls_connections_would_take_is_said() -> None:
    """Where it is much for the board: there must be as many clients before it is taken, so nothing is scaled."""
    tls = SERVER + 'tls = {{ cert_file = "c", key_file = "k" }}\n'
    otlp = tls.replace("mqtt_server", "otlp").replace("listen =", "http =")
    zero, large = load("pi-zero-2w"), load("x86-64")
    many = "connections_max = 1000\n"
    for board, part, notes in (
        (
            zero,
            tls + many,
            ["memory: 1000 TLS connections to s0 would take 58MiB beside that, of the 64MiB of pi-zero-2w; "],
        ),
        (zero, tls + "connections_max = 200\n", []),
        (zero, otlp + "connections_max = 200\n", []),
        (
            zero,
            otlp + 'grpc = "127.0.0.1:4317"\nconnections_max = 200\n',
            ["memory: 400 TLS connections to s0 would take 23MiB beside that, of the 64MiB of pi-zero-2w; "],
        ),
        (zero, tls, []),
        (zero, SERVER, []),
        (large, tls, []),
    ):
        said = fit(config_of(part), board).notes(board)
        assert [note.partition("connections_max")[0] for note in said if "TLS" in note] == notes


def test_tls_connections_are_as_many_as_fit() -> None:
    """Where nobody says how many: a quarter of the memory holds them all, of several servers too."""
    tls = SERVER + 'tls = {{ cert_file = "c", key_file = "k" }}\n'

    def bounds(board: str, *parts: str) -> list[int | None]:
        return [getattr(s, "connections_max", None) for s in fit(config_of(*parts), load(board)).config.sources]

    assert bounds("pi-zero-2w", tls) == [273]
    assert bounds("pi-zero-2w", tls, SERVER, tls + "connections_max = 1000\n", BROKER, tls) == [
        136,
        None,
        1000,
        None,
        136,
    ]
    assert bounds("x86-64", tls) == [1000]
    tiny = msgspec.structs.replace(load("pi-zero-2w"), memory_max=Size(1000))
    assert fit(config_of(tls), tiny).config.sources[0].connections_max == 1


def test_floors_hold_where_nothing_fits() -> None:
    """Forty sources on a small board: each can still take its largest packet, and the sum is said."""
    profile = load("pi-zero-2w")
    config = config_of(*[SERVER] * 40, *[BROKER] * 40, *[LINE] * 40)
    fitted = fit(config, profile)
    for source in fitted.config.sources:
        held = getattr(source, "in_flight_bytes_total", 0) or getattr(source, "buffer_max", 0) or source.pending_max
        assert held >= max(SOURCE_BOUND_MIN, getattr(source, "packet_bytes_max", 0))
    assert any("fewer sources" in note for note in fitted.notes(profile))


def test_a_bound_below_its_floor_stays_as_it_is() -> None:
    """Nothing is scaled up."""
    config = config_of(BROKER, *[SERVER] * 9, store='pending_bytes = "100KiB"\nrecent_bytes = "1KiB"')
    fitted = fit(config, load("pi-zero-2w"))
    assert fitted.share < 1
    assert (fitted.config.store.pending_bytes, fitted.config.store.recent_bytes) == (100 << 10, 1 << 10)


def test_series_take_their_part() -> None:
    """A hundred thousand of them leave a small board nothing for buffers."""
    profile = load("pi-4")
    few = fit(config_of(SERVER, BROKER), profile)
    many = parse_config(SERVER.format(n=0, port=2000) + '[gateway]\nseries_bytes = "45MiB"\n', offline=True)
    assert fit(many, profile).share < few.share


def test_more_memory_is_never_less() -> None:
    """Each bound grows with memory_max until it is what was asked for."""
    config = config_of(SERVER, BROKER, LINE, UPLINK)
    base = load("pi-zero-2w")
    shares = [fit(config, msgspec.structs.replace(base, memory_max=Size(mib * MIB))).share for mib in range(48, 128, 8)]
    assert shares == sorted(shares)
    assert shares[-1] == 1
