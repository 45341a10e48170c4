"""The model card of an adapter or of merged weights: the README.md that the Hugging Face Hub shows."""

import re
from pathlib import Path, PurePath

from huggingface_hub import ModelCard, ModelCardData

from icft_lite.reporting.formatting import escape_markdown, format_cell, to_markdown
from icft_lite.reporting.labels import method_label
from icft_lite.reporting.tables import Report, report_tables
from icft_lite.utils.io import to_plain
from icft_lite.utils.notice import NOTICE

TEMPLATE = """---
{{ card_data }}
---

# {{ "Fine-tuned weights of" if merged else "LoRA adapter for" }} {{ base_name }}, method {{ method }}

Trained with icft-lite: Incremental Curriculum-Based Fine-Tuning, an interpretation of arXiv 2502.00832.

**Intended use: teaching and research ({{ notice }}).** No clinician has reviewed the model. Never use it to diagnose
or treat anyone: its answers may be wrong, dangerous or out of date.

License: {{ license_text }}
{% if base_hash and merged %}
Base: {{ base_text }}, hash `{{ base_hash }}`. A LoRA adapter is merged into its weights.
{% elif base_hash %}
Base: icft-lite uses this adapter only with the base whose hash is `{{ base_hash }}`.
{% endif %}
```python
{% if merged -%}
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("path/to/this/folder")
tokenizer = AutoTokenizer.from_pretrained("path/to/this/folder")
{% else -%}
from peft import PeftModel

model = PeftModel.from_pretrained(base, "path/to/this/folder")  # base: {{ base_text }}
{% endif -%}
```
{% for table in tables %}
{{ table }}
{% endfor %}"""
"""Jinja2 template. Values are inserted without escaping; `base_text` is inside a code block."""


OURS = {
    "tiny": "the base embedded in icft-lite",
    "smollm2": "icft_lite.load_base('smollm2')[0], which is SmolLM2-135M-Instruct with its Q4_1 weights in fp32",
}
"""Bases with a name of their own, both under the Apache License 2.0."""


def model_card(report: Report, merged: bool = False) -> str:
    """Return the README.md of an adapter's folder, with the Hub's front matter. Contains no path of this machine.

    merged: the folder has whole weights with the adapter merged in.
    """
    report = to_plain(report)
    base = str(report.get("base") or "tiny")
    on_hub = bool(re.fullmatch(r"[\w.-]+/[\w.-]+", base)) and not Path(base).exists()
    base_name = format_cell(base if on_hub else PurePath(base).name)
    data = ModelCardData(
        base_model=base if on_hub else None,
        library_name="transformers" if merged else "peft",
        license="apache-2.0" if base in OURS else "other",
        language="en",
        pipeline_tag="text-generation",
        tags=["icft", "lora", "medical", "continual-learning", "education"],
    )
    card = ModelCard.from_template(
        data,
        template_str=TEMPLATE,
        merged=merged,
        base_name=escape_markdown(base_name),
        base_text=OURS.get(base, base_name),
        base_hash=report.get("base_hash"),
        method=escape_markdown(method_label(format_cell(report.get("method")), report)),
        notice=NOTICE,
        license_text="Apache-2.0." if base in OURS else "that of the base model, and of the data it was trained on.",
        tables=[
            to_markdown(table)
            for table in report_tables(report)
            if table.title in ("Scores", "Retention", "Accuracy matrix")
        ],
    )
    return str(card).rstrip("\n") + "\n"
