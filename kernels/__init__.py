"""Hot operations: a plain torch reference each, and a seam that chooses who answers a call."""
