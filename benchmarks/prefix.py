"""Time saved by sharing a common prefix in scoring, training and generation, and the GEMM rate of the training step.

    python benchmarks/prefix.py --threads 1                     smollm2, whose chat template has a system message
    python benchmarks/prefix.py --only scoring,training

Both variants run in turn on the same examples. Training is one ICFT step per round, and its utilization is that of
gemm.py: necessary arithmetic, with one copy of the prefix per step, ÷ the best rate of the step's matrix products.
"""

import math
from dataclasses import replace

import common
from common import alternate, finish, median, now, show, spread

PARTS = ("scoring", "training", "generation")
SYSTEM = "You are a helpful assistant who answers questions about medicine in a few words."
"""The system message of the smoke test, since the chat template of `tiny` has none."""


def main():
    parse = common.parser(__doc__)
    parse.set_defaults(model="smollm2", no_4bit=True)
    parse.add_argument("--batch-size", type=int, default=8, help="sequences per training step")
    parse.add_argument("--prompts", type=int, default=64, help="examples to score, prompts to reply to")
    parse.add_argument("--new-tokens", type=int, default=64, help="most tokens of a reply")
    parse.add_argument("--only", default=",".join(PARTS), help=f"parts, separated by commas: {','.join(PARTS)}")
    args = parse.parse_args()
    if args.quick:
        args.model, args.prompts, args.new_tokens = "tiny", 8, 4
    common.start(args)
    measured = dict(scoring=scoring, training=training, generation=generation)
    parts = {name: measured[name](args) for name in args.only.split(",")}
    result = dict(benchmark="prefix", conditions=common.conditions(args), parts=parts)
    report(result)
    finish(args, result)


def encoder_of(args, tokenizer):
    """Return an Encoder; for `tiny`, one whose prompts start with a system message."""
    from icft_lite.modeling.encoding import Encoder

    if args.model == "tiny":
        tokenizer.chat_template = f"<|user|> {SYSTEM}<|end|>{tokenizer.chat_template}"
    return Encoder(tokenizer, 384)


def examples_of(args):
    """Return questions with options and replies from the samples' tests, medical and general."""
    from icft_lite.data.samples import sample_bundle

    bundle, half = sample_bundle(), args.prompts // 2
    parts = (bundle.test, bundle.general_test)
    return [dict(example) for part in parts for example in part.shuffle(seed=0).select(range(half))]


def separate(encoded):
    """Return an example that shares no prefix."""
    return replace(encoded, share_prefix=False)


def compare(variants, repeats):
    """Return the median seconds of both variants, and the median and spread of their ratio over rounds."""
    times = alternate(variants, repeats)
    ratios = [slow / fast for slow, fast in zip(times["separate"], times["shared"], strict=True)]
    seconds = {name: median(values) for name, values in times.items()}
    return dict(seconds=seconds, ratio=median(ratios), spread=spread(ratios), rounds=times)


def timed(function, device):
    """Return the seconds that a call takes."""
    begin = now(device)
    function()
    return now(device) - begin


def scoring(args):
    """Score responses of examples with options and replies."""
    import numpy as np

    from icft_lite.modeling.base import load_base
    from icft_lite.modeling.scoring import score_responses

    model, tokenizer = load_base(args.model, load_in_4bit=not args.no_4bit)
    encode = encoder_of(args, tokenizer)
    encoded = [encode(example) for example in examples_of(args)]
    lists = dict(shared=encoded, separate=[separate(one) for one in encoded])
    scores = [np.concatenate([one["logp"] for one in score_responses(model, some)]) for some in lists.values()]
    variants = {
        name: lambda _, some=some: timed(lambda: score_responses(model, some), args.device)
        for name, some in lists.items()
    }
    return dict(compare(variants, args.repeats), error=float(abs(scores[0] - scores[1]).max() / abs(scores[1]).max()))


def training(args):
    """Run one step of ICFT per round: new, replayed and memory examples."""
    import gemm
    from implementations import Implementation
    from workload import make_steps, sizes, with_states

    from icft_lite.config import ICFTConfig
    from icft_lite.modeling.base import load_tokenizer
    from icft_lite.modeling.packing import common_prefix, join_batch

    encode = encoder_of(args, load_tokenizer(args.model))
    steps, _ = make_steps(len(encode.tokenizer), args.repeats, args.batch_size, encode=encode)
    alone = [[replace(item, encoded=separate(item.encoded)) for item in step] for step in steps]
    with common.temporary_folder() as folder:
        made = {
            name: Implementation("icft", args.model, args, [[step] for step in some], [], folder)
            for name, some in dict(shared=steps, separate=alone).items()
        }
        (loss, gradient), (other_loss, other) = (one.gradient() for one in made.values())
        found = compare({name: lambda n, one=one: one.train(n)[0] for name, one in made.items()}, args.repeats)
        config = made["shared"].model.config
        taught = with_states(made["shared"].model, steps)  # only to count the states
    shape = config.to_dict()
    tokens = median([join_batch([item.encoded for item in step], 0, pack=True)["input_ids"].numel() for step in steps])
    rates = gemm.rates(args, gemm.products(shape, round(tokens), sizes(steps[0])["supervised"]))
    best, temperature = max(one["rate"] for one in rates.values()), ICFTConfig().loss.temperature or math.inf
    shares = []
    for step, seconds in zip(taught, found["rounds"]["shared"], strict=True):
        parts = gemm.arithmetic(shape, config.num_hidden_layers, step, temperature=temperature)
        sequences = [sequence for item in step for sequence in item.encoded.sequences]
        left = 1 - len(common_prefix(sequences)) * (len(sequences) - 1) / sizes(step)["tokens"]
        work = left * (sum(parts.values()) - parts["head"]) + parts["head"]  # the head is applied to each example
        shares.append(work / best / seconds)
    return dict(
        found,
        loss_error=abs(loss - other_loss) / abs(other_loss),
        gradient_error=float((gradient - other).norm() / other.norm()),
        gemm_rate=best,
        gemm_share=median(shares),
    )


def generation(args):
    """Generate greedy replies to prompts."""
    from icft_lite.modeling.base import load_base
    from icft_lite.modeling.encoding import Encoder
    from icft_lite.modeling.generation import generate

    model, tokenizer = load_base(args.model, load_in_4bit=not args.no_4bit)
    shared, examples, replies = encoder_of(args, tokenizer), examples_of(args), {}

    def reply(name, encode):
        def run():
            replies[name] = generate(model, tokenizer, encode, examples, max_new_tokens=args.new_tokens)

        return timed(run, args.device)

    encoders = dict(shared=shared, separate=Encoder(tokenizer, 384, share_prompts=False))
    variants = {name: lambda _, name=name, encode=encode: reply(name, encode) for name, encode in encoders.items()}
    found = compare(variants, args.repeats)
    same = sum(a == b for a, b in zip(*replies.values(), strict=True))
    return dict(found, different_replies=len(examples) - same)


def report(result):
    """Print the tables."""
    parts = result["parts"]
    show(
        "With one copy of the prefix and with separate copies",
        ["part", "shared s", "separate s", "times faster", "± %"],
        [
            [name, *(part["seconds"][key] for key in ("shared", "separate")), part["ratio"], 100 * part["spread"]]
            for name, part in parts.items()
        ],
        [
            f"{name}: {key.replace('_', ' ')} {value:.3g}"
            for name, part in parts.items()
            for key, value in part.items()
            if key not in ("seconds", "ratio", "spread", "rounds")
        ],
    )


if __name__ == "__main__":
    main()
