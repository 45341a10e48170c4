"""What every view of a model's replies shows beside them: terminal chat, notebook panels, and tables of a run."""

NOTICE = "teaching model, often wrong, not medical advice"
