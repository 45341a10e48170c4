"""Training and test data: file formats, known data sets, splits, and the bundle that a run uses.

schema    the canonical example that every other module reads
formats   the generic input formats, converted to canonical examples
corpora   one module for each known data set: MedMCQA, PubMedQA, MedQuAD
readers   JSONL, JSON, CSV, Parquet, the Hub and lists of dicts
tables    canonical examples as a Dataset, read in batches
splits    train, validation and test parts without leaks between them
bundle    DataBundle: everything that one run trains on and is evaluated on
samples   the bundled samples
sources   the user's sources as a DataBundle
"""
