"""What can be wrong with a client itself. What is wrong with an argument is a ValueError or a TypeError."""

from __future__ import annotations


class ClientError(RuntimeError):
    """The client cannot do this: it did not start, was shut down, or belongs to another process. It says which."""
