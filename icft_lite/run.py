"""train_icft: the whole method. Base, labels, memory, curriculum; then stage by stage; then the report."""

import json
import shutil
import time
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tqdm.auto import tqdm
from transformers import set_seed

from icft_lite.config import ICFTConfig, ICFTError
from icft_lite.consolidation import consolidate
from icft_lite.curriculum import LEVELS, build_curriculum, score_difficulty
from icft_lite.encoding import Encoder, encode_fitting
from icft_lite.evaluate import Suite, evaluate_suite, is_short, mean_score
from icft_lite.files import write_json
from icft_lite.labels import label_pool_rows
from icft_lite.memory import LongTermMemory, ShortTermMemory, promote
from icft_lite.model import (
    activate,
    adapter_tensors,
    add_adapters,
    copy_adapter,
    head_weight,
    load_base,
    save_adapter,
)
from icft_lite.outcome import by_level, make_report
from icft_lite.rehearsal import seed_memory
from icft_lite.report import write_report
from icft_lite.schedule import StageBatches, count, plan_stage
from icft_lite.trainer import ICFTTrainer


class Run:
    """One run of the method: what it holds between stages. Use `train_icft`."""

    def __init__(self, config, data, out, progress=True):
        self.config, self.data, self.out, self.progress = config, data, Path(out), progress
        self.seconds = {}

    def clock(self, name):
        """Context manager: add the block's seconds to `name`."""
        return _Clock(self.seconds, name)

    def say(self, text):
        if self.progress:
            tqdm.write(text)

    # ---------------------------------------------------------------- before the stages

    def prepare(self):
        """Load the base, score it, label the pool, seed the long-term memory, build the curriculum."""
        config, data = self.config, self.data
        set_seed(config.seed)
        with self.clock("load"):
            base, self.tokenizer = load_base(config.model, config.four_bit)
            self.model = add_adapters(base, config.lora_rank, config.lora_alpha, config.seed)
            self.encoder = Encoder(self.tokenizer, config.max_length, config.letter_options, config.share_prompts)
            suites = dict(general_validation=data.general_validation, medical_validation=data.validation,
                          general=data.general_test, medical=data.test)
            self.suites = {name: Suite.of(rows, self.encoder, options="validation" not in name)
                           for name, rows in suites.items() if rows is not None and len(rows)}
            self.brief = {name: Suite.of(suite.rows, self.encoder, options=False).subset(is_question)
                          for name, suite in self.suites.items() if name in ("general", "medical")}
        with self.clock("evaluate"):
            self.say(f"base {config.model}: scoring {sum(len(s.rows) for s in self.suites.values())} examples")
            self.before = self.evaluate("base", tuple(self.suites))
        with self.clock("label"):
            self.rows, self.weak = label_pool_rows(data, config, self.model, self.encoder)
            self.rows, self.encoded, self.left_out = encode_fitting(self.rows, self.encoder)
            if self.left_out:
                self.say(f"{len(self.left_out)} training rows do not fit max_length={config.max_length}: left out")
        if not self.rows:
            raise ICFTError("data: no training row is left (no trusted row, and no labelling function voted)")
        with self.clock("seed memory"):
            self.memory = LongTermMemory(config.memory_size, config.memory_policy, config.reservoir_share,
                                         config.state_dtype, config.seed)
            if config.memory_share:
                held_out = [row for name in ("general", "general_validation") if name in self.suites
                            for row in self.suites[name].rows]
                seed_memory(self.memory, data.general_memory, held_out, self.model, self.tokenizer, self.encoder,
                            config.self_prompts, config.seed)
                self.say(f"long-term memory: {len(self.memory)} rows from "
                         f"{len({e.row['topic'] for e in self.memory.entries})} topics")
        with self.clock("difficulty"):
            self.difficulty = score_difficulty(self.rows, self.model, self.encoded, config.signals)
            self.stages = build_curriculum([row["level"] for row in self.rows], self.difficulty, config.order)

    def evaluate(self, adapter, names, **kwargs):
        suites = {name: self.suites[name] for name in names if name in self.suites}
        self.model.eval()
        return evaluate_suite(self.model, self.tokenizer, suites, adapter=adapter, encoder=self.encoder, **kwargs)

    # ---------------------------------------------------------------- one stage

    def stage(self, number, stage, tokens, max_steps):
        """Train one stage, promote, consolidate, refresh. Returns its record for the report."""
        config, model = self.config, self.model
        began = time.time()
        with self.clock("refresh"):
            shares = self.memory.refresh(model)
        stm = ShortTermMemory(config.ring_size, config.promote_after, f"{config.seed}/{number}")
        steps, used = plan_stage(stage, self.encoded, [row["topic"] for row in self.rows],
                                 [e.encoded for e in self.memory.entries], stm, config, tokens, max_steps,
                                 f"{config.seed}/{number}")
        copy_adapter(model, "slow", "fast")
        activate(model, "fast")
        start = [tensor.clone() for tensor in adapter_tensors(model, "slow")]
        batches = StageBatches(steps, self.rows, self.encoded, self.memory.entries, config)
        bar = tqdm(total=len(steps), desc=f"stage {number}", disable=not self.progress, mininterval=1)
        with self.clock("train"), bar:
            trainer = ICFTTrainer(model, batches, config, self.out / "state" / "trainer", bar)
            trainer.train()
        model.eval()
        promotion = dict(candidates=0, gated=0, promoted=0, evicted=0)
        if config.memory_share:
            with self.clock("promote"):
                candidates = [self.rows[i] for i in sorted(stm.flush())]
                promotion = promote(self.memory, model, candidates, self.encoder, config.promote_confidence)
        self.fast = [tensor.detach().clone() for tensor in adapter_tensors(model, "fast")]
        with self.clock("consolidate"):
            if config.consolidate and "general_validation" in self.suites and "medical_validation" in self.suites:
                floor = mean_score(self.before["general_validation"]) - config.epsilon
                seen = self._levels_until(number)
                point = consolidate(model, start, lambda: self._validate(seen), floor, config.lora_rank,
                                    config.lora_alpha / config.lora_rank)
            else:
                copy_adapter(model, "fast", "slow")
                point = dict(alpha=1.0, points=[], refused=False, svd_residual=0.0)
        rows = {}
        for item in (item for step in steps for item in batches.items(step)):
            kind = ("memory" if item.role == "memory" else "ring" if item.role == "ring"
                    else f"weak_{item.weak}" if item.weak else "trusted")
            rows[kind] = rows.get(kind, 0) + item.encoded.size
        return dict(name=self._stage_name(number), steps=len(steps), new_rows=len(stage), tokens=used,
                    rows=rows, memory_rows=len(self.memory), teacher_share=shares, consolidation=point,
                    **promotion, seconds=time.time() - began), trainer.history

    def _stage_name(self, number):
        order = self.config.order
        if order in ("random", "interleaved"):
            return f"{order} {number}"
        names = LEVELS if order == "easy_to_hard" else LEVELS[::-1]
        return names[number - 1] if len(self.stages) == 3 else f"part {number}"

    def _levels_until(self, number):
        names = [self._stage_name(n) for n in range(1, number + 1)]
        return set(names) if set(names) <= set(LEVELS) else set()

    def _validate(self, levels):
        """General and medical validation of the slow adapter; medical only on levels trained so far."""
        suites = {"general": self.suites["general_validation"], "medical": self.suites["medical_validation"]}
        if levels and (part := suites["medical"].subset(lambda row: row["level"] in levels)).rows:
            suites["medical"] = part
        scores = evaluate_suite(self.model, self.tokenizer, suites, adapter="slow", encoder=self.encoder)
        return {name: mean_score(score) for name, score in scores.items()}

    # ---------------------------------------------------------------- state between stages

    def save_state(self, number, results):
        """Everything the next stage starts from, written whole or not at all."""
        final = self.out / "state" / f"stage{number}"
        part = final.with_name(final.name + ".part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        for name, tensors in (("slow", adapter_tensors(self.model, "slow")), ("fast", self.fast)):
            tensors = {str(i): tensor.detach().cpu().contiguous() for i, tensor in enumerate(tensors)}
            save_file(tensors, part / f"{name}.safetensors")
        entries = [dict(row=e.row, source=e.source, surprise=e.surprise) for e in self.memory.entries]
        write_json(part / "state.json", dict(memory=entries, results=results, seconds=self.seconds))
        part.replace(final)

    def load_state(self, number):
        """Restore `save_state`. Returns its results."""
        folder = self.out / "state" / f"stage{number}"
        device = head_weight(self.model).device
        slow, fast = (load_file(folder / f"{name}.safetensors", str(device)) for name in ("slow", "fast"))
        with torch.no_grad():
            for i, tensor in enumerate(adapter_tensors(self.model, "slow")):
                tensor.copy_(slow[str(i)])
        self.fast = [fast[str(i)] for i in range(len(fast))]
        state = json.loads((folder / "state.json").read_text())
        self.memory.restore(state["memory"], self.encoder)
        self.seconds = state["seconds"]
        return state["results"]

    # ---------------------------------------------------------------- all of it

    def run(self):
        """Returns the report."""
        config = self.config
        self.prepare()
        budget, weights = self._budget()
        results = dict(stages=[], history=[], curve=[])
        done = max((n for n in range(1, len(self.stages) + 1)
                    if (self.out / "state" / f"stage{n}" / "state.json").exists()), default=0)
        if done:
            results = self.load_state(done)
            self.say(f"resuming after stage {done}")
        left = config.max_steps
        for number, stage in enumerate(self.stages, 1):
            share = weights[number - 1]
            steps = max(1, round(left * share / sum(weights[number - 1:]))) if left else 0
            if number > done:
                record, history = self.stage(number, stage, budget * share, steps)
                with self.clock("evaluate"):
                    scores = evaluate_suite(self.model, self.tokenizer, self.brief, "slow", self.encoder)
                results["stages"].append(record)
                results["history"] += [dict(step, stage=number) for step in history]
                results["curve"].append(by_level(scores))
                self.save_state(number, results)
                self.say(_stage_line(number, record, scores))
            left -= results["stages"][number - 1]["steps"] if left else 0
        with self.clock("evaluate"):
            after = self.evaluate("slow", tuple(self.suites), items=True)
        return self.finish(results, after)

    def _budget(self):
        """(tokens of the run, each stage's share of them): by config.tokens, else config.epochs over the new rows."""
        sizes = [len(stage) for stage in self.stages]
        tokens = self.config.tokens
        if not tokens:
            new = sum(count(one) for one in self.encoded)
            tokens = self.config.epochs * new / (1 - self.config.memory_share - self.config.ring_share)
        return tokens, [size / sum(sizes) for size in sizes]

    def finish(self, results, after):
        """Save the adapters, write the report and return it. Adapters first: a report means a complete run."""
        temporary = self.out / "state" / "adapters"
        shutil.rmtree(temporary, ignore_errors=True)
        save_adapter(self.model, "slow", temporary / "adapter")
        with torch.no_grad():
            for tensor, value in zip(adapter_tensors(self.model, "fast"), self.fast):
                tensor.copy_(value)
        save_adapter(self.model, "fast", temporary / "adapter_fast")
        for name in ("adapter", "adapter_fast"):
            shutil.rmtree(self.out / name, ignore_errors=True)
            (temporary / name).replace(self.out / name)
        items = {suite: {task: part.pop("items", {}) for task, part in scores.items()}
                 for suite, scores in after.items()}
        report = make_report(self, results, after)
        write_json(self.out / "items.json", items)
        write_report(report, self.out)
        shutil.rmtree(self.out / "state", ignore_errors=True)
        return report


def is_question(row):
    """A row that is scored by exact match: the cheap part of a test, run after every stage."""
    return row["task"] == "question" or is_short(row)


class _Clock:
    def __init__(self, seconds, name):
        self.seconds, self.name = seconds, name

    def __enter__(self):
        self.start = time.time()

    def __exit__(self, *_):
        self.seconds[self.name] = self.seconds.get(self.name, 0.0) + time.time() - self.start


def _stage_line(number, record, scores):
    parts = [f"{name} {mean_score(score):.3f}" for name, score in scores.items()]
    return (f"stage {number} ({record['name']}): {record['steps']} steps, {record['promoted']} promoted, "
            f"point {record['consolidation']['alpha']:.2f}; test: {', '.join(parts)}")


def train_icft(config, out, data, progress=True):
    """Run the whole method and write `out`: report, figures, adapters. The same call again resumes a run that
    was interrupted, and returns the report of one that is complete.

    config: ICFTConfig or dict; data: samples.DataBundle; out: a folder. Returns the report (a dict).
    Raises ICFTError if `out` holds another run, or the data cannot be trained on."""
    config = config if isinstance(config, ICFTConfig) else ICFTConfig.from_dict(config)
    out = Path(out)
    identity = dict(config=config.to_dict(), sources=getattr(data, "sources", {}))
    marker = out / "run.json"
    if marker.exists():
        if json.loads(marker.read_text()) != json.loads(json.dumps(identity)):
            raise ICFTError(f"{out}: holds another run (its run.json has other settings or data); "
                            f"choose another --out, or delete that folder")
        if (out / "report.json").exists():
            if progress:
                print(f"{out}: this run is complete; nothing to do")
            return json.loads((out / "report.json").read_text())
    elif out.exists() and any(out.iterdir()):
        raise ICFTError(f"{out}: is not empty and holds no run; choose another --out")
    write_json(marker, identity)
    return Run(config, data, out, progress).run()
