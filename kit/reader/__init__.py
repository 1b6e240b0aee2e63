"""A small independent network that reads what a picture of a scene shows."""
