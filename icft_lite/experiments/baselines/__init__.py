"""Baselines from the literature, one idea per file. Import them from their modules; see docs/baselines.md.

| module | baseline |
|---|---|
| `token_weights` | DFT, EAFT: next-token NLL weighted by probability or entropy |
| `base_kl` | KL to the base on new examples (LwF, the regularizer of ASFT) |
| `ewc` | elastic weight consolidation of ΔW |
| `weights` | another weight for a trainer whose term has one |
| `mlp_only` | LoRA on the MLP layers only |
| `averaged` | fast and slow LoRA whose result is the moving average (I-LoRA, SuRe) |
| `teachers` | ablations of the teacher choice: always the base, or always the slow adapter |
| `self_distillation` | the base rewrites the training replies (SDFT) |
| `peft_methods`, `peft_training` | OSF and CorDA, trained on the same batches |
| `general` | general examples for EWC and CorDA |
"""
