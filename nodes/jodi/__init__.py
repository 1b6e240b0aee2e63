"""The Jodi nodes, thin."""
