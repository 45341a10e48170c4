"""More than one process: each runs its share of every step, and all end with the same weights.

    accelerate launch --cpu --num_processes 2 -m icft_lite.cli train …      or torchrun --nproc_per_node 2 -m …

Every process holds the whole model and plans the same steps. A step has `rows` rows for each process; it is cut
into micro-batches, of which a process runs its own and adds its gradients to the others'. What a decision could hang
on (scores, labels, generated text, saved files) is the first process's alone; it hands it to the others.
"""

import atexit
import datetime
import os

import torch
import torch.distributed as dist

from icft_lite.errors import ICFTError

WAIT = datetime.timedelta(days=2)
"""How long a process waits for another: the first one scores and generates while the others wait."""


def init_processes():
    """Join the other processes, if a launcher started several. Raises ICFTError for those that share one model."""
    if "true" in (os.environ.get(f"ACCELERATE_USE_{name}", "").lower() for name in ("FSDP", "DEEPSPEED")):
        raise ICFTError(
            "accelerate: FSDP and DeepSpeed are not supported, every process holds the whole model; launch without them"
        )
    if int(os.environ.get("WORLD_SIZE", 1)) > 1 and not dist.is_initialized():
        from accelerate import PartialState

        state = PartialState(cpu=not torch.cuda.is_available(), timeout=WAIT)
        # Left to the interpreter's end, gloo's threads abort the process now and then (SIGABRT, "terminate called
        # without an active exception"; torch 2.13.0, 2 of 4 trials without, 0 of 10 with).
        atexit.register(state.destroy_process_group)


def world_size():
    """How many processes there are."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank():
    """This process's number, from 0."""
    return dist.get_rank() if world_size() > 1 else 0


def process_device():
    """The device of this process among several; None for one alone, which takes what there is."""
    if world_size() > 1:
        from accelerate import PartialState

        return str(PartialState().device)


def on_main_process(work):
    """Do `work()` in the first process only. Returns its value, or raises its ICFTError, in all of them."""
    if world_size() == 1:
        return work()
    box = [None, None]
    if rank() == 0:
        try:
            box[0] = work()
        except ICFTError as error:
            box[1] = error
    dist.broadcast_object_list(box, src=0)
    if box[1] is not None:
        raise box[1]
    return box[0]


def all_reduce_sum(tensors):
    """Replace tensors, in place, by their sums over all processes: the same bits in each."""
    if world_size() > 1:
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        dist.all_reduce(flat)
        for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors])):
            tensor.copy_(part.view_as(tensor))
