"""Tidegate: a store-and-forward telemetry gateway."""

__version__ = "0.1.0"
