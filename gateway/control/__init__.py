"""Windows: people and servers look in here. Nothing on the data path waits for it."""
