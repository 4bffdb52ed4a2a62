"""Roads: what is held leaves here, fresh first, and is let go only when the far side has it."""
