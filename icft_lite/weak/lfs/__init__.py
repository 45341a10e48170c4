"""Labelling functions for particular data: `samples` for the bundled medical pool, `pubmedqa` for PubMedQA.

Labelling functions belong to the data that they were written for. A run applies these two sets to their own data only.
For any other pool the user gives a file, see `icft_lite.weak.files`. `common` has a function that any file may import.
"""
