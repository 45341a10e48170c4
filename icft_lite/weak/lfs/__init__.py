"""Labelling functions for particular data: `samples` for the bundled medical pool, `pubmedqa` for PubMedQA.

Labelling functions belong to the data that they were written for. A run applies `samples` to other pools too, where the
votes are close to guesses: give your own labels as `DataBundle.posteriors` (docs/data.md).
"""
