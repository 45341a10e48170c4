"""The implementations that `step.py` times, each a transformers.Trainer over the same adapters.

`train()` is called on the examples of a step, and a callback measures the time. The learning rate is so small that the
weights stay the same to seven digits, so every round is the same work.
"""

from itertools import pairwise

import torch
from common import now
from datasets import Dataset
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback, ProgressCallback
from workload import FixedBatches, plain_examples, replayed, with_states, without_states

from icft_lite.config import ICFTConfig
from icft_lite.modeling.adapters import adapter_tensors, add_adapters, use_adapter
from icft_lite.modeling.base import load_base
from icft_lite.modeling.forward import backbone
from icft_lite.modeling.losses import pad_options, pair_loss, question_loss, response_sums
from icft_lite.training.trainer import ICFTTrainer
from icft_lite.utils.hardware import hardware

LEARNING_RATE = 1e-8
NAMES = {
    "icft": "ICFT, all three losses",
    "icft_kl": "ICFT, consistency by KL at T = 1",
    "icft_replay": "ICFT, NLL on memory examples in place of consistency",
    "icft_off": "ICFT without consistency, memory examples in no loss",
    "icft_padded": "ICFT, padded, not packed",
    "qlora": "plain QLoRA, icft-lite",
    "trainer": "plain QLoRA, transformers.Trainer (full logits)",
    "trl_shipped": "plain QLoRA, TRL SFTTrainer as shipped",
    "trl_best": "plain QLoRA, TRL SFTTrainer, best setting here",
    "naive": "ICFT, direct: live reference, full logits",
}
PARITY = dict(
    icft="naive",
    naive="icft",
    icft_padded="icft",
    qlora="trainer",
    trainer="qlora",
    trl_shipped="trainer",
    trl_best="trainer",
)
"""The peer whose loss and gradient an implementation must equal."""


class StepTimes(TrainerCallback):
    """The time at the beginning of training and after each step."""

    def __init__(self, device):
        self.device, self.times = device, []

    def on_train_begin(self, *args, **kwargs):
        """Start again with the time of now."""
        self.times = [now(self.device)]

    def on_step_end(self, *args, **kwargs):
        """Add the time after a step."""
        self.times.append(now(self.device))

    def seconds(self):
        """Return the seconds of each step, the collation of its data included."""
        return [end - begin for begin, end in pairwise(self.times)]


class NaiveTrainer(ICFTTrainer):
    """The same three losses in the direct way (as in ASFT): the whole batch through the frozen base as well, logits of
    every position from both, and half the variance of their differences."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Return L_total of one micro-batch."""
        mask = inputs["attention_mask"]
        if mask.is_floating_point():
            mask = mask.to(backbone(model).dtype).clamp_min(torch.finfo(backbone(model).dtype).min)
        call = dict(
            input_ids=inputs["input_ids"], attention_mask=mask, position_ids=inputs.get("position_ids"), use_cache=False
        )
        with torch.no_grad(), use_adapter(model, None):
            reference = model(**call).logits.float().log_softmax(-1)
        student = model(**call).logits.float().log_softmax(-1)  # [rows, length, vocab]
        at = inputs["row"], inputs["position"]
        logp = student[*at, inputs["target"]]
        taught = [one[inputs["teacher_token"]] for one in at]
        consistency = 0.5 * (student[*taught] - reference[*taught]).var(-1, correction=0).sum()
        sums = dict(
            consistency=consistency,
            task=self._task(inputs, logp),
            fine_tune=-(inputs["token_weight"] * logp).sum(),
        )
        losses = {name: value / max(inputs["normalizers"][name], 1e-12) for name, value in sums.items()}
        self.record.update({name: value.detach() for name, value in losses.items()})
        return sum(getattr(self.config.loss, f"{name}_weight") * value for name, value in losses.items())

    @staticmethod
    def _task(inputs, logp):
        n, owner = int(inputs["example"][-1]) + 1, inputs["example"]
        sums = response_sums(logp, inputs["response"], len(owner))
        means = sums / response_sums(torch.ones_like(logp), inputs["response"], len(owner))
        posterior, mask = pad_options(inputs["posterior"], owner, n)
        questions, pairs = inputs["weak_question"], inputs["weak_pair"]
        task = question_loss(pad_options(sums, owner, n)[0][questions], posterior[questions], mask[questions])
        if len(pairs):
            mean = pad_options(means, owner, n)[0][pairs]
            task = task + pair_loss(mean[:, 0], mean[:, 1], posterior[pairs, 0])
        return task


def make_model(folder, args):
    """Return the base with its adapters and the tokenizer. The fast adapter gets noise: without, it is its teacher."""
    base, tokenizer = load_base(folder, load_in_4bit=not args.no_4bit)
    model = add_adapters(base)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in adapter_tensors(model, "fast"):
            tensor += 0.02 * torch.randn(tensor.shape, generator=generator).to(tensor)
    return model, tokenizer


