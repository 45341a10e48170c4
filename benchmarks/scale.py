"""A million examples: CPU seconds, rows a second and resident memory of all that is done before a model is asked.

    python benchmarks/scale.py                   10,000, 100,000 and 1,000,000 rows, each in its own process
    python benchmarks/scale.py --rows 10000      one size
    python benchmarks/scale.py --policy surprise one policy of the memory

Read a JSONL file, split it, encode it, difficulty by length and entropy, curriculum, the plan of every stage (one pass
over the new rows), and a full long-term memory offered every row under each policy. Herding's features are random
here: they come from the model, and asking it is not what is timed.
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
LEVELS = ("easy", "middle", "hard")
WORDS = (
    "nephritis kidney swollen patient fever drug dose morning doctor asks whether pain began before the second "
    "week of treatment and which organ is meant when blood pressure falls after standing up quickly"
).split()


def write_rows(path, n):
    """n rows: six in ten replies, four in ten questions of three options; 24 topics."""
    draw = random.Random(n)
    with open(path, "w", encoding="utf-8") as file:
        for i in range(n):
            prompt = f"{' '.join(draw.choices(WORDS, k=draw.randrange(8, 24)))}, case {i}?"
            row = dict(id=f"row-{i}", topic=f"topic {i % 24}", level=LEVELS[draw.randrange(3)])
            if i % 5 < 3:
                row |= dict(prompt=prompt, completion=" ".join(draw.choices(WORDS, k=6)))
            else:
                options = draw.sample(WORDS[:20], 3)
                row |= dict(question=prompt, choices=options, answer=options[0])
            file.write(json.dumps(row) + "\n")


def measure(path, policies):
    """{part: seconds}, and the most resident bytes of this process after each. policies: of the memory; None: all."""
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

    parts, config, encoder = {"imports": (0.0, peak_memory())}, ICFTConfig(), Encoder(load_tokenizer("tiny"))

    def timed(name, work):
        start = time.process_time()
        value = work()
        parts[name] = (time.process_time() - start, peak_memory())
        print(f"  {name:24} {parts[name][0]:9.2f} s {parts[name][1] / 2**30:7.2f} GiB", file=sys.stderr, flush=True)
        return value

    rows = timed("read and split", lambda: split_source(path, "medical")["train"])
    rows, encoded, _ = timed("encode", lambda: encode_examples(rows, encoder))
    difficulty = timed("difficulty", lambda: score_difficulty(rows, None, encoded, ("length", "entropy")))
    stages = timed("curriculum", lambda: build_curriculum(column(rows, "level"), difficulty))

    def plan():
        tokens = sum(num_tokens(one) for one in encoded) / (1 - config.memory_share - config.ring_share)
        topics = column(rows, "topic")
        return [
            len(
                plan_stage(
                    stage,
                    encoded,
                    topics,
                    [],
                    ShortTermMemory(config.ring_size),
                    config,
                    tokens * len(stage) / len(rows),
                )[0]
            )
            for stage in stages
        ]

    timed("plan of all stages", plan)
    draw = np.random.default_rng(0)
    for policy in policies or POLICIES:
        memory = LongTermMemory(config.memory_size, policy, features=lambda many: draw.normal(size=(len(many), 64)))
        timed(
            f"memory: {policy}",
            lambda: memory.add(map(as_response, iter_examples(rows)), encoder, "general", draw.random(len(rows))),
        )
        assert len(memory) == min(config.memory_size, len(rows))
    return dict(rows=len(rows), parts={name: dict(seconds=s, peak_bytes=b) for name, (s, b) in parts.items()})


def one_size(n, policies):
    """`measure` in a process of its own, whose peak is this size's."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.jsonl"
        write_rows(path, n)
        chosen = [f"--policy={policy}" for policy in policies or ()]
        out = subprocess.run(
            [sys.executable, __file__, "--measure", str(path), *chosen], stdout=subprocess.PIPE, check=True
        )
    return json.loads(out.stdout)


def main():
    parse = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parse.add_argument("--rows", type=int, action="append", help="a size; several are possible")
    parse.add_argument("--policy", action="append", help="of the memory; several are possible (default: all)")
    parse.add_argument("--json", help="write the results here too")
    parse.add_argument("--measure", help=argparse.SUPPRESS)
    args = parse.parse_args()
    if args.measure:
        print(json.dumps(measure(args.measure, args.policy)))
        return
    results = []
    for n in args.rows or SIZES:
        print(f"{n:,} rows", file=sys.stderr, flush=True)
        results.append(one_size(n, args.policy))
    print(f"{'':24}" + "".join(f"{one['rows']:>14,} rows       rows/s" for one in results))
    for name in list(results[0]["parts"])[1:]:
        found = [(one["rows"], one["parts"][name]["seconds"]) for one in results]
        print(f"{name:24}" + "".join(f"{seconds:17.2f} s {n / seconds:12,.0f}" for n, seconds in found))
    peaks = [max(part["peak_bytes"] for part in one["parts"].values()) for one in results]
    print(f"{'peak resident memory':24}" + "".join(f"{peak / 2**30:15.2f} GiB{'':13}" for peak in peaks))
    if args.json:
        Path(args.json).write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    os.environ.update(common.QUIET)
    main()
