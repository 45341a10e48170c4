"""Weak supervision: labelling functions vote on an unlabelled pool, and a label model turns votes into posteriors.

    votes = apply_lfs(lfs, pool)                          # int32 [n, m]; −1 = abstain
    posteriors, report = label_pool(pool, votes, lfs=lfs)

`functions` defines labelling functions, `files` reads them from a file, `label_models` has the label models, and `pool`
labels a pool. `lfs` has the labelling functions of the bundled samples and of PubMedQA. Importing this package loads
neither torch nor datasets.
"""

from icft_lite.metrics import expected_calibration_error
from icft_lite.weak.functions import LabelingFunction, apply_lfs, labeling_function, lf_analysis
from icft_lite.weak.label_models import ABSTAIN, DawidSkene, MajorityVote, all_abstained
from icft_lite.weak.pool import label_pool

__all__ = [
    "ABSTAIN",
    "DawidSkene",
    "LabelingFunction",
    "MajorityVote",
    "all_abstained",
    "apply_lfs",
    "expected_calibration_error",
    "label_pool",
    "labeling_function",
    "lf_analysis",
]
