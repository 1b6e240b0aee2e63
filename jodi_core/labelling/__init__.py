"""Whole data sets of pictures and their labels, in the layout of Joint-1.6M."""
