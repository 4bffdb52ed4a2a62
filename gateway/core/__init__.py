"""Ground: the words that every room speaks. Nothing here does I/O or knows a protocol."""
