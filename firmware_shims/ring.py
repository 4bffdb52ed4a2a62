"""A bounded ring of records of one size, in one bytearray that is made once. When it is full the oldest goes, counted.

`push` and `free` allocate nothing, so a sample can be taken when the heap is full or locked.
"""


class Ring:
    """Write a record at `buffer[free():]`, then `push` it; read the k-th oldest at `buffer[offset(k):]`."""

    def __init__(self, record_bytes, records):
        if record_bytes < 1 or records < 1:
            raise ValueError("a ring has room for at least one record of at least one byte")
        self.record_bytes = record_bytes
        self.records = records
        self.count = 0
        self.dropped = 0  # records that were let go unread, since the start
        # One more than fits: the record being written never overwrites one that may still be read.
        self.buffer = bytearray(record_bytes * (records + 1))
        self._first = 0

    def free(self):
        """Return where the next record is to be written."""
        return self.offset(self.count)

    def push(self):
        """Count in what was written at `free()`; let the oldest go if there are too many."""
        if self.count < self.records:
            self.count += 1
        else:
            self.dropped += 1
            self._first = (self._first + 1) % (self.records + 1)

    def offset(self, k):
        """Return where the k-th oldest record begins."""
        return (self._first + k) % (self.records + 1) * self.record_bytes

    def pop(self, count):
        """Let the `count` oldest records go; they were read."""
        if count > self.count:
            raise ValueError("the ring does not hold that many")
        self._first = (self._first + count) % (self.records + 1)
        self.count -= count
