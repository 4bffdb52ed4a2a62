"""A client: a gateway inside a Python program, so that what the program measures is stored first and forwarded then.

`from gateway import Client` is the way in. The shelf and the uplinks are those of `tidegate run`, in a thread of their
own; the program is one source of that gateway. Must not know a protocol or a file format: that is for the rooms below.
"""

from __future__ import annotations

from gateway.client.client import Client
from gateway.client.errors import ClientError
from gateway.client.records import SpanIds
from gateway.core.contracts import FullError

__all__ = ["Client", "ClientError", "FullError", "SpanIds"]
