"""Does QLoRA with ICFT fit a GPU? What `icft-lite doctor` reckons, beside what a step took.

    python benchmarks/fit.py                                          Qwen3-0.6B's shape, random weights
    python benchmarks/fit.py --model Qwen3-4B --dtype fp16 --gib 15   as on a T4, whose memory is that large

The step is that of the estimate: so many tokens in one forward pass, half of them in memory rows that are taught on
all their tokens, with what a run holds now and then: each loss's gradient, and the adapter at the stage's start. Every
model is built with Qwen3's layers, in the size that its name stands for.
"""

import sys

from common import QWEN, SHAPES, build_base, conditions, finish, median, parser, show, start, workplace

LENGTH = 128
"""Tokens of a row; a short prompt and a long answer, or the reverse, cost the same."""


def main():
    args = flags()
    from icft_lite.doctor import GIB, MODELS, RANK, estimate

    if args.model not in MODELS:
        sys.exit(f"--model {args.model}: one of {', '.join(MODELS)}")
    hidden, layers, mlp, heads, kv, width, vocabulary, copies = shape = MODELS[args.model]
    SHAPES[args.model] = dict(
        QWEN,
        hidden_size=hidden,
        intermediate_size=mlp,
        num_attention_heads=heads,
        num_key_value_heads=kv,
        head_dim=width,
        vocab_size=vocabulary,
        tie_word_embeddings=copies == 1,
    )
    args.layers = layers
    start(args)
    if args.device != "cuda":
        sys.exit("fit.py needs a GPU; lesson 10 keeps the same books on a CPU")
    import torch

    with workplace() as folder:
        base = build_base(args, folder)
        torch.cuda.empty_cache()
        if args.gib:
            total = torch.cuda.get_device_properties(0).total_memory
            torch.cuda.set_per_process_memory_fraction(min(1.0, args.gib * GIB / total))
        found = measure(base, args.tokens, args.steps, folder, RANK)
    found["estimate"] = estimate(shape, 4 if args.dtype == "float32" else 2, args.tokens)
    result = dict(benchmark="fit", conditions=conditions(args) | dict(gib=args.gib, tokens=args.tokens), **found)
    show(
        f"{args.model}, {args.tokens} tokens a pass",
        ["what", "GiB"],
        [
            ["estimate, libraries' 0.7 included", found["estimate"] / GIB],
            ["torch's tensors at the peak", found["allocated"] / GIB],
            ["torch's share of the card", found["reserved"] / GIB],
            ["tensors of the base alone", found["base"] / GIB],
        ],
        [f"{found['seconds_a_step']:.2f} s a step, {found['trainable']:,} LoRA parameters"],
    )
    finish(args, result)


def flags():
    parse = parser(__doc__)
    parse.set_defaults(model="Qwen3-0.6B")
    parse.add_argument("--tokens", type=int, default=1024, help="tokens of a forward pass")
    parse.add_argument("--steps", type=int, default=4, help="steps, of which the first is not timed")
    parse.add_argument("--gib", type=float, help="let torch take no more than so much of the card")
    return parse.parse_args()


def measure(base, tokens, steps, out, rank):
    """Bytes at the peak of training, and seconds a step."""
    import torch
    from contestants import Stamps
    from workload import Given, with_states

    from icft_lite.config import ICFTConfig
    from icft_lite.modeling.adapters import adapter_tensors, add_adapters, use_adapter
    from icft_lite.modeling.base import load_base
    from icft_lite.training.trainer import ICFTTrainer

    model, _ = load_base(base)
    held = torch.cuda.memory_allocated()
    model = add_adapters(model, rank=rank)
    config = ICFTConfig(model=base, learning_rate=1e-5, rows=tokens // LENGTH)
    step = rows(tokens // LENGTH, model.config.vocab_size)
    with use_adapter(model, None):
        batches = with_states(model, [step] * steps)
    before = [tensor.detach().clone() for tensor in adapter_tensors(model, "fast")]  # as consolidation keeps them
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    trainer, stamps = ICFTTrainer(model, Given(batches, config), config, out, norms_every=2), Stamps("cuda")
    trainer.add_callback(stamps)
    trainer.train()
    seconds = [b - a for a, b in zip(stamps.times, stamps.times[1:])]
    return dict(
        base=held,
        allocated=torch.cuda.max_memory_allocated(),
        reserved=torch.cuda.max_memory_reserved(),
        seconds_a_step=median(seconds[1:]),
        trainable=sum(map(torch.numel, before)),
    )


def rows(n, vocabulary):
    """`n` rows of random ids: every other one a memory row, taught on all its tokens, the others on half of theirs."""
    import torch

    from icft_lite.modeling.encoding import Encoded
    from icft_lite.training.batches import TrainingItem

    out = []
    for number, ids in enumerate(torch.randint(4, vocabulary, (n, LENGTH)).tolist()):
        old, half = number % 2, LENGTH // 2
        encoded = Encoded(
            [ids],
            [(0, at, ids[at + 1], int(old and at >= half)) for at in range(0 if old else half, LENGTH - 1)],
            1 + old,
        )
        out.append(
            TrainingItem(
                encoded,
                "memory" if old else "new",
                [0.0, 0.0] if old else [1.0],
                posterior=[0.0, 1.0] if old else [1.0],
            )
        )
    return out


if __name__ == "__main__":
    main()
