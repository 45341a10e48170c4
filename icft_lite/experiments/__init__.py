"""Experiments: comparisons of methods over seeds, the study of lesson 09, blind votes."""
