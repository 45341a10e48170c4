"""OSF and CorDA of the library peft: two methods that limit which directions of a weight may change.

`osf`: orthogonal subspace fine-tuning, Nayak et al., 2025, arXiv 2504.07097. The SVD of each weight; the directions of
the largest singular values are frozen, and gradients of the others are projected to be orthogonal to them. As in peft:
half of the directions are frozen in every layer, whereas the paper estimates a share for each layer. AdamW scales the
projected gradient element by element, so its steps are not exactly orthogonal.

`corda`: context-oriented decomposition adaptation, Yang et al., 2024, arXiv 2406.05223, in knowledge-preserving mode.
LoRA starts from the components of W that matter least for general examples, measured by the covariance C of each
layer's inputs (the smallest singular values of W·C), and these are subtracted from W. Different from the paper: rank
and alpha are those of the run, and the general examples are those of `general.general_examples`.

`peft_training.train_peft` trains them.
"""

from peft import LoraConfig, OSFConfig, PeftModel, get_peft_model
from peft.tuners.lora.config import CordaConfig
from peft.tuners.lora.corda import preprocess_corda
from transformers import PreTrainedModel

from icft_lite.experiments.baselines.general import general_examples
from icft_lite.modeling.adapters import linear_layers
from icft_lite.modeling.forward import head_weight, hidden_states
from icft_lite.modeling.packing import join_batch
from icft_lite.training.prepare import Prepared


def osf(model: PreTrainedModel, prepared: Prepared) -> PeftModel:
    """Return a base with OSF on every linear layer except the output head; half of the directions are frozen.

    prepared: not used; all methods have the same arguments.
    """
    return get_peft_model(model, OSFConfig(target_modules=linear_layers(model)[0]))


def corda(model: PreTrainedModel, prepared: Prepared, number: int = 256) -> PeftModel:
    """Return a base with CorDA adapters, initialized from at most `number` general examples of a prepared run."""
    settings = prepared.config.adapter
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        target_modules=linear_layers(model)[0],
        init_lora_weights="corda",
        corda_config=CordaConfig(corda_method="kpm"),
    )

    def run_model() -> None:
        for one in general_examples(prepared, number):  # one by one: padding would be part of the covariance
            hidden_states(model, join_batch([one], 0, head_weight(model).device))

    preprocess_corda(model, config, run_model)
    return get_peft_model(model, config)
