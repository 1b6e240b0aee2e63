"""The `jodi` command."""
