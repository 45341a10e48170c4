"""A whole run of the method in seconds, to be stopped and killed. As a script: `small_run.py OUT` does one, and
`small_run.py train …` is `icft-lite train …` with so few samples."""

import dataclasses
import os
import sys

SETTINGS = dict(
    max_steps=18,
    rows=8,
    lora_rank=2,
    lora_alpha=4,
    self_prompts=8,
    memory_size=40,
    memory_share=0.4,
    ring_share=0.3,
    promote_after=1,
    last_stage=0.4,
    ema_decay=0.5,
    save_every=1,
)
FEW = dict(trusted=2, pool=2, validation=1, test=1, general_memory=1, general_validation=1, general_test=1)


def cut(bundle, **few):
    """A bundle with so many rows of every topic in each part."""
    parts = {}
    for name, most in few.items():
        rows, seen, keep = getattr(bundle, name), {}, []
        for i, topic in enumerate(rows["topic"][:]):
            seen[topic] = seen.get(topic, 0) + 1
            keep += [i] if seen[topic] <= most else []
        parts[name] = rows.select(keep)
    return dataclasses.replace(bundle, **parts)


def small_bundle():
    """The samples, a row or two of every topic; nothing to generate, which takes the longest."""
    from icft_lite.data.samples import sample_bundle

    bundle = cut(sample_bundle(), **FEW)
    return dataclasses.replace(bundle, test=bundle.test.filter(lambda task: task == "question", input_columns="task"))


if __name__ == "__main__":
    os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", TOKENIZERS_PARALLELISM="false", MPLBACKEND="Agg")
    from icft_lite import cli
    from icft_lite.data import sources
    from icft_lite.training.run import train_icft

    bundle = small_bundle()
    if sys.argv[1] == "train":
        sources.sample_bundle = lambda: bundle
        sys.exit(cli.main())
    print("ready", flush=True)
    train_icft(SETTINGS, sys.argv[1], bundle, progress=False)
