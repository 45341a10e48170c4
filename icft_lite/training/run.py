"""train_icft: the whole method. Base, labels, memory, curriculum; then stage by stage; then the report."""

import contextlib
import json
import shutil
from functools import partial
from pathlib import Path

from tqdm.auto import tqdm
from transformers import set_seed

from icft_lite.config import ICFTConfig
from icft_lite.curriculum import build_curriculum, score_difficulty
from icft_lite.data.schema import LEVELS
from icft_lite.data.tables import column
from icft_lite.errors import ICFTError
from icft_lite.evaluation import Suite, evaluate_suite, is_short_answer
from icft_lite.memory.long_term import LongTermMemory
from icft_lite.memory.rehearsal import seed_memory
from icft_lite.memory.teachers import mean_states
from icft_lite.metrics import mean_score
from icft_lite.modeling.adapters import adapter_tensors, add_adapters, save_adapter, set_adapter_tensors
from icft_lite.modeling.base import dequantize_base, load_base, model_fingerprint
from icft_lite.modeling.cache import OutputCache
from icft_lite.modeling.encoding import Encoder, encode_examples
from icft_lite.reporting.build import build_report, by_level
from icft_lite.reporting.render import write_report
from icft_lite.training.checkpoint import (
    last_saved_stage,
    load_state,
    remove_partial_files,
    remove_superseded,
    save_state,
    stage_file,
)
from icft_lite.training.examples import make_training_examples
from icft_lite.training.plan import plan_token_budget
from icft_lite.training.stage import Stage
from icft_lite.training.timing import Clock
from icft_lite.utils.distributed import init_processes, on_main_process, process_device, rank, world_size
from icft_lite.utils.io import write_json
from icft_lite.utils.lock import LOCK, alone


