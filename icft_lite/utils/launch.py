"""`accelerate launch --cpu --num_processes N -m icft_lite.cli …`: the processes that accelerate does not start."""

import os
import re
import sys


def launch_processes(arguments):
    """Start N processes in the place of this one, if accelerate was asked for N on CPUs and started one.

    accelerate (read in 1.15) leaves processes on CPUs to mpirun, and without its host file starts but one; N is then
    nowhere but in accelerate's own command line. Does nothing in any other case."""
    asked = os.environ.get("ACCELERATE_USE_CPU") == "True" and os.environ.get("MASTER_ADDR") == "127.0.0.1"
    if asked and not any(name.startswith(("RANK", "OMPI_", "PMI_", "MV2_")) for name in os.environ):
        import psutil

        line = " ".join(psutil.Process(os.getppid()).cmdline())
        found = re.search(r"--num[_-]processes[ =](\d+)", line)
        if not found:
            sys.exit(
                "icft-lite: accelerate started one process of several; "
                "use `torchrun --nproc_per_node N -m icft_lite.cli` instead"
            )
        os.execv(
            sys.executable,
            [
                sys.executable,
                "-m",
                "torch.distributed.run",
                "--standalone",
                "--nproc_per_node",
                found[1],
                "-m",
                "icft_lite.cli",
                *arguments,
            ],
        )
