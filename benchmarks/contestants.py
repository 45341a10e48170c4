"""The trainers that `step.py` times, each doing its step the way its users have it.

Every one is a transformers.Trainer over the same adapters; `train()` is called on a step's rows and timed by a
callback. The rate is so small that the weights stay what they are, to seven digits: each round is the same work.
"""

import torch
from common import now
from datasets import Dataset
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback, ProgressCallback
from workload import Given, plain_rows, replayed, unused, with_states

from icft_lite.config import ICFTConfig
from icft_lite.modeling.adapters import adapter_tensors, add_adapters, use_adapter
from icft_lite.modeling.base import backbone, load_base
from icft_lite.modeling.losses import pad_options, pair_loss, question_loss, response_sums
from icft_lite.training.trainer import ICFTTrainer
from icft_lite.utils.hardware import hardware

RATE = 1e-8
NAMES = {
    "icft": "ICFT, all three losses",
    "icft_kl": "ICFT, consistency by KL at T = 1",
    "icft_replay": "ICFT, memory rows by NLL in place of consistency",
    "icft_off": "ICFT, consistency off, memory rows idle",
    "icft_padded": "ICFT, a step's rows padded, not packed",
    "qlora": "plain QLoRA, ours",
    "trainer": "plain QLoRA, transformers.Trainer (full logits)",
    "trl_shipped": "plain QLoRA, TRL SFTTrainer as shipped",
    "trl_best": "plain QLoRA, TRL SFTTrainer, best setting here",
    "naive": "ICFT by hand: live reference, full logits",
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
"""Whose loss and gradient each one's must equal."""


class Stamps(TrainerCallback):
    """The time at the start of training and after each step."""

    def __init__(self, device):
        self.device = device

    def on_train_begin(self, *_, **__):
        self.times = [now(self.device)]

    def on_step_end(self, *_, **__):
        self.times.append(now(self.device))


class NaiveTrainer(ICFTTrainer):
    """The same three losses as one writes them first, in the style of ASFT: the whole batch through the frozen base
    as well, logits of every position from both, and half the variance of their differences."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
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
        kept = [one[inputs["teacher_token"]] for one in at]
        consistency = 0.5 * (student[*kept] - reference[*kept]).var(-1, correction=0).sum()
        task = self._task(inputs, logp)
        below, record = inputs["denominators"], self._record()
        parts = dict(consistency=consistency, task=task, fine_tune=-(inputs["token_weight"] * logp).sum())
        record.update({name: (value / max(below[name], 1e-12)).detach() for name, value in parts.items()})
        return sum(
            getattr(self.config, f"{name}_weight") * value / max(below[name], 1e-12) for name, value in parts.items()
        )

    @staticmethod
    def _task(inputs, logp):
        n, owner = int(inputs["example"][-1]) + 1, inputs["example"]
        sums = response_sums(logp, inputs["response"], len(owner))
        means = sums / response_sums(torch.ones_like(logp), inputs["response"], len(owner))
        posterior, mask = pad_options(inputs["posterior"], owner, n)
        ask, pairs = inputs["weak_question"], inputs["weak_pair"]
        task = question_loss(pad_options(sums, owner, n)[0][ask], posterior[ask], mask[ask])
        if len(pairs):
            mean = pad_options(means, owner, n)[0][pairs]
            task = task + pair_loss(mean[:, 0], mean[:, 1], posterior[pairs, 0])
        return task


def make_model(folder, args):
    """The base with its adapters, the fast one shaken: an untrained one would equal its teacher."""
    base, tokenizer = load_base(folder, four_bit=not args.no_4bit)
    model = add_adapters(base)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in adapter_tensors(model, "fast"):
            tensor += 0.02 * torch.randn(tensor.shape, generator=generator).to(tensor)
    return model, tokenizer


def rounds_of(name, icft, plain):
    """Which rows a contestant trains on."""
    return icft if name.startswith("icft") or name == "naive" else plain


def packs(name):
    """Does a contestant write short rows behind one another?"""
    return name in ("icft", "icft_kl", "icft_replay", "icft_off", "qlora")


class Contestant:
    """One trainer with its own copy of the model. icft, plain: a list of rounds, each a list of steps of Items."""

    def __init__(self, name, folder, args, icft, plain, out):
        self.name, self.device, self.pack = name, args.device, packs(name)
        self.model, tokenizer = make_model(folder, args)
        ours, rounds = name.startswith("icft") or name in ("qlora", "naive"), rounds_of(name, icft, plain)
        if ours:
            change = {"qlora": list, "icft_replay": replayed, "icft_off": unused}.get(name, self._teach)
            config = ICFTConfig(learning_rate=RATE, pack_rows=self.pack)
            if name == "icft_kl":
                config.temperature = 1.0
            self.rounds = [Given(change(steps), config) for steps in rounds]
            self.trainer = (NaiveTrainer if name == "naive" else ICFTTrainer)(
                self.model, self.rounds[0], config, out, norms_every=0
            )
        else:
            self.rounds = [Dataset.from_list([row for step in steps for row in plain_rows(step)]) for steps in rounds]
            make = self._trainer if name == "trainer" else self._trl
            self.trainer = make(tokenizer, len(rounds[0][0]), len(rounds[0]), out)
        self.stamps = Stamps(args.device)
        for callback in (PrinterCallback, ProgressCallback):
            self.trainer.remove_callback(callback)
        self.trainer.add_callback(self.stamps)

    def _teach(self, steps):
        with use_adapter(self.model, None):
            return with_states(self.model, steps)

    def _arguments(self, rows, steps, out):
        gpu, dtype = self.device == "cuda", hardware()["dtype"]
        return dict(
            output_dir=str(out),
            per_device_train_batch_size=rows,
            max_steps=steps,
            learning_rate=RATE,
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

    def _trainer(self, tokenizer, rows, steps, out):
        from transformers import DataCollatorForSeq2Seq

        return Trainer(
            self.model,
            TrainingArguments(**self._arguments(rows, steps, out)),
            data_collator=DataCollatorForSeq2Seq(tokenizer),
            train_dataset=self.rounds[0],
        )

    def _trl(self, tokenizer, rows, steps, out):
        from trl import SFTConfig, SFTTrainer

        # Shipped: checkpointing on. Not kept: bf16 on a CPU, where it is ten times slower, and (next line but three)
        # the adapters of a quantised base in bf16: all contestants hold theirs in fp32.
        settings = SFTConfig(
            **self._arguments(rows, steps, out), gradient_checkpointing=self.name == "trl_shipped", max_length=None
        )
        before = [tensor.detach().clone() for tensor in adapter_tensors(self.model, "fast")]
        trainer = SFTTrainer(self.model, settings, train_dataset=self.rounds[0], processing_class=tokenizer)
        for tensor, value in zip(adapter_tensors(self.model, "fast"), before):
            tensor.data = value
        return trainer

    def train(self, number):
        """Train on the steps of a round. Returns the seconds of each step, its data's collation included."""
        self.trainer.train_dataset = self.rounds[number % len(self.rounds)]
        self.trainer.train()
        return [b - a for a, b in zip(self.stamps.times, self.stamps.times[1:])]

    def gradient(self):
        """(loss, gradient as one vector) of the first step of the first round."""
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
