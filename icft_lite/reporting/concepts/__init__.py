"""Diagrams of the lessons, one file each."""