class Run:
    """One run of the method: what it holds between stages. Use `train_icft`."""

    def __init__(self, config, data, out, progress=True, callbacks=()):
        self.config, self.data, self.out, self.progress = config, data, Path(out), progress and not rank()
        self.state = self.out / "state"
        self.seconds, self.callbacks = {}, () if rank() else callbacks

    def clock(self, name):
        """Context manager: add the block's seconds to `name`."""
        self.tell("on_phase", phase=name)
        return Clock(self, name)

    def tell(self, event, **facts):
        """Tell the callbacks, see `train_icft`."""
        _tell(self.callbacks, event, run=self, **facts)

    def say(self, text):
        if self.progress:
            tqdm.write(text)

    # ---------------------------------------------------------------- before the stages

    def prepare(self):
        """Load the base, score it, label the pool, seed the long-term memory, build the curriculum."""
        config, data = self.config, self.data
        set_seed(config.seed)
        with self.clock("load"):
            base, self.tokenizer = load_base(config.model, config.four_bit, process_device())
            if base.device.type == "cpu":
                base = dequantize_base(base, config.unpack_below * 2**20)
            self.model = add_adapters(base, config.lora_rank, config.lora_alpha, config.seed)
            self.cache = OutputCache(self.model, self.state / "kept", config.states_in_memory * 2**20)
            self.encoder = Encoder(self.tokenizer, config.max_length, config.letter_options, config.share_prompts)
            suites = dict(
                general_validation=data.general_validation,
                medical_validation=data.validation,
                general=data.general_test,
                medical=data.test,
            )
            self.suites = {
                name: Suite.of(rows, self.encoder, options="validation" not in name)
                for name, rows in suites.items()
                if rows is not None and len(rows)
            }
            self.brief = {
                name: Suite.of(suite.examples, self.encoder, options=False).subset(is_question)
                for name, suite in self.suites.items()
                if name in ("general", "medical")
            }
        with self.clock("evaluate"):
            self.say(f"base {config.model}: scoring {sum(len(s.examples) for s in self.suites.values())} examples")
            self.before = self.evaluate("base", tuple(self.suites))
        with self.clock("label"):
            self.rows, self.weak = make_training_examples(data, config, self.model, self.encoder)
            self.rows, self.encoded, self.left_out = encode_examples(self.rows, self.encoder)
            if self.left_out:
                self.say(f"{len(self.left_out)} training rows do not fit max_length={config.max_length}: left out")
        if not self.rows:
            raise ICFTError("data: no training row is left (no trusted row, and no labelling function voted)")
        with self.clock("seed memory"):
            self.memory = LongTermMemory(
                config.memory_size,
                config.memory_policy,
                config.reservoir_share,
                config.state_dtype,
                config.seed,
                partial(mean_states, self.model),
                bool(config.consistency_weight) and config.consistency_tokens == "all",
            )
            if config.memory_share:
                held_out = [
                    row
                    for name in ("general", "general_validation")
                    if name in self.suites
                    for row in self.suites[name].examples
                ]
                seed_memory(
                    self.memory,
                    data.general_memory,
                    held_out,
                    self.model,
                    self.tokenizer,
                    self.encoder,
                    config.self_prompts,
                    config.seed,
                )
                self.say(
                    f"long-term memory: {len(self.memory)} rows from "
                    f"{len({e.example['topic'] for e in self.memory.entries})} topics"
                )
        with self.clock("difficulty"):
            self.difficulty = score_difficulty(self.rows, self.model, self.encoded, config.signals, self.cache)
            self.stages = build_curriculum(column(self.rows, "level"), self.difficulty, config.order)

    def evaluate(self, adapter, names, **kwargs):
        suites = {name: self.suites[name] for name in names if name in self.suites}
        self.model.eval()
        return on_main_process(
            lambda: evaluate_suite(self.model, self.tokenizer, suites, adapter=adapter, encoder=self.encoder, **kwargs)
        )

    def stage_name(self, number):
        order = self.config.order
        if order in ("random", "interleaved"):
            return f"{order} {number}"
        names = LEVELS if order == "easy_to_hard" else LEVELS[::-1]
        return names[number - 1] if len(self.stages) == 3 else f"part {number}"

    # ---------------------------------------------------------------- what a killed run goes on from

    def save_stage(self, number, results):
        """Save everything the next stage starts from."""
        memory = [dict(example=e.example, source=e.source, surprise=e.surprise) for e in self.memory.entries]
        save_state(
            stage_file(self.state, number),
            dict(slow=adapter_tensors(self.model, "slow"), fast=self.fast),
            dict(memory=memory, results=results, seconds=self.seconds),
        )
        remove_superseded(self.state, number)

    def load_stage(self, number):
        """Restore `save_stage`. Returns its results."""
        groups, facts = on_main_process(lambda: load_state(stage_file(self.state, number)))
        set_adapter_tensors(self.model, "slow", groups["slow"])
        self.fast, self.seconds = groups["fast"], facts["seconds"]
        self.memory.restore(facts["memory"], self.encoder)
        return facts["results"]

    # ---------------------------------------------------------------- all of it

    def run(self):
        """Returns the report."""
        config = self.config
        self.prepare()
        budget, weights = plan_token_budget(self.stages, self.encoded, config)
        results = dict(stages=[], history=[], curve=[])
        done = on_main_process(lambda: last_saved_stage(self.state, len(self.stages)))
        if done:
            results = self.load_stage(done)
            self.say(f"resuming after stage {done}")
        self.tell("on_run_begin", results=results, shares=weights)
        left = config.max_steps
        for number, stage in enumerate(self.stages, 1):
            share = weights[number - 1]
            steps = None
            if config.max_steps:  # at least one a stage, as long as there are any
                steps = min(left, max(1, round(left * share / sum(weights[number - 1 :]))))
            if number > done:
                span = sum(weights[: number - 1]), sum(weights[:number])
                record, history = Stage(self, number, stage, span).run(budget * share, steps)
                with self.clock("evaluate"):
                    scores = on_main_process(
                        lambda: evaluate_suite(self.model, self.tokenizer, self.brief, "slow", self.encoder)
                    )
                results["stages"].append(record)
                results["history"] += [dict(step, stage=number) for step in history]
                results["curve"].append(by_level(scores))
                on_main_process(lambda: self.save_stage(number, results))
                self.tell("on_stage_end", record=record, scores=results["curve"][-1])
                self.say(_stage_line(number, record, scores))
            left -= results["stages"][number - 1]["steps"]
        with self.clock("evaluate"):
            after = self.evaluate("slow", tuple(self.suites), items=True)
        return on_main_process(lambda: self.finish(results, after))

    def finish(self, results, after):
        """Save the adapters, write the report and return it. Adapters first: a report means a complete run."""
        temporary = self.state / "adapters"
        shutil.rmtree(temporary, ignore_errors=True)
        save_adapter(self.model, "slow", temporary / "adapter")
        set_adapter_tensors(self.model, "fast", self.fast)
        save_adapter(self.model, "fast", temporary / "adapter_fast")
        for name in ("adapter", "adapter_fast"):
            shutil.rmtree(self.out / name, ignore_errors=True)
            (temporary / name).replace(self.out / name)
        items = {
            suite: {task: part.pop("items", {}) for task, part in scores.items()} for suite, scores in after.items()
        }
        report = build_report(self, results, after)
        write_json(self.out / "items.json", items)
        write_report(report, self.out)
        return report


