"""Figures of the lessons' results, one file each."""
