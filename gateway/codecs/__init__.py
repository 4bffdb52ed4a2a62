"""Words on the wire: bytes become columns and columns bytes. Nothing here does I/O."""
