"""Labelling functions that belong to no data set."""

import numpy as np

from icft_lite.data.schema import Example
from icft_lite.weak.functions import labeling_function
from icft_lite.weak.label_models import ABSTAIN


@labeling_function(source="model")
def base_choice(example: Example) -> int:
    """Vote for the zero-shot choice of the base, where the example has `base_scores` (one per response).

    A run fills this column before it labels a pool.
    """
    scores = example.get("base_scores")
    return int(np.argmax(scores)) if scores else ABSTAIN
