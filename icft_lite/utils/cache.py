"""The folder for what icft_lite downloads, converts or computes once for all runs."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """Return the cache folder.

    ICFT_CACHE names it; otherwise it is `icft-lite` in XDG_CACHE_HOME or in ~/.cache.
    """
    if own := os.environ.get("ICFT_CACHE"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "icft-lite"


def reply_cache() -> Path:
    """Return the folder for replies of bases (`modeling.replies.greedy_replies`)."""
    return cache_folder() / "replies"
