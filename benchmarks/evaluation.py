"""Options scored in a second: `icft_lite.modeling.scoring.score_responses` beside lm-evaluation-harness.

    python benchmarks/evaluation.py --model tiny
    python benchmarks/evaluation.py                 Qwen2.5-0.5B's shape, 4 layers, full vocabulary
    python benchmarks/evaluation.py --letters       options listed in the prompt, answered by their letter

The same model, the same questions as the same ids (so neither tokenises in the time taken), the same answers: the
table shows how far the log-likelihoods of all options are apart, and how often the chosen option is the same.
"""

import importlib.util
import logging
import random
import sys

from common import alternate, build_base, conditions, finish, median, now, parser, show, spread, start, workplace


def main():
    parse = parser(__doc__)
    parse.add_argument("--questions", type=int, help="test questions to score; default 64, tiny 512")
    parse.add_argument("--batches", default="8,32,96", help="rows a batch to try: each side is judged at its best")
    parse.add_argument("--tokens", default="512,1024,4096", help="the same for ours, which counts tokens")
    parse.add_argument("--letters", action="store_true", help="one letter an option, in place of its text")
    args = parse.parse_args()
    if not importlib.util.find_spec("lm_eval"):
        sys.exit("lm-eval is not installed: pip install -c constraints.txt -e '.[bench]'")
    start(args)
    with workplace() as folder:
        result = measure(args, build_base(args, folder))
    report(result)
    finish(args, result)


def questions(args, tokenizer):
    """Encoded test questions, medical and general, with at least two options."""
    from icft_lite.data.samples import load_samples
    from icft_lite.modeling.encoding import Encoder

    count = args.questions or (512 if args.model == "tiny" else 64)
    rows = [dict(row) for name in ("medical_test", "general_test") for row in load_samples(name)]
    rows = [row for row in rows if row["task"] == "question" and row["label"] >= 0 and len(row["responses"]) > 1]
    rows = random.Random(0).sample(rows, min(12 if args.quick else count, len(rows)))
    encode = Encoder(tokenizer, 512, letter_options=args.letters)
    return [encode(row) for row in rows], [row["label"] for row in rows]


def requests(encoded):
    """The same questions as lm-eval has them: for each option (name, ids of the prompt, ids of the option)."""
    out = []
    for number, one in enumerate(encoded):
        prompt = one.sequences[0][: one.tokens[0][1] + 1]
        for option in range(one.num_responses):
            targets = [target for _, _, target, response in one.tokens if response == option]
            out.append(((str(number), str(option)), prompt, targets))
    return out


def measure(args, base):
    """Score with both at each batch size. Returns the result."""
    import numpy as np
    from lm_eval.models.huggingface import HFLM

    from icft_lite.modeling.base import load_base
    from icft_lite.modeling.scoring import score_responses

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    model, tokenizer = load_base(base, four_bit=not args.no_4bit)
    encoded, labels = questions(args, tokenizer)
    asked = requests(encoded)
    harness = HFLM(pretrained=model, tokenizer=tokenizer, backend="causal", batch_size=1, max_length=512)
    answers = {}

    def ours(tokens):
        def score(_):
            begin = now(args.device)
            answers["ours", tokens] = [one["logp"] for one in score_responses(model, encoded, tokens)]
            return now(args.device) - begin

        return score

    def theirs(rows):
        def score(_):
            harness.batch_size_per_gpu = rows
            begin = now(args.device)
            found = harness._loglikelihood_tokens(asked, disable_tqdm=True)
            taken, flat = now(args.device) - begin, iter(found)
            answers["harness", rows] = [np.array([next(flat)[0] for _ in range(one.num_responses)]) for one in encoded]
            return taken

        return score

    sizes = {
        who: [int(size) for size in text.split(",")][: 1 if args.quick else None]
        for who, text in ((ours, args.tokens), (theirs, args.batches))
    }
    seconds = alternate({(who.__name__, size): who(size) for who in sizes for size in sizes[who]}, args.repeats)
    out = [
        dict(
            who={"ours": "ours", "theirs": "harness"}[who],
            size=size,
            seconds=median(times),
            spread=spread(times),
            options_a_second=len(asked) / median(times),
        )
        for (who, size), times in seconds.items()
    ]
    mine, other = answers["ours", sizes[ours][0]], answers["harness", sizes[theirs][0]]
    best = {who: max(one["options_a_second"] for one in out if one["who"] == who) for who in ("ours", "harness")}
    return dict(
        benchmark="evaluation",
        conditions=conditions(args),
        questions=len(encoded),
        options=len(asked),
        letters=args.letters,
        scores=out,
        ratio=best["ours"] / best["harness"],
        at_least=2.0,
        parity=dict(
            largest_difference=float(max(np.abs(a - b).max() for a, b in zip(mine, other))),
            mean_loglikelihood=float(np.mean([a.mean() for a in mine])),
            same_choice=float(np.mean([a.argmax() == b.argmax() for a, b in zip(mine, other)])),
            accuracy=float(np.mean([a.argmax() == label for a, label in zip(mine, labels)])),
        ),
    )


def report(result):
    """Print the tables."""
    show(
        f"Scoring {result['options']} options of {result['questions']} questions",
        ["who", "a batch", "s", "± %", "options/s"],
        [
            [
                one["who"],
                f"{one['size']} {'tokens' if one['who'] == 'ours' else 'rows'}",
                one["seconds"],
                100 * one["spread"],
                one["options_a_second"],
            ]
            for one in result["scores"]
        ],
        [
            "ours: a question's options behind one copy of its prompt; logits of the options' tokens only",
            "harness: each option a row with its prompt; logits and their softmax of every position",
        ],
    )
    show("Do they do the same work?", ["what", "value"], list(result["parity"].items()))
    show(
        "Target",
        ["what", "value", "at least", "met"],
        [
            [
                "options/s at its best batch, ours ÷ harness",
                result["ratio"],
                result["at_least"],
                "yes" if result["ratio"] >= result["at_least"] else "NO",
            ]
        ],
    )


if __name__ == "__main__":
    main()
