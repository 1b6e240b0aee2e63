"""The nodes of D-DiT. Thin: the work is done in `host` and `ddit_core`."""
