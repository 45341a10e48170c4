"""The last line of every lesson: its peak memory, compared with the memory that it declares."""

from icft_lite.utils.hardware import peak_memory


def print_peak(declared: float) -> None:
    """Print the peak memory of this process, and whether it is below `declared` GiB.

    The numbers differ from run to run, so tests/nbval_sanitize.cfg replaces them; the comparison is checked.
    """
    peak = peak_memory()
    measured = "unknown on this system" if peak is None else f"{peak / 2**30:.1f} GiB"
    print(f"peak memory: {measured}; declared at the top: {declared:g} GiB")
    print("within the declared memory:", (peak or 0) < declared * 2**30)
