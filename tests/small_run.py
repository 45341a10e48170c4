"""A whole run of the method in seconds, which tests interrupt and kill.

As a script: `small_run.py OUT` trains one, and `small_run.py train …` is `icft-lite train …` with few samples."""

import dataclasses
import os
import sys

SETTINGS = {
    "optim.max_steps": 18,
    "optim.batch_size": 8,
    "adapter.rank": 2,
    "adapter.alpha": 4,
    "long_term.self_prompts": 8,
    "long_term.size": 40,
    "long_term.share": 0.4,
    "short_term.share": 0.3,
    "short_term.promote_after": 1,
    "curriculum.last_stage_share": 0.4,
    "long_term.ema_decay": 0.5,
    "runtime.save_steps": 1,
}
FEW = dict(trusted=2, pool=2, validation=1, test=1, general_memory=1, general_validation=1, general_test=1)


def cut(bundle, **few):
    """Return a bundle with at most so many examples of every topic: `few` is {role: number}."""
    roles = {}
    for name, number in few.items():
        examples, seen, chosen = getattr(bundle, name), {}, []
        for i, topic in enumerate(examples["topic"][:]):
            seen[topic] = seen.get(topic, 0) + 1
            chosen += [i] if seen[topic] <= number else []
        roles[name] = examples.select(chosen)
    return dataclasses.replace(bundle, **roles)


def small_bundle():
    """Return one or two samples of every topic. Test replies are left out: generating them takes the longest."""
    from icft_lite.data.samples import sample_bundle

    bundle = cut(sample_bundle(), **FEW)
    return dataclasses.replace(bundle, test=bundle.test.filter(lambda task: task == "question", input_columns="task"))


if __name__ == "__main__":
    os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", TOKENIZERS_PARALLELISM="false", MPLBACKEND="Agg")
    from icft_lite import cli
    from icft_lite.data import sources
    from icft_lite.training.loop import train_icft

    bundle = small_bundle()
    if sys.argv[1] == "train":
        sources.sample_bundle = lambda: bundle
        sys.exit(cli.main())
    print("ready", flush=True)
    train_icft(SETTINGS, sys.argv[1], bundle, progress=False)
