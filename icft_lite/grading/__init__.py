"""Grading of assignments: student code runs in a sandbox; inputs, expected values and marks stay outside it."""
