"""Training: one update through both branches, on rendered scenes or on folders of pictures."""