def is_question(row):
    """A row that is scored by exact match: the cheap part of a test, run after every stage."""
    return row["task"] == "question" or is_short_answer(row)


def _stage_line(number, record, scores):
    parts = [f"{name} {mean_score(score):.3f}" for name, score in scores.items()]
    steps = f"{record['steps']} step{'s' * (record['steps'] != 1)}"
    return (
        f"stage {number} ({record['name']}): {steps}, {record['promoted']} promoted, "
        f"point {record['consolidation']['alpha']:.2f}; test: {', '.join(parts)}"
    )


def train_icft(config, out, data, progress=True, callbacks=()):
    """Run the whole method and write `out`: report, figures, adapters. The same call again resumes a run that
    was interrupted, and returns the report of one that is complete.

    config: ICFTConfig or dict; data: samples.DataBundle; out: a folder; callbacks: TrainerCallbacks, which every
    stage's trainer calls. Those that have a method on_run_begin, on_phase, on_stage_begin, on_point, on_stage_end or
    on_run_end hear of that too (`widgets.Dashboard` has them all). Returns the report (a dict).
    Raises ICFTError if `out` holds another run, another process is at work there, or the data cannot be
    trained on."""
    config = config if isinstance(config, ICFTConfig) else ICFTConfig.from_dict(config)
    out, data = Path(out), data.only(config.topics)
    identity = json.loads(
        json.dumps(
            dict(config=config.to_dict(), sources=getattr(data, "sources", {}), base=model_fingerprint(config.model))
        )
    )
    init_processes()
    if world_size() > 1:
        identity["processes"] = world_size()  # a step has `rows` rows for each
    with contextlib.ExitStack() as held:
        report = on_main_process(lambda: _begin(held, out, identity, progress))
        if not report:
            report = Run(config, data, out, progress, callbacks).run()
    on_main_process(lambda: _clear(out))
    _tell(() if rank() else callbacks, "on_run_end", report=report)
    return report


def _tell(callbacks, event, **facts):
    """Call the method `event` of every callback that has one."""
    for callback in callbacks:
        if hasattr(callback, event):
            getattr(callback, event)(**facts)


def _begin(held, out, identity, progress):
    """The report of this run if it is complete, else None; then `held` holds the folder's lock."""
    report = _finished(out, identity)
    if report and progress:
        print(f"{out}: this run is complete; nothing to do")
    if not report:
        held.enter_context(alone(out))
        remove_partial_files(out, out / "state", out / "state" / "kept")
        report = _finished(out, identity)  # another process may have ended it since we looked
        if not report:
            write_json(out / "run.json", identity)
    return report


def _finished(out, identity):
    """The report of this run if it is complete, else None. Raises ICFTError if `out` holds anything else."""
    if (out / "run.json").exists():
        if json.loads((out / "run.json").read_text()) != identity:
            raise ICFTError(
                f"{out}: holds another run (its run.json has other settings, data, base or processes); "
                f"choose another --out, or delete that folder"
            )
        return json.loads((out / "report.json").read_text()) if (out / "report.json").exists() else None
    if out.exists() and any(path.name != LOCK and path.suffix != ".part" for path in out.iterdir()):
        raise ICFTError(f"{out}: is not empty and holds no run; choose another --out")


def _clear(out):
    """Remove what only an unfinished run needs."""
    shutil.rmtree(out / "state", ignore_errors=True)
    with contextlib.suppress(OSError):
        (out / LOCK).unlink()
