"""What every test may use: the rigs of hil/ as fixtures. A room's fixtures live in its own conftest."""

pytest_plugins = ["hil.fixtures"]
