"""Training and test data: file formats, known data sets, splits, and the bundle that a run uses.

schema    the canonical example that every other module reads
files     raw rows of JSONL, JSON, CSV, Parquet, the Hub and objects in memory
rows      one raw row: its columns, and which of them are used
formats   the shapes of rows, converted to canonical examples
answers   how answers name an option, decided over a whole data set
conversations  turns of chat and preference data
corpora   data sets with a structure of their own: PubMedQA
readers   the sources of a command, read together
tables    canonical examples as a Dataset, read in batches
splits    train, validation and test parts without leaks between them
bundle    DataBundle: everything that one run trains on and is evaluated on
overlap   duplicates, and what a run has seen of a file
samples   the bundled samples
sources   the user's sources as a DataBundle
"""
