"""Doors: bytes arrive here and are acknowledged only when they are kept."""
