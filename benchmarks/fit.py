"""Memory of a training step on a GPU, compared with the estimate of `icft-lite doctor`.

    python benchmarks/fit.py                                          Qwen3-0.6B's shape, random weights
    python benchmarks/fit.py --model Qwen3-4B --dtype fp16 --gib 15   limited to the memory of a T4

The step is that of the estimate: the given number of tokens in one forward pass, half of them in memory examples with a
teacher at every token, and the copies that a run holds at times (the gradient of each loss, and the adapter at the
start of the stage). Every model is built with Qwen3's layers, in the size that its name says.
"""

import sys

from common import QWEN, SHAPES, build_base, conditions, finish, median, parser, show, start, temporary_folder

LENGTH = 128
"""Tokens per sequence. How they are divided between prompt and response does not change the cost."""


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
        sys.exit("fit.py needs a GPU; lesson 10 measures the same on a CPU")
    import torch

    with temporary_folder() as folder:
        base = build_base(args, folder)
        torch.cuda.empty_cache()
        if args.gib:
            total = torch.cuda.get_device_properties(0).total_memory
            torch.cuda.set_per_process_memory_fraction(min(1.0, args.gib * GIB / total))
        found = measure(base, args.tokens, args.steps, folder, RANK)
    found["estimate"] = estimate(shape, 4 if args.dtype == "float32" else 2, args.tokens)
    result = dict(benchmark="fit", conditions=conditions(args) | dict(gib=args.gib, tokens=args.tokens), **found)
    show(
        f"{args.model}, {args.tokens} tokens per forward pass",
        ["quantity", "GiB"],
        [
            ["estimate, with 0.7 for libraries", found["estimate"] / GIB],
            ["tensors at the peak", found["allocated"] / GIB],
            ["memory reserved by torch", found["reserved"] / GIB],
            ["tensors of the base", found["base"] / GIB],
        ],
        [f"{found['seconds_per_step']:.2f} s per step, {found['trainable']:,} LoRA parameters"],
    )
    finish(args, result)


def flags():
    parse = parser(__doc__)
    parse.set_defaults(model="Qwen3-0.6B")
    parse.add_argument("--tokens", type=int, default=1024, help="tokens per forward pass")
    parse.add_argument("--steps", type=int, default=4, help="steps; the first is not timed")
    parse.add_argument("--gib", type=float, help="limit torch to this much GPU memory")
    return parse.parse_args()


def measure(base, tokens, steps, out, rank):
    """Return the bytes at the peak of training, and the seconds per step."""
    import torch
    from implementations import StepTimes
    from workload import FixedBatches, with_states

    from icft_lite.config import ICFTConfig
    from icft_lite.modeling.adapters import adapter_tensors, add_adapters, use_adapter
    from icft_lite.modeling.base import load_base
    from icft_lite.training.trainer import ICFTTrainer

    model, _ = load_base(base)
    held = torch.cuda.memory_allocated()
    model = add_adapters(model, rank=rank)
    config = ICFTConfig.from_dict({"model": base, "optim.learning_rate": 1e-5, "optim.batch_size": tokens // LENGTH})
    step = random_items(tokens // LENGTH, model.config.vocab_size)
    with use_adapter(model, None):
        batches = with_states(model, [step] * steps)
    before = [tensor.detach().clone() for tensor in adapter_tensors(model, "fast")]  # as a stage holds them
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    trainer, times = ICFTTrainer(model, FixedBatches(batches, config), config, out, norms_every=2), StepTimes("cuda")
    trainer.add_callback(times)
    trainer.train()
    seconds = times.seconds()
    return dict(
        base=held,
        allocated=torch.cuda.max_memory_allocated(),
        reserved=torch.cuda.max_memory_reserved(),
        seconds_per_step=median(seconds[1:]),
        trainable=sum(map(torch.numel, before)),
    )


def random_items(n, vocabulary):
    """Return `n` items of random ids. Every other one is a memory example, supervised at all tokens; the others are new
    examples, supervised at half of them."""
    import torch

    from icft_lite.modeling.encoding import Encoded
    from icft_lite.training.batches import TrainingItem

    out = []
    for number, ids in enumerate(torch.randint(4, vocabulary, (n, LENGTH)).tolist()):
        memory, half = number % 2, LENGTH // 2
        start = 0 if memory else half
        tokens = [(0, at, ids[at + 1], int(memory and at >= half)) for at in range(start, LENGTH - 1)]
        encoded = Encoded([ids], tokens, 1 + memory)
        if memory:
            out.append(TrainingItem(encoded, "memory", [0.0, 0.0], posterior=[0.0, 1.0]))
        else:
            out.append(TrainingItem(encoded, "new", [1.0], posterior=[1.0]))
    return out


if __name__ == "__main__":
    main()
