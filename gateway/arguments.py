"""What each command takes on the command line. Must not run any, nor import what they need."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import argparse

CONFIG_DEFAULT: Final = "/etc/tidegate/tidegate.toml"
LOG_LEVELS: Final = ("debug", "info", "warning", "error")
URL_DEFAULT: Final = "http://127.0.0.1:8181"


def add_config(command: argparse.ArgumentParser) -> None:
    """Add the configuration's file."""
    command.add_argument(
        "-c", "--config", type=Path, default=Path(CONFIG_DEFAULT), metavar="FILE", help=f"default {CONFIG_DEFAULT}"
    )


def add_shelf(command: argparse._ActionsContainer) -> None:
    """Add where a shelf is: its directory, or the configuration that says so; None is what was not typed."""
    command.add_argument("--state-dir", type=Path, metavar="DIR", help="[gateway] state_dir of the configuration")
    command.add_argument(
        "-c",
        "--config",
        type=Path,
        metavar="FILE",
        help=f"its [gateway] state_dir says where (default {CONFIG_DEFAULT})",
    )


def add_demo(command: argparse.ArgumentParser) -> None:
    """Add what `tidegate demo` takes."""
    command.add_argument("--seconds", type=float, default=40, metavar="N", help="how long it takes (default 40)")
    command.add_argument("--keep", action="store_true", help="leave it running and print where to look")


def add_init(command: argparse.ArgumentParser) -> None:
    """Add what `tidegate init` takes."""
    command.add_argument("--out", type=Path, default=Path("tidegate.toml"), metavar="FILE")
    command.add_argument("--endpoint", metavar="URL", help="OTLP/HTTP endpoint, like https://otel.example:4318")
    command.add_argument("--broker", metavar="URL", help="MQTT broker to subscribe to, like mqtt://127.0.0.1:1883")
    command.add_argument("--topics", metavar="FILTER,…", help='what to subscribe to there (default "#")')
    command.add_argument("--serial", metavar="PORT", help="serial line, like /dev/serial/by-id/usb-…")
    command.add_argument("--state-dir", metavar="DIR", help="where data is kept (default /var/lib/tidegate)")
    command.add_argument("--full", action="store_true", help="every setting there is, as comments")
    command.add_argument("--yes", action="store_true", help="ask nothing")


def add_run(command: argparse.ArgumentParser) -> None:
    """Add what `tidegate run` takes."""
    add_config(command)
    command.add_argument("--log-level", choices=LOG_LEVELS, default=None)


def add_explain(command: argparse.ArgumentParser) -> None:
    """Add what `tidegate explain` takes."""
    add_config(command)
    command.add_argument("--topic", help="the message's topic")
    command.add_argument("--payload", metavar="TEXT", help="the payload as text")
    command.add_argument("--port", metavar="NAME", help="a serial source's name, instead of --topic")
    command.add_argument("--hex", metavar="HEX", help="the payload (with --port: the bytes on the line) as hex")
    command.add_argument("--source", metavar="NAME", help="with --topic: as if it came from this source")
    command.add_argument("--quarantined", type=int, metavar="N", help="instead: payload N of `tidegate quarantine`")


def add_status(command: argparse.ArgumentParser) -> None:
    """Add what `tidegate status` takes."""
    _add_window(command)
    command.add_argument("--json", action="store_true", help="all of it, for programs")


def _add_window(command: argparse.ArgumentParser) -> None:
    command.add_argument("-c", "--config", type=Path, default=None, metavar="FILE", help="its [control] says where")
    command.add_argument("--url", type=_address, help=f"where the gateway's [control] listens (default {URL_DEFAULT})")


def _address(text: str) -> str:
    from argparse import ArgumentTypeError  # noqa: PLC0415  the daemon does without

    from gateway.control.asking import is_address  # noqa: PLC0415  only where a gateway is asked

    if not is_address(text):
        raise ArgumentTypeError(f"{text!r} is not http://HOST:PORT")
    return text


def add_trace(command: argparse.ArgumentParser) -> None:
    """Add what `tidegate trace` takes."""
    _add_window(command)
    command.add_argument(
        "--topic", required=True, metavar="FILTER", help='an MQTT filter, like "plant/+/climate" or "#"'
    )
    command.add_argument("--count", type=int, default=10, metavar="N", help="messages, up to 100 (default 10)")
    command.add_argument("--seconds", type=float, default=30, metavar="N", help="how long, up to 600 (default 30)")


def add_quarantine(command: argparse.ArgumentParser) -> None:
    """Add what `tidegate quarantine` takes."""
    add_shelf(command.add_mutually_exclusive_group())
    command.add_argument("--refused", action="store_true", help="what an uplink refused for good")
    command.add_argument("--limit", type=int, default=20, metavar="N", help="how many, the newest first (default 20)")
    command.add_argument("--json", action="store_true", help="for programs; whole payloads")


def add_verify(command: argparse.ArgumentParser) -> None:
    """Add what `tidegate verify` takes."""
    add_shelf(command.add_mutually_exclusive_group())
    command.add_argument("--json", action="store_true", help="for programs")


def add_export(command: argparse.ArgumentParser) -> None:
    """Add what `tidegate export` takes."""
    # Both together are for a shelf that was left behind when state_dir was changed.
    add_shelf(command)
    command.add_argument("--out", type=Path, required=True, metavar="FILE")
    command.add_argument(
        "--gateway-id", default="", metavar="ID", help="tidegate.gateway.id, if not the configuration's"
    )


def add_size(command: argparse.ArgumentParser) -> None:
    """Add what `tidegate size` takes."""
    command.add_argument("--rate", required=True, help='readings, like "200/s"')
    command.add_argument("--outage", required=True, help='how long the link may be away, like "7d"')
    command.add_argument(
        "-c", "--config", type=Path, default=None, metavar="FILE", help="whose store, budgets and links are meant"
    )
    command.add_argument("--disk", default="", help="[store] max_bytes (default 512MiB, or the configuration's)")
    command.add_argument("--link", default="", help='like "64kbit/s" or an allowance like "20MiB/d"')
    command.add_argument("--commit-interval", default="", help="[store] commit_interval (default 1s, or as above)")


def add_bench(command: argparse.ArgumentParser) -> None:
    """Add what `tidegate bench` takes."""
    command.add_argument("--json", action="store_true", help="for programs")
    command.add_argument("--only", metavar="NAME,…", help="some of it; `--only list` names them")
    command.add_argument("--quick", action="store_true", help="a small sample of everything")
