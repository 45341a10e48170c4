"""Options scored per second: `icft_lite.modeling.scoring.score_responses` and lm-evaluation-harness.

    python benchmarks/evaluation.py --model tiny
    python benchmarks/evaluation.py                 Qwen2.5-0.5B's shape, 4 layers, full vocabulary
    python benchmarks/evaluation.py --letters       options listed in the prompt, answered by their letter
    python benchmarks/evaluation.py --model smollm2 --no-4bit --suite arc_easy=FILE --questions 200

Both score the same token ids with the same model, so tokenization is not part of the time. The table shows the largest
difference between the log-likelihoods of the options, and how often both choose the same option.
"""

import importlib.util
import logging
import random
import sys

from common import alternate, build_base, conditions, finish, median, now, parser, show, spread, start, temporary_folder


def main():
    parse = parser(__doc__)
    parse.add_argument("--questions", type=int, help="number of test questions; default 64, for tiny 512")
    parse.add_argument("--batches", default="8,32,96", help="batch sizes of the harness; the fastest counts")
    parse.add_argument("--tokens", default="512,1024,4096", help="tokens per batch of icft-lite; the fastest counts")
    parse.add_argument("--letters", action="store_true", help="score the letter of an option in place of its text")
    parse.add_argument("--suite", metavar="NAME[=FILE]", help="questions of a public suite, in place of the samples")
    args = parse.parse_args()
    if not importlib.util.find_spec("lm_eval"):
        sys.exit("lm-eval is not installed: pip install -c constraints.txt -e '.[bench]'")
    start(args)
    with temporary_folder() as folder:
        result = measure(args, build_base(args, folder))
    report(result)
    finish(args, result)


def questions(args, tokenizer):
    """Return encoded test questions with at least two options, and their labels: of the samples, or of --suite."""
    from icft_lite.data.samples import load_samples
    from icft_lite.experiments.public_suites import encode_questions, read_questions
    from icft_lite.modeling.encoding import Encoder

    count = args.questions or (512 if args.model == "tiny" else 64)
    if args.suite:
        name, _, file = args.suite.partition("=")
        asked = read_questions(name, file or None, 12 if args.quick else count)
        return encode_questions(asked, tokenizer, 512), [one.gold for one in asked]
    examples = [dict(example) for name in ("medical_test", "general_test") for example in load_samples(name)]
    examples = [
        example
        for example in examples
        if example["task"] == "question" and example["label"] >= 0 and len(example["responses"]) > 1
    ]
    examples = random.Random(0).sample(examples, min(12 if args.quick else count, len(examples)))
    encode = Encoder(tokenizer, 512, letter_options=args.letters)
    return [encode(example) for example in examples], [example["label"] for example in examples]


def requests(encoded):
    """Return the questions as lm-eval takes them: for each option (name, ids of the prompt, ids of the option)."""
    out = []
    for number, one in enumerate(encoded):
        prompt = one.sequences[0][: one.tokens[0][1] + 1]
        for option in range(one.num_responses):
            targets = [target for _, _, target, response in one.tokens if response == option]
            out.append(((str(number), str(option)), prompt, targets))
    return out


def measure(args, base):
    """Score with both at each batch size and return the result."""
    import numpy as np
    from lm_eval.models.huggingface import HFLM

    from icft_lite.modeling.base import load_base
    from icft_lite.modeling.scoring import score_responses

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    model, tokenizer = load_base(base, load_in_4bit=not args.no_4bit)
    encoded, labels = questions(args, tokenizer)
    options = requests(encoded)
    harness = HFLM(pretrained=model, tokenizer=tokenizer, backend="causal", batch_size=1, max_length=512)
    answers = {}

    def ours(tokens):
        def score(_):
            begin = now(args.device)
            answers["ours", tokens] = [one["logp"] for one in score_responses(model, encoded, tokens)]
            return now(args.device) - begin

        return score

    def theirs(batch_size):
        def score(_):
            harness.batch_size_per_gpu = batch_size
            begin = now(args.device)
            found = harness._loglikelihood_tokens(options, disable_tqdm=True)
            taken, flat = now(args.device) - begin, iter(found)
            answers["harness", batch_size] = [
                np.array([next(flat)[0] for _ in range(one.num_responses)]) for one in encoded
            ]
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
            options_per_second=len(options) / median(times),
        )
        for (who, size), times in seconds.items()
    ]
    mine, other = answers["ours", sizes[ours][0]], answers["harness", sizes[theirs][0]]
    best = {who: max(one["options_per_second"] for one in out if one["who"] == who) for who in ("ours", "harness")}
    return dict(
        benchmark="evaluation",
        conditions=conditions(args),
        questions=len(encoded),
        options=len(options),
        letters=args.letters,
        scores=out,
        ratio=best["ours"] / best["harness"],
        at_least=2.0,
        parity=dict(
            largest_difference=float(max(np.abs(a - b).max() for a, b in zip(mine, other, strict=True))),
            mean_loglikelihood=float(np.mean([a.mean() for a in mine])),
            same_choice=float(np.mean([a.argmax() == b.argmax() for a, b in zip(mine, other, strict=True)])),
            accuracy=float(np.mean([a.argmax() == label for a, label in zip(mine, labels, strict=True)])),
        ),
    )


def report(result):
    """Print the tables."""
    show(
        f"Scoring {result['options']} options of {result['questions']} questions",
        ["implementation", "batch", "s", "± %", "options/s"],
        [
            [
                one["who"],
                f"{one['size']} {'tokens' if one['who'] == 'ours' else 'sequences'}",
                one["seconds"],
                100 * one["spread"],
                one["options_per_second"],
            ]
            for one in result["scores"]
        ],
        [
            "ours: the options of a question share one copy of the prompt; logits of the options' tokens only",
            "harness: one sequence per option, with its prompt; logits and softmax at every position",
        ],
    )
    show("Agreement", ["quantity", "value"], list(result["parity"].items()))
    show(
        "Design goal",
        ["quantity", "value", "at least", "met"],
        [
            [
                "options/s at the best batch size, ours ÷ harness",
                result["ratio"],
                result["at_least"],
                "yes" if result["ratio"] >= result["at_least"] else "NO",
            ]
        ],
    )


if __name__ == "__main__":
    main()
