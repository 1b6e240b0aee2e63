"""What the maps are for: files, geometry, poses and masks that other programs take."""
