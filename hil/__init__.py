"""Rigs: resources, drivers and faults that tests and benchmarks drive. Must not be imported by `gateway`.

A *resource* is something to talk to (a serial line, a broker, a disk, an OTLP receiver), a *driver* starts
and stops it, a *fault* is what is done to it while it is in use (cut, stall, unplug, power cut). Every rig is
a context manager that leaves nothing behind, works on loopback only, and says why where it cannot work; the
fixtures of the same names are in `hil.fixtures`.
"""
