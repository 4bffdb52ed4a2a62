-- The shelf. Where page size, column order and row ids come from is told in store/connection.py and store/records.py.

-- A row is a segment, but for the last one, which is the state: counters, hash chain, uplinks (store/accounts.py).
-- The state is here and not in a table of its own because the newest segment's page is written anyway.
CREATE TABLE shelf (
  id INTEGER PRIMARY KEY,      -- priority and signal over sequence (store/records.py)
  done INTEGER NOT NULL,       -- a bit for each uplink that needs it no more
  readings INTEGER NOT NULL,
  boot INTEGER NOT NULL,       -- in which boot it was committed
  stored_ns INTEGER NOT NULL,  -- when: that boot's monotonic clock
  first_ns INTEGER NOT NULL,   -- Unix ns of its first and last reading as known then, 0: not known
  last_ns INTEGER NOT NULL,
  body BLOB NOT NULL           -- store/segments.py; last, so that reading the columns above never reads it
);

-- Twice, on different pages: a segment whose series are lost says nothing. The body carries its own checksum. Pages lie
-- side by side, and one bad block of the disk may hold both: the third copy is in a file apart (store/names.py).
CREATE TABLE series (number INTEGER PRIMARY KEY, body BLOB NOT NULL);
CREATE TABLE series_copy (number INTEGER PRIMARY KEY, body BLOB NOT NULL);

CREATE TABLE ledger (
  id INTEGER PRIMARY KEY,
  uplink TEXT NOT NULL,
  reason TEXT NOT NULL,
  readings INTEGER NOT NULL,
  first_ns INTEGER NOT NULL,   -- Unix ns of the first and last reading lost, 0: not known
  last_ns INTEGER NOT NULL,
  since_ns INTEGER NOT NULL,   -- Unix ns of the first and last time that it happened, 0: no clock then
  until_ns INTEGER NOT NULL
);

CREATE TABLE boots (number INTEGER PRIMARY KEY, uuid TEXT NOT NULL, body BLOB NOT NULL);

CREATE TABLE quarantine (
  id INTEGER PRIMARY KEY,
  at_ns INTEGER NOT NULL,
  source TEXT NOT NULL,
  reason TEXT NOT NULL,
  message TEXT NOT NULL,
  topic BLOB NOT NULL,
  payload BLOB NOT NULL
);

CREATE TABLE refused (
  id INTEGER PRIMARY KEY,
  at_ns INTEGER NOT NULL,
  uplink TEXT NOT NULL,
  reason TEXT NOT NULL,
  message TEXT NOT NULL,
  readings INTEGER NOT NULL,
  body BLOB NOT NULL
);
