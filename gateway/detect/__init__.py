"""Watchers: columns in, scores out. Nothing here does I/O or knows what a score is used for."""
