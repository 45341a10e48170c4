"""The report of a run: build it, and show it as tables, figures and a model card."""
