"""Training on procedural scenes: rendering, datasets, the role-switch loop."""
