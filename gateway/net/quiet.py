"""Keeps headers out of the log: hpack writes each of them there, tokens too, for who listens to all that there is.

A gateway whose `log_level` is "debug" does, and so may the program that has one inside. Whoever speaks HTTP/2 calls
this before anything else. Must not change what others log.
"""

from __future__ import annotations

import logging
from typing import Final

import hpack.hpack
import hpack.table

MODULES: Final = (hpack.hpack, hpack.table)


def keep_headers_out_of_logs() -> None:
    """Have hpack say what is wrong and nothing else."""
    for module in MODULES:
        module.log.setLevel(logging.WARNING)
