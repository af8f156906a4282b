"""Robot bodies: names, units, limits, cameras and how each is built from primitives."""
