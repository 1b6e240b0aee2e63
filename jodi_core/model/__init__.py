"""The transformer, and how it is loaded and called."""
