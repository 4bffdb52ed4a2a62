"""The shelf: what was accepted is kept here, in SQLite, until every uplink has it."""
