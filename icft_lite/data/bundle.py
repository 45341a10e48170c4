"""DataBundle: what one run trains on and is scored on."""

from dataclasses import dataclass, field, replace

from datasets import Dataset

from icft_lite.data.splits import select_indices
from icft_lite.data.tables import column
from icft_lite.errors import ICFTError


@dataclass
class DataBundle:
    """What one run trains on and is scored on: canonical Datasets, each may be None."""

    trusted: Dataset | None = None
    """Labelled training rows."""
    pool: Dataset | None = None
    """Unlabelled questions and pairs (label -1), for weak labels."""
    validation: Dataset | None = None
    test: Dataset | None = None
    general_memory: Dataset | None = None
    """The only general rows that may enter the memory."""
    general_validation: Dataset | None = None
    general_test: Dataset | None = None
    pool_gold: dict = field(default_factory=dict)
    """id -> index of the right response, where known: to score weak labels, never to train."""
    posteriors: dict | None = None
    """Weak labels of the pool, once they are made."""
    sources: dict = field(default_factory=dict)
    """Source as the user named it -> fingerprint of its content."""

    def only(self, topics):
        """This bundle with the medical rows of `topics` alone; none named: as it is. Raises ICFTError for a topic
        that no row has."""
        if not topics:
            return self
        parts = {name: getattr(self, name) for name in ("trusted", "pool", "validation", "test")}
        known = {topic for rows in parts.values() if rows is not None for topic in column(rows, "topic")}
        if unknown := set(topics) - known:
            raise ICFTError(f"topics: {min(unknown)!r} is in no row; choose among {', '.join(sorted(known))}")
        return replace(
            self,
            **{name: select_indices(rows, _places(rows, topics)) for name, rows in parts.items() if rows is not None},
        )


def _places(rows, topics):
    return [i for i, topic in enumerate(column(rows, "topic")) if topic in topics]
