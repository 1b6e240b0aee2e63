"""Hot operations: a plain torch reference each, and a seam that chooses an implementation per call."""
