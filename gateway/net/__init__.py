"""Wires that everyone shares. Nothing here knows what travels on them."""
