"""How fast this implementation is: ratios to a plain baseline, measured side by side."""
