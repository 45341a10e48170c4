"""A million examples: processor seconds, examples per second and resident memory of all steps without a model.

    python benchmarks/scale.py                     10,000, 100,000 and 1,000,000 examples, each in its own process
    python benchmarks/scale.py --examples 10000    one size
    python benchmarks/scale.py --policy surprise   one policy of the long-term memory

The steps: read a JSONL file and split it, encode it, difficulty by length and entropy, curriculum, the plan of every
stage (one pass over the new examples), and a full long-term memory to which every example is offered, for each policy.
The features that herding needs are random here, since computing them with the model is not part of the measurement.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import common

SIZES = (10_000, 100_000, 1_000_000)
LEVELS = ("easy", "medium", "hard")
WORDS = (
    "nephritis kidney swollen patient fever drug dose morning doctor asks whether pain began before the second "
    "week of treatment and which organ is meant when blood pressure falls after standing up quickly"
).split()


def write_examples(path, n):
    """Write n examples: six in ten are replies, four in ten questions with three options; 24 topics."""
    draw = random.Random(n)
    with Path(path).open("w", encoding="utf-8") as file:
        for i in range(n):
            prompt = f"{' '.join(draw.choices(WORDS, k=draw.randrange(8, 24)))}, case {i}?"
            example = dict(id=f"row-{i}", topic=f"topic {i % 24}", level=LEVELS[draw.randrange(3)])
            if i % 5 < 3:
                example |= dict(prompt=prompt, completion=" ".join(draw.choices(WORDS, k=6)))
            else:
                options = draw.sample(WORDS[:20], 3)
                example |= dict(question=prompt, choices=options, answer=options[0])
            file.write(json.dumps(example) + "\n")


def measure(path, policies):
    """Return {step: (seconds, peak resident bytes so far)}. policies: of the memory; None: all."""
    import numpy as np

    from icft_lite.config import ICFTConfig
    from icft_lite.curriculum import build_curriculum, score_difficulty
    from icft_lite.data.schema import as_response
    from icft_lite.data.splits import split_source
    from icft_lite.data.tables import column, iter_examples
    from icft_lite.memory.long_term import LongTermMemory
    from icft_lite.memory.policies import POLICIES
    from icft_lite.memory.short_term import ShortTermMemory
    from icft_lite.modeling.base import load_tokenizer
    from icft_lite.modeling.encoding import Encoder, encode_examples
    from icft_lite.training.plan import num_tokens, plan_stage
    from icft_lite.utils.hardware import peak_memory

    steps, config, encoder = {"imports": (0.0, peak_memory())}, ICFTConfig(), Encoder(load_tokenizer("tiny"))

    def timed(name, work):
        start = time.process_time()
        value = work()
        steps[name] = (time.process_time() - start, peak_memory())
        print(f"  {name:24} {steps[name][0]:9.2f} s {steps[name][1] / 2**30:7.2f} GiB", file=sys.stderr, flush=True)
        return value

    examples = timed("read and split", lambda: split_source(path, "medical")["train"])
    examples, encoded, _ = timed("encode", lambda: encode_examples(examples, encoder))
    difficulty = timed("difficulty", lambda: score_difficulty(examples, None, encoded, ("length", "entropy")))
    stages = timed("curriculum", lambda: build_curriculum(column(examples, "level"), difficulty))

    def plan():
        tokens = sum(num_tokens(one) for one in encoded) / (1 - config.long_term.share - config.short_term.share)
        topics, ring = column(examples, "topic"), config.short_term.size
        shares = [tokens * len(stage) / len(examples) for stage in stages]
        return [
            len(plan_stage(stage, encoded, topics, [], ShortTermMemory(ring), config, share)[0])
            for stage, share in zip(stages, shares, strict=True)
        ]

    timed("plan of all stages", plan)
    draw, size = np.random.default_rng(0), config.long_term.size
    for policy in policies or POLICIES:
        memory = LongTermMemory(size, policy, features=lambda many: draw.normal(size=(len(many), 64)))
        timed(
            f"memory: {policy}",
            lambda memory=memory: memory.add(
                map(as_response, iter_examples(examples)), encoder, "general", draw.random(len(examples))
            ),
        )
        assert len(memory) == min(size, len(examples))
    return dict(examples=len(examples), parts={name: dict(seconds=s, peak_bytes=b) for name, (s, b) in steps.items()})


def one_size(n, policies):
    """Return `measure` of n examples in a process of its own, so that the peak is that of this size."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.jsonl"  # the file's name is part of ids
        write_examples(path, n)
        chosen = [f"--policy={policy}" for policy in policies or ()]
        out = subprocess.run(
            [sys.executable, __file__, "--measure", str(path), *chosen], stdout=subprocess.PIPE, check=True
        )
    return json.loads(out.stdout)


def main():
    parse = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parse.add_argument("--examples", type=int, action="append", help="a size; may be given several times")
    parse.add_argument("--policy", action="append", help="of the memory; may be given several times (default: all)")
    parse.add_argument("--json", help="also write the results to this file")
    parse.add_argument("--measure", help=argparse.SUPPRESS)
    args = parse.parse_args()
    if args.measure:
        print(json.dumps(measure(args.measure, args.policy)))
        return
    results = []
    for n in args.examples or SIZES:
        print(f"{n:,} examples", file=sys.stderr, flush=True)
        results.append(one_size(n, args.policy))
    print(f"{'':24}" + "".join(f"{one['examples']:>10,} examples   examples/s" for one in results))
    for name in list(results[0]["parts"])[1:]:
        found = [(one["examples"], one["parts"][name]["seconds"]) for one in results]
        print(f"{name:24}" + "".join(f"{seconds:17.2f} s {n / seconds:12,.0f}" for n, seconds in found))
    peaks = [max(part["peak_bytes"] for part in one["parts"].values()) for one in results]
    print(f"{'peak resident memory':24}" + "".join(f"{peak / 2**30:15.2f} GiB{'':13}" for peak in peaks))
    if args.json:
        Path(args.json).write_text(json.dumps(results, indent=2), encoding="utf-8")


if __name__ == "__main__":
    os.environ.update(common.QUIET)
    main()
