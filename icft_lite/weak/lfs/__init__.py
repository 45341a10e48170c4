"""Labelling functions for particular data: `samples` for the bundled medical pool, `pubmedqa` for PubMedQA.

Labelling functions belong to the data that they were written for and are not applied to other data.
"""
