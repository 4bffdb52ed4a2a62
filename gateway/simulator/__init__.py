"""A plant on this desk: fake devices that knock on the real doors, and a collector that can go away."""
