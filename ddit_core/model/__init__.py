"""The network: sizes, layers, both heads, and loading from a weight file."""
