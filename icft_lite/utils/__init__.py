"""Utilities without knowledge of the method: files, locks, processes and hardware."""
