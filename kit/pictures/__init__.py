"""Pictures: files, fitting and the way back, sizes, palettes, contact sheets."""
