"""Sensitivity to the train/test split: ICFT compared with plain QLoRA on new random splits of the samples.

    python benchmarks/resplit.py --split 1 --out runs/split-1             the settings of the demo
    python benchmarks/resplit.py --split 1 --out runs/split-1-full --full

Settings were tuned on the default split, tests included. A new split holds out other terms, drugs, patients, pairs of
replies and templates, on which nothing was chosen. Each root, stem and topic has as many examples for training, for the
pool and for the tests as before. General examples stay as they are, because the base was trained on them.
"""

import argparse
import os
from pathlib import Path


def main():
    parse = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parse.add_argument("--split", type=int, required=True, help="number of the split: 1, 2, …")
    parse.add_argument("--out", required=True, help="folder for the runs")
    parse.add_argument("--full", action="store_true", help="the settings of make demo FULL=1")
    parse.add_argument("--seeds", type=int, default=1)
    args = parse.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # two splits can run at a time on two cores
    from icft_lite.experiments.compare import compare
    from icft_lite.experiments.resplit import resplit
    from icft_lite.experiments.settings import DEMO, DEMO_QLORA, FULL
    from icft_lite.reporting.render import print_table

    settings, own = (FULL, {}) if args.full else (DEMO, {"qlora": DEMO_QLORA})
    data, seeds = resplit(args.split), range(args.seeds)
    print_table(compare(Path(args.out), ["icft", "qlora"], seeds, settings, data, method_settings=own))


if __name__ == "__main__":
    main()
