"""python -m gateway: the same as the command `tidegate`.

The process begins here: must not load anything before SIGHUP is no longer a daemon's end.
"""

import sys

from gateway.hangups import hear_hangups, ignore_hangups


def main() -> int:
    """Run the command that was typed; return its exit code."""
    is_daemon = sys.argv[1:2] == ["run"]
    if is_daemon:
        hear_hangups()
        from gateway.net.imports import load_lean  # noqa: PLC0415  before whatever it is about

        load_lean()
    from gateway import cli  # noqa: PLC0415  a tenth of a second

    try:
        return cli.main()
    finally:
        if is_daemon:
            ignore_hangups()


if __name__ == "__main__":
    sys.exit(main())
