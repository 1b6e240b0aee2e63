"""Weight files: what they are, what is wrong with them, reading, writing, loading."""
