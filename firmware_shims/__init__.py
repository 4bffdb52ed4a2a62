"""Tidegate's device side for MicroPython: samples in a ring, CBOR batches in frames, kept until acknowledged.

Imports nothing from the gateway. The same files run under CPython, where they are tested against it.
"""
