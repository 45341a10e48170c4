"""Several processes of one command, as torchrun and `accelerate launch` start them."""

import os
import re
import sys
from collections.abc import Sequence


def is_main_process() -> bool:
    """Return True in the only process, and in the first of several."""
    return os.environ.get("RANK", "0") == "0"


def launch_processes(arguments: Sequence[str]) -> None:
    """Replace this process by N processes, if accelerate was asked for N on CPUs and started only one.

    This is for `accelerate launch --cpu --num_processes N -m icft_lite.cli …`: accelerate 1.15 leaves processes on CPUs
    to mpirun. Without mpirun's host file it starts a single process, and N is only in accelerate's own command line. In
    any other case this function does nothing. arguments: of the command, without the program's name. Exits with a
    message if N cannot be found.
    """
    launched = os.environ.get("ACCELERATE_USE_CPU") == "True" and os.environ.get("MASTER_ADDR") == "127.0.0.1"
    if not launched or any(name.startswith(("RANK", "OMPI_", "PMI_", "MV2_")) for name in os.environ):
        return
    import psutil

    command = " ".join(psutil.Process(os.getppid()).cmdline())
    count = re.search(r"--num[_-]processes[ =](\d+)", command)
    if not count:
        sys.exit(
            "icft-lite: accelerate started one process of several; "
            "use `torchrun --nproc_per_node N -m icft_lite.cli` instead"
        )
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", count[1]]
    os.execv(sys.executable, [*torchrun, "-m", "icft_lite.cli", *arguments])