def rounds_of(name, icft, plain):
    """Return the rounds that an implementation trains on."""
    return icft if name.startswith("icft") or name == "naive" else plain


def uses_packing(name):
    """Return True if an implementation packs short sequences into one row."""
    return name in ("icft", "icft_kl", "icft_replay", "icft_off", "qlora")


class Implementation:
    """One trainer with its own copy of the model. icft, plain: lists of rounds, each a list of steps."""

    def __init__(self, name, folder, args, icft, plain, out):
        self.name, self.device, self.packing = name, args.device, uses_packing(name)
        self.model, tokenizer = make_model(folder, args)
        rounds = rounds_of(name, icft, plain)
        if name.startswith("icft") or name in ("qlora", "naive"):
            change = {"qlora": list, "icft_replay": replayed, "icft_off": without_states}.get(name, self._teach)
            temperature = 1.0 if name == "icft_kl" else None
            config = ICFTConfig.from_dict({"optim.learning_rate": LEARNING_RATE, "loss.temperature": temperature})
            self.rounds = [FixedBatches(change(steps), config, self.packing) for steps in rounds]
            trainer = NaiveTrainer if name == "naive" else ICFTTrainer
            self.trainer = trainer(self.model, self.rounds[0], config, out, norms_every=0)
        else:
            self.rounds = [
                Dataset.from_list([example for step in steps for example in plain_examples(step)]) for steps in rounds
            ]
            make = self._trainer if name == "trainer" else self._trl
            self.trainer = make(tokenizer, len(rounds[0][0]), len(rounds[0]), out)
        self.times = StepTimes(args.device)
        for callback in (PrinterCallback, ProgressCallback):
            self.trainer.remove_callback(callback)
        self.trainer.add_callback(self.times)

    def _teach(self, steps):
        with use_adapter(self.model, None):
            return with_states(self.model, steps)

    def _arguments(self, batch_size, steps, out):
        gpu, dtype = self.device == "cuda", hardware()["dtype"]
        return dict(
            output_dir=str(out),
            per_device_train_batch_size=batch_size,
            max_steps=steps,
            learning_rate=LEARNING_RATE,
            weight_decay=0.0,
            max_grad_norm=1.0,
            lr_scheduler_type="constant",
            train_sampling_strategy="sequential",
            dataloader_pin_memory=False,
            logging_strategy="no",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=not gpu,
            bf16=gpu and dtype == "bfloat16",
            fp16=gpu and dtype == "float16",
            optim="adamw_torch_fused" if gpu else "adamw_torch",
        )

    def _trainer(self, tokenizer, batch_size, steps, out):
        from transformers import DataCollatorForSeq2Seq

        return Trainer(
            self.model,
            TrainingArguments(**self._arguments(batch_size, steps, out)),
            data_collator=DataCollatorForSeq2Seq(tokenizer),
            train_dataset=self.rounds[0],
        )

    def _trl(self, tokenizer, batch_size, steps, out):
        from trl import SFTConfig, SFTTrainer

        # As shipped: activation checkpointing. Two defaults are changed: bf16 on a CPU, which is ten times slower, and
        # the adapters of a quantized base in bf16 (below), since all other implementations hold them in fp32.
        settings = SFTConfig(
            **self._arguments(batch_size, steps, out),
            gradient_checkpointing=self.name == "trl_shipped",
            max_length=None,
        )
        before = [tensor.detach().clone() for tensor in adapter_tensors(self.model, "fast")]
        trainer = SFTTrainer(self.model, settings, train_dataset=self.rounds[0], processing_class=tokenizer)
        for tensor, value in zip(adapter_tensors(self.model, "fast"), before, strict=True):
            tensor.data = value
        return trainer

    def train(self, number):
        """Train on the steps of a round and return the seconds of each step."""
        self.trainer.train_dataset = self.rounds[number % len(self.rounds)]
        self.trainer.train()
        return self.times.seconds()

    def gradient(self):
        """Return (loss, gradient as one vector) of the first step of the first round."""
        self.trainer.train_dataset = self.rounds[0]
        self.model.train()
        batch = next(iter(self.trainer.get_train_dataloader()))
        with self.trainer.compute_loss_context_manager():
            loss = self.trainer.compute_loss(self.model, self.trainer._prepare_inputs(batch))
        loss.backward()
        if hasattr(self.trainer, "close_step"):
            self.trainer.close_step()
        tensors = adapter_tensors(self.model, "fast")
        whole = torch.cat([tensor.grad.float().flatten() for tensor in tensors]).cpu()
        self.model.zero_grad()
        return float(loss.detach()), whole
