"""Label maps: ours, and other programs' conventions."""
