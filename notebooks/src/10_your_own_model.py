# ---
# jupyter:
#   lesson:
#     minutes: {cpu: 2, t4: 40}
#     peak_gib: {cpu: 2, t4: 8}
#     predicted: [t4]
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# {{badge}}
#
# # 10 · Your own model and data
#
# Here you bring your own model and data: SmolLM2-135M-Instruct on a CPU, or a model of 0.6 billion parameters on one
# GPU. You read two public data sets, predict a run's memory and measure it, judge a complete recorded run, and export
# the result.

# %% [markdown]
# **You will be able to**
#
# - check whether a model and a data set suit the package;
# - predict a run's memory part by part, and measure it;
# - score options from log-probabilities, with an interval and a baseline;
# - state what a real run learned and forgot, and what it could not show;
# - export an adapter or merged weights with a model card.
#
# **You need** lessons 00 to 06, above all 04 and 06.

# %% [markdown]
# {{budget}}
#
# Where the text says **predict**, write down a guess first. The course's paper names neither models nor data sets,
# so both choices are *our reading* of "general to medical". Questions and answers are teaching material, **not
# medical advice**.
#
# ## Set-up

# %%
# {{setup}}

# %%
import json
import os
import tempfile
import warnings
import weakref
from contextlib import suppress
from pathlib import Path

import pandas as pd
import torch
from huggingface_hub import HfApi, ModelCard, get_token
from IPython.display import Image
from peft import PeftModel
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, Qwen3Config, logging

from icft_lite import Encoder, ICFTError, add_adapters, load_base, read_examples
from icft_lite.experiments.own_data import NUM_QUESTIONS, SETTINGS, load_data, read_suites, run_all, score_changes
from icft_lite.experiments.recorded import LESSON_10, load_recorded
from icft_lite.finished_runs import export, load_run
from icft_lite.modeling.base import load_tokenizer
from icft_lite.modeling.forward import head_weight, hidden_states
from icft_lite.modeling.losses import chunk_size, token_kl, token_logprobs
from icft_lite.modeling.packing import join_batch
from icft_lite.report_file import read_report
from icft_lite.reporting.concepts import memory_budget
from icft_lite.reporting.lessons.budget import memory_bars
from icft_lite.reporting.lessons.own_data import draw_changes
from icft_lite.reporting.lessons.peak import print_peak
from icft_lite.reporting.style import png
from icft_lite.statistics import binomial_interval, mean_interval
from icft_lite.widgets import ask_table

warnings.simplefilter("ignore", FutureWarning)  # what other libraries plan is not our subject
logging.set_verbosity_error()
logging.disable_progress_bar()
here = Path.cwd()
os.chdir(tempfile.mkdtemp())  # every file of this lesson goes to a folder of its own

# %% [markdown]
# **One line chooses the model.** `"tiny-qwen3"` has the architecture of Qwen3 and random weights. It is built here, the
# lesson runs in a minute, and the model learns no medicine. `"smollm2"` repeats the recorded run of section 6. For
# `"Qwen/Qwen3-0.6B"` choose a T4: the T4 figures above are predicted, nobody has measured them on a T4.

# %%
MODEL = "tiny-qwen3"  # or "smollm2", or "Qwen/Qwen3-0.6B"
MEDQUAD, PUBMEDQA, GENERAL = "medquad.jsonl", "ori_pqal.json", "general"  # files and a folder next to this notebook


def can_load(model, *sources):
    """Whether a model and data can be read here. Prints what is missing."""
    try:
        load_tokenizer(model)
        for source in sources:
            read_examples(source)
    except ICFTError as error:
        print(f"{model} is skipped, because {error}\nThe lesson continues with tiny-qwen3.")
        return False
    return True


REAL = MODEL != "tiny-qwen3" and can_load(MODEL, here / MEDQUAD, here / PUBMEDQA)
MODEL = MODEL if REAL else "tiny-qwen3"

# %% [markdown]
# ## 1 · Data in its own format
#
# Two public sets, both free to use. **MedQuAD** (CC BY 4.0) has questions and answers from pages of American health
# institutes: free replies, in our sample of up to 250 words. **PubMedQA** (MIT) has 1,000 research questions that
# experts answered with yes, no or maybe, each with the abstract it was taken from.

# %% [markdown]
# Offline we need examples of the same form: general knowledge in our own words. MedQuAD's questions have a *focus*, a
# disease; examples with one focus are never split between training and test. PubMedQA has two lines here: question and
# answer, abstract and conclusion. Below, both are in each set's own columns.

# %%
LEAFLETS = """
asthma | symptoms | What are the symptoms? | Wheezing, a tight chest, and a cough that is often worse at night.
asthma | treatment | What is the treatment? | Inhalers open the airways at once; others calm the inflammation every day.
anemia | symptoms | What are the symptoms? | Tiredness, pale skin, and shortness of breath on stairs or in sport.
anemia | causes | What causes it? | Too little iron in the food, loss of blood, or a disease of the bone marrow.
gout | symptoms | What are the symptoms? | Sudden pain, swelling and redness of a joint, most often of the big toe.
gout | prevention | How can it be prevented? | Drink enough water, less beer, and eat less meat and seafood.
measles | symptoms | What are the symptoms? | Fever, a cough and red eyes, then a rash that begins on the face.
measles | prevention | How can it be prevented? | Two doses of vaccine protect nearly everybody for the whole life.
migraine | symptoms | What are the symptoms? | A throbbing headache on one side, nausea, and eyes that light hurts.
migraine | treatment | What is the treatment? | Rest in a dark room, a painkiller early on, and triptans if needed.
scurvy | causes | What causes it? | Food without fresh fruit and vegetables, and so without vitamin C, for months.
scurvy | treatment | What is the treatment? | Vitamin C for some weeks; bleeding of the gums stops within days.
"""

# %%
ABSTRACTS = """
Does washing hands lower the spread of infections? | yes
Hands carry germs from person to person. Soap removes most of them. | Washing hands lowers the spread of infections.
Do antibiotics cure the common cold? | no
Colds are caused by viruses. Antibiotics act on bacteria. | Antibiotics do not cure the common cold.
Is smoking related to lung cancer? | yes
Smoke damages DNA. Most people with lung cancer have smoked. | Smoking is strongly associated with lung cancer.
Does vitamin C prevent colds? | maybe
Taken daily, it hardly changed how often people caught one. | It may help in selected groups, not in most people.
Is it safer for babies to sleep on their front? | no
After advice to lay babies on their backs, sudden infant deaths fell. | Sleeping on the front is not safer.
Is insulin necessary in type 1 diabetes? | yes
The pancreas no longer makes insulin. | Insulin is necessary for everybody with type 1 diabetes.
Does high blood pressure increase the risk of stroke? | yes
Strokes rise steadily with blood pressure. | High blood pressure increases the risk of stroke.
Is a brain scan necessary for every headache? | no
Without warning signs, scans seldom find a cause. | A scan is not necessary for every headache.
Is coffee bad for the heart? | maybe
Moderate amounts were not linked to disease; large ones cause palpitations. | The effect depends on the amount.
Does training help older people to keep their balance? | yes
With training of strength and balance, falls were fewer. | Training helps older people to keep their balance.
Is aspirin safe in children with viral infections? | no
It has been linked to Reye syndrome, which harms brain and liver. | Aspirin is not safe in children with infections.
Does measles vaccination reduce measles? | yes
After two doses nearly everybody is immune. | Measles vaccination reduces measles.
"""

# %%
# NBVAL_CHECK_OUTPUT
def leaflet_row(number, line):
    focus, kind, question, answer = (part.strip() for part in line.split("|"))
    return dict(id=f"leaflet-{number}", focus=focus, qtype=kind, question=f"{focus}: {question}", answer=answer)


def abstract_row(number, first, second):
    (question, decision), (context, conclusion) = (map(str.strip, line.split("|")) for line in (first, second))
    return dict(pubid=1000 + number, question=question, context=dict(contexts=[context]), long_answer=conclusion,
                final_decision=decision)


own_leaflets = [leaflet_row(n, line) for n, line in enumerate(LEAFLETS.strip().splitlines())]
lines = ABSTRACTS.strip().splitlines()
own_abstracts = [abstract_row(n, *pair) for n, pair in enumerate(zip(lines[::2], lines[1::2]))]
print(len(own_leaflets), "like MedQuAD:", own_leaflets[1])
print(len(own_abstracts), "like PubMedQA:", own_abstracts[1])

# %% [markdown]
# Of the real sets, the package reads MedQuAD as JSON lines with these columns (or as CSV from Kaggle), and PubMedQA's
# `ori_pqal.json` as it was released. The 500 published test ids are in `test_ground_truth.json`: put it into the same
# folder. For our own examples we write a list of test ids ourselves.

# %%
sources = [here / MEDQUAD, here / PUBMEDQA] if REAL else ["leaflets.jsonl", "abstracts.jsonl"]
options = {}
if not REAL:
    for file, rows in zip(sources, (own_leaflets, own_abstracts)):
        Path(file).write_text("".join(json.dumps(row) + "\n" for row in rows))
    test_ids = [row["id"] for row in own_leaflets[:4]] + [str(row["pubid"]) for row in own_abstracts[::2]]
    Path("test_ids.txt").write_text("\n".join(test_ids))
    options = {"test_ids": "test_ids.txt"}

# %%
# NBVAL_CHECK_OUTPUT
for source in sources:
    example = read_examples(source)[1]
    for name in ("task", "topic", "entity", "context", "prompt", "responses", "label"):
        print(f"{name:10} {example[name]}")
    print()

# %% [markdown]
# **Predict.** Three roles are to be given: *trusted* examples teach with their answers, the *pool* gets weak labels,
# the *test* is only for scoring. Which examples go where?

# %%
# NBVAL_CHECK_OUTPUT
data, test = load_data(*sources, **options)
for role, part in {"trusted": data.trusted, "pool": data.pool, "validation": data.validation, "test": test}.items():
    print(f"{role:10} {len(part):3} examples; sets {sorted(set(part['topic'][:]))}")
print("labels left in the pool:", sum(label >= 0 for label in data.pool["label"][:]))
print("no test example is trained on:", not set(test["id"][:]) & {*data.trusted["id"][:], *data.pool["id"][:]})

# %% [markdown]
# MedQuAD is trusted. PubMedQA's answers are set aside: votes on the conclusions take their place (lesson 02). The
# general data is the suite for chat models, `chat`. For your own model, name what *you* want it to retain.
#
# ## 2 · A model that fits
#
# Here is a small model of Qwen3's classes with random weights, a tokenizer trained on the examples above, and the same
# **chat template**, the text that marks whose turn it is.

# %%
CHAT = """{% for m in messages %}<|im_start|>{{ m['role'] }}
{% if m['role'] == 'assistant' %}<think>\n\n</think>\n\n{% endif %}{{ m['content'] }}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
<think>\n\n</think>\n\n{% endif %}"""
SMALL = dict(hidden_size=128, num_hidden_layers=3, intermediate_size=384, num_attention_heads=4,
             num_key_value_heads=2, head_dim=64, tie_word_embeddings=True)


def small_tokenizer(texts):
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    bpe.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=1024, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>"]))
    return PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<|im_end|>", pad_token="<|endoftext|>",
                                   chat_template=CHAT)


def build(folder, **sizes):
    """Write a model of Qwen3's architecture with random weights to `folder`. Returns `folder`."""
    tokenizer = small_tokenizer([LEAFLETS, ABSTRACTS])
    torch.manual_seed(0)
    config = Qwen3Config(vocab_size=len(tokenizer), eos_token_id=tokenizer.eos_token_id, **sizes)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder

# %% [markdown]
# A model on the *meta* device has shapes and no numbers, so Qwen3-0.6B itself can be inspected at no cost. **Predict**:
# how many of its 0.6 billion parameters are embeddings?

# %%
# NBVAL_CHECK_OUTPUT
if not REAL:
    build(MODEL, **SMALL)
base, tokenizer = load_base(MODEL)  # a folder or a name on the Hub
QWEN3 = Qwen3Config(vocab_size=151936, hidden_size=1024, num_hidden_layers=28, intermediate_size=3072,
                    num_attention_heads=16, num_key_value_heads=8, head_dim=128, tie_word_embeddings=True)
with torch.device("meta"):
    qwen3 = AutoModelForCausalLM.from_config(QWEN3)


def kinds(model):
    """Names of its parameters, layers' numbers taken out."""
    return {".".join(part for part in key.split(".") if not part.isdigit()) for key, _ in model.named_parameters()}


count = sum(parameter.numel() for parameter in qwen3.parameters())
print("same kinds of parameters:", kinds(base) == kinds(qwen3))
print(f"{count:,} parameters, of them embeddings: {151936 * 1024 / count:.0%}")

# %% [markdown]
# A quarter: a large vocabulary is a large part of a small model. Embeddings are not quantized, and here they are the
# output head too (they are *tied*).
#
# Not every model fits. The package refuses what it could not train correctly, in one line:

# %%
# NBVAL_CHECK_OUTPUT
without_template = small_tokenizer([LEAFLETS])
without_template.chat_template = None
for attempt in (lambda: load_base(build("odd", **{**SMALL, "hidden_size": 96}), device="cpu"),
                lambda: Encoder(without_template)):
    try:
        attempt()
    except ICFTError as error:
        print(error)

# %% [markdown]
# **Look at what the model sees** before you train it: most of the failures that lesson 06 lists are visible here. An
# abstract that is too long is shortened to fit `max_length`; a question or an answer never is.
#
# **Predict**: which of the tokens below are supervised, that is, enter a loss?

# %%
# NBVAL_CHECK_OUTPUT
encoder = Encoder(tokenizer, max_length=512)
one = encoder(data.trusted[0])
print(tokenizer.decode(one.sequences[0]))
print("supervised:", tokenizer.decode([target for _, _, target, _ in one.tokens]))
print("supervised in a question of PubMedQA:", [tokenizer.decode(t) for _, _, t, _ in encoder(test[-1]).tokens])

# %% [markdown]
# The reply and its end of turn are supervised, not the question. Of a PubMedQA question, all three options are scored,
# each with its end of turn. In training only the voted option is left.
#
# ## 3 · The budget, before
#
# Seven parts take memory. The first five follow from the model's shape alone (lesson 04 derives NF4's bits).
#
# | part | bytes |
# |---|---|
# | layers' weights in NF4 | 4.127 bits each |
# | embeddings (and head) | 2 each in 16 bits, 4 in fp32 |
# | fast and slow adapter, fp32 | 8 per LoRA parameter |
# | gradient, AdamW's two averages | 4 + 8 |
# | copies: the stage's start, three gradients now and then | 4 + 12 |

# %%
Image(png(memory_budget.draw(), dpi=110), width=860, metadata={"alt": memory_budget.draw.__doc__})

# %% [markdown]
# **Activations** are what the backward pass needs again. In fp32, a token has in each layer, with hidden width $H$, MLP
# width $I$, query width $Q$, key width $K$ and rank $r$:
#
# - $4H$: the input and the output of both norms;
# - $3Q + 3K$: queries and keys before and after their rotation by position, values, the result of attention;
# - $4I$: outputs of the MLP's first two weights (gate and up), the activation of gate, and the product;
# - $7r$: between $A$ and $B$ of seven adapters.

# %% [markdown]
# **Predict**: how much of that does computing in 16 bits save on a T4, half?
#
# Less. Adapters stay in fp32 (lesson 04), so each of the seven makes an fp32 copy of its input, and norms compute in
# fp32 too. In bytes: $28H + 12Q + 8K + 10I + 28r$.
#
# The seventh part is logits: up to six arrays of at most 64 MiB each (`chunk_size`).

# %%
def budget(c, tokens, supervised, rank=32, value=2):
    """Bytes by part. c: a Qwen3Config; tokens: of one forward pass, padding included; supervised: those of them
    that enter a loss; value: bytes of a computed number, 2 or 4."""
    H, I, r = c.hidden_size, c.intermediate_size, rank  # noqa: E741
    Q, K = c.num_attention_heads * c.head_dim, c.num_key_value_heads * c.head_dim
    sides = [(H, Q), (H, K), (H, K), (Q, H), (H, I), (H, I), (I, H)]
    weights = c.num_hidden_layers * sum(a * b for a, b in sides)
    lora = c.num_hidden_layers * r * sum(a + b for a, b in sides)
    fp32 = 4 * (4 * H + 3 * Q + 3 * K + 4 * I + 7 * r)
    saved = fp32 if value == 4 else 28 * H + 12 * Q + 8 * K + 10 * I + 28 * r
    return {"weights, NF4": weights * (4 + 8 / 64 + 32 / (64 * 256)) / 8,
            "embeddings and head": value * c.vocab_size * H * (1 if c.tie_word_embeddings else 2),
            "two adapters": 8 * lora, "gradient, AdamW": 12 * lora, "copies": 16 * lora,
            "activations": tokens * c.num_hidden_layers * saved,
            "logits of a chunk": 6 * 4 * min(supervised, chunk_size(c.vocab_size, 2)) * c.vocab_size}

# %% [markdown]
# A step of 16 examples in four *micro-batches* has forward passes of four examples. With 400 tokens each, that is 1,600
# tokens, of which some 300 need logits: those of the replies. **Predict** the largest part.

# %%
# NBVAL_CHECK_OUTPUT
SIZES = {"0.6 B": (1024, 28, 3072, 16), "1.7 B": (2048, 28, 6144, 16), "4 B": (2560, 36, 9728, 32)}
sisters = {label: Qwen3Config(vocab_size=151936, hidden_size=h, num_hidden_layers=n, intermediate_size=i,
                              num_attention_heads=q, num_key_value_heads=8, head_dim=128, tie_word_embeddings=True)
           for label, (h, n, i, q) in SIZES.items()}
table = pd.DataFrame({label: budget(c, tokens=1600, supervised=300) for label, c in sisters.items()}) / 2**30
print(table.round(2).to_string())
print("in all", table.sum().round(1).to_dict())
print("largest part:", sorted(set(table.idxmax())))

# %%
figure = memory_bars(table, 14.5, "QLoRA with ICFT, 1,600 tokens per forward pass")
Image(png(figure), width=700, metadata={"alt": "Predicted memory of three Qwen3 models by part, in GiB."})

# %% [markdown]
# The quantized weights are small; activations dominate. A step is split into forward passes of about 1,024 tokens; if
# memory is short, raise `micro_batches` (of `RuntimeConfig`), which changes no gradient (lesson 06). CUDA and the
# libraries take about 0.7 GiB more. Teacher states are in the computer's own memory: $4H$ bytes per token of a memory
# example, 0.23 GiB for 60,000 tokens.

# %% [markdown]
# ## 4 · The budget, measured
#
# Bytes do not depend on the device, so a prediction can be checked on any machine. First the weights: all of them are
# there before the first step.

# %%
def weight_bytes(model):
    """Bytes of the 4-bit weights and their scales."""
    total = 0
    for weight in model.parameters():
        if state := getattr(weight, "quant_state", None):
            total += sum(t.nbytes for t in (weight, state.absmax, state.state2.absmax, state.offset))
    return total


model = add_adapters(base, rank=32, alpha=64)
predicted = budget(base.config, tokens=0, supervised=0, value=base.dtype.itemsize)
adapters = sum(p.nbytes for key, p in model.named_parameters() if ".lora_" in key)
embeddings = head_weight(model).nbytes
print(f"weights    {weight_bytes(model):11,} bytes, predicted {predicted['weights, NF4']:13,.0f}")
print(f"embeddings {embeddings:11,} bytes, predicted {predicted['embeddings and head']:13,}")
print(f"adapters   {adapters:11,} bytes, predicted {predicted['two adapters']:13,}")

# %%
# NBVAL_CHECK_OUTPUT
print("weights within 2 %:", abs(weight_bytes(model) / predicted["weights, NF4"] - 1) < 0.02)
print("embeddings and adapters exactly:", (embeddings, adapters) == (predicted["embeddings and head"],
                                                                      predicted["two adapters"]))

# %% [markdown]
# The formula of the activations was counted by hand, so it is the most likely to be wrong. `saved_tensors_hooks` shows
# every tensor that is saved for the backward pass (lesson 04). We measure *one real layer* of Qwen3-0.6B, at full
# width.

# %%
def saved_bytes(config, dtype, tokens=32):
    """Bytes that a forward pass saves for the backward pass, for a token and a layer."""
    with torch.random.fork_rng():
        one_layer = AutoModelForCausalLM.from_config(config, dtype=dtype).requires_grad_(False)
        one_layer = add_adapters(one_layer, rank=32, alpha=64)
    own, saved = {p.untyped_storage().data_ptr() for p in one_layer.parameters()}, {}

    def look(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:  # weights are there anyway
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    ids = torch.ones(1, tokens, dtype=torch.long)
    with torch.autograd.graph.saved_tensors_hooks(look, lambda tensor: tensor):
        _ = hidden_states(one_layer, dict(input_ids=ids, attention_mask=ids))
    return sum(saved.values()) / tokens / config.num_hidden_layers

# %%
layer = Qwen3Config(**{**QWEN3.to_dict(), "num_hidden_layers": 1, "vocab_size": 64, "layer_types": None})
seen = {dtype: saved_bytes(layer, dtype) for dtype in (torch.float32, torch.float16)}
said = {dtype: budget(layer, 1, 0, value=dtype.itemsize)["activations"] for dtype in seen}
for dtype in seen:
    print(f"{str(dtype):14} {seen[dtype]:8,.0f} bytes a token and layer, predicted {said[dtype]:8,}")

# %%
# NBVAL_CHECK_OUTPUT
print("both within 5 %:", all(abs(seen[dtype] / said[dtype] - 1) < 0.05 for dtype in seen))
print("16 bits save between 5 and 15 %:", 0.05 < 1 - seen[torch.float16] / seen[torch.float32] < 0.15)

# %% [markdown]
# Last, a whole step. On a GPU `torch.cuda.max_memory_allocated()` returns its peak. A CPU has no such counter, so we
# count ourselves: a *dispatch mode* sees the tensors of every operation, a finalizer runs when one is freed.

# %%
class Ledger(TorchDispatchMode):
    """Counts the bytes of tensors made in the block: `live` now, `peak` at most."""

    def __init__(self):
        super().__init__()
        self.live, self.peak, self.known = 0, 0, set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.enter((args, kwargs), made=False)
        out = func(*args, **(kwargs or {}))
        self.enter(out, made=True)  # a view of something known adds nothing
        return out

    def enter(self, tensors, made):
        for tensor in tree_leaves(tensors):
            if isinstance(tensor, torch.Tensor) and id(storage := tensor.untyped_storage()) not in self.known:
                size = storage.nbytes() if made else 0
                self.known.add(id(storage))
                self.live, self.peak = self.live + size, max(self.peak, self.live + size)
                weakref.finalize(storage, self.leave, id(storage), size)

    def leave(self, key, size):
        self.known.discard(key)
        self.live -= size

# %%
fast = [p for key, p in model.named_parameters() if ".fast." in key]
optimizer = torch.optim.AdamW(fast, lr=1e-4)
batch = join_batch([encoder(data.trusted[n]) for n in range(6)], 0, base.device)


def step():
    optimizer.zero_grad()
    states = hidden_states(model, batch)[batch["row"], batch["position"]]
    head = head_weight(model)
    loss = token_kl(states, states.detach() + 0.1, head).mean() - token_logprobs(states, head, batch["target"]).mean()
    loss.backward()
    optimizer.step()


with Ledger() as books:
    for _ in range(2):  # AdamW's averages come to be in the first
        step()

parts = budget(base.config, batch["input_ids"].numel(), len(batch["target"]), value=base.dtype.itemsize)
made = sum(parts[part] for part in ("activations", "logits of a chunk", "gradient, AdamW"))
print(f"peak of a step: {books.peak / 2**20:.1f} MiB, predicted {made / 2**20:.1f} MiB")

# %%
# NBVAL_CHECK_OUTPUT
print("within 25 %:", abs(books.peak / made - 1) < 0.25)

# %% [markdown]
# It holds. With `MODEL = "smollm2"` a step of six answers took 1,486 MiB, predicted 1,705.
#
# It held on a GPU too. An H200, limited to a T4's 15 GiB and its fp16, took 3.8 GiB for a step of 1,024 tokens with
# Qwen3-0.6B's shape, and 6.7 with that of the 1.7 B (`benchmarks/fit.py`). The seven parts predict 4.0 and 6.9.

# %% [markdown]
# ## 5 · Train
#
# Two methods with the same number of tokens: plain LoRA and ICFT. In a terminal, one of them is
#
# ```
# icft-lite train --data medquad.jsonl ori_pqal.json --general chat --model smollm2 --method icft --out own/icft
# ```
#
# `run_all` trains both, then scores the base and both results once, on the same test. A model of 0.6 billion
# parameters needs a smaller learning rate.

# %%
model = base = optimizer = fast = batch = None  # make room for the run
SMALL_RUN = {"optim.max_steps": 3, "limits.validation": 2, "limits.test": 2, "long_term.size": 8}
LARGER_RUN = {"optim.max_tokens": 100_000, "optim.batch_size": 16, "optim.learning_rate": 2e-4,
              "limits.trusted": 600, "limits.pool": 400}
settings = SETTINGS | ({} if MODEL == "smollm2" else LARGER_RUN if REAL else SMALL_RUN)
suites = read_suites(here / GENERAL if (here / GENERAL).is_dir() else None, NUM_QUESTIONS) if REAL else {}
live = run_all(MODEL, data, test, suites, "run", settings, progress=REAL)
report = read_report("run/icft")


def used(runs):
    """What each run was trained on: tokens, steps, and sequences that are new or from the memory."""
    memory = {name: one["examples"].get("memory", 0) for name, one in runs.items()}
    return pd.DataFrame({name: {"tokens": one["cost"]["tokens"], "steps": sum(part["steps"] for part in one["stages"]),
                                "new": sum(one["examples"].values()) - memory[name], "memory": memory[name]}
                         for name, one in runs.items()})


used(live["runs"])

# %%
# NBVAL_CHECK_OUTPUT
losses = pd.DataFrame(report["losses"])
weight = report["config"]["loss"]["consistency_weight"]
gap = losses["total"] - weight * losses["consistency"] - losses["task"] - losses["fine_tune"]
print("total = weight · consistency + task + fine-tune:", bool(gap.abs().max() < 1e-3))
print("LoRA parameters as predicted:", report["cost"]["trainable_parameters"] == predicted["two adapters"] / 8)

# %% [markdown]
# Three steps teach the small model nothing; they show that every part works.
#
# A question of PubMedQA is scored by log-probabilities. The **score of an option** is the sum over its tokens,
# $\ell_o = \sum_i \log p(y_{o,i} \mid x, y_{o,<i})$, with the question $x$ and the tokens $y_{o,i}$ of option $o$. The
# model *chooses* the option with the largest $\ell_o$.

# %%
model, tokenizer = load_run("run/icft")
encoder = Encoder(tokenizer, **report["config"]["encoding"])
questions = [one for one in test if one["task"] == "question"]


@torch.no_grad()
def option_logps(question):
    """The log-probabilities of each option's tokens, a float array for each, from plain passes of transformers."""
    found = []
    for text in question["responses"]:
        one = encoder({**question, "responses": [text], "label": 0})
        logps = model(torch.tensor(one.sequences, device=model.device)).logits[0].float().log_softmax(-1)
        found.append(torch.stack([logps[position, target] for _, position, target, _ in one.tokens]))
    return found


logps, labels = [option_logps(one) for one in questions], [one["label"] for one in questions]
by_package = sum(live["scores"]["icft"]["pubmedqa"]["items"].values())

# %% [markdown]
# ### Your turn: right_options
#
# ●●○ difficulty · ●●● importance · 10 minutes

# %%
# NBVAL_CHECK_OUTPUT
def right_options(logps, labels):
    """Return whether the option with the largest score is the right one: a list of n bools.

    logps: list of n questions, each a list of float [tokens], one for each option; labels: int [n], index of the right
    option.
    """
    return ...


given = [[torch.tensor(one) for one in question] for question in (
    [[-1.0], [-0.7, -0.7], [-3.0]], [[-0.9, -0.1], [-0.8, -0.9], [-5.0]], [[-2.0, -0.1], [-0.1, -1.0], [-1.3]])]
found = right_options(given, [0, 1, 1])
if found is ...:
    print("Your turn.")
else:
    found = [bool(one) for one in found]
    print("Right." if found == [True, False, True] else f"Not yet: {found}")

# %% [markdown]
# <details><summary>Hint</summary>
#
# Options have different numbers of tokens. Sum them: a mean would favor long options, and the first token alone is not
# the whole answer. Then compare the position of the largest sum with the label.
#
# </details>
# <details><summary>Solution</summary>
#
# ```python
# def right_options(logps, labels):
#     scores = [torch.stack([option.sum() for option in question]) for question in logps]
#     return [int(one.argmax()) == label for one, label in zip(scores, labels)]
# ```
#
# </details>

# %%
# NBVAL_CHECK_OUTPUT
answers = right_options(logps, labels)
if answers is ...:
    answers = live["scores"]["icft"]["pubmedqa"]["items"].values()
print("questions right, with your function or the package's:", sum(map(int, answers)) == by_package)

# %% [markdown]
# ## 6 · A complete run
#
# SmolLM2-135M-Instruct was trained and scored completely on the real sets. Here is the record of that run: scores by
# the examples' ids, replies to questions of our own, and no text of the sets. With the files,
# `MODEL = "smollm2"` repeats it, in 20 minutes of processor time. (Its own 40 minutes are those of a busy machine.)

# %%
# NBVAL_CHECK_OUTPUT
record = load_recorded(LESSON_10)
print(record["command"])
print(f"commit {record['commit']}; {record['machine']}; {record['threads']} thread")
print(f"{record['seconds'] / 60:.0f} minutes, at most {record['peak_memory_bytes'] / 2**30:.1f} GiB")
for name, run in record["runs"].items():
    print(f"{run['run']}: base {run['base_hash'][:12]}, adapter {run['adapter_sha256'][:12]}, seed {run['seed']}")
print("test:", record["test"]["n"], "answers of PubMedQA:", record["test"]["answers"])
print("tokens of MedQuAD's test answers:", record["test"]["reference_tokens"])
print(f"longer than a generated reply may be (192): {record['test']['over_reply_limit']} of them")
print("shortened abstracts: test", record["test"]["truncated_contexts"],
      "training", record["runs"]["icft"]["data"]["truncated_contexts"])
print("weak labels of PubMedQA:", record["weak_labels"])
print(used(record["runs"]).to_string())
print("α of each stage:", {name: [round(part["alpha"], 2) for part in one["stages"]]
                           for name, one in record["runs"].items()})

# %% [markdown]
# ICFT takes more steps with as many tokens, because its memory examples are short. Some 50 new sequences are few.
#
# **Predict.** Did each method learn? Look for the *majority baseline* of PubMedQA: the share of the most frequent
# answer in the test. A model that always says "yes" reaches it without reading.

# %%
# NBVAL_CHECK_OUTPUT
def with_interval(items):
    """'0.50 [0.21, 0.79]': the mean of the items with its 95 % interval: exact for 0 and 1, else Student's t."""
    items = list(items)
    if set(items) <= {0, 1}:
        low, high = binomial_interval(sum(items), len(items))
    else:
        _, low, high = mean_interval(items)
    return f"{sum(items) / len(items):.2f} [{low:.2f}, {high:.2f}]"


scores, labels = record["scores"], {"base": "base", "qlora": "plain LoRA", "icft": "ICFT"}
print(pd.DataFrame({labels[name]: {"MedQuAD, token F1": with_interval(one["medquad"]["items"].values()),
                                   "MedQuAD, NLL per token": round(one["medquad"]["nll"], 2),
                                   "PubMedQA, accuracy": with_interval(one["pubmedqa"]["items"].values()),
                                   "PubMedQA, its answers": one["pubmedqa"]["answered"]}
                    for name, one in scores.items()}).T.to_string())
print("majority baseline of PubMedQA:", max(record["test"]["answers"].values()) / record["test"]["n"]["pubmedqa"])

# %% [markdown]
# **Token F1** is the overlap of words with the reference, function words included. The **NLL** of the reference, in
# nats per token, needs no reply, so it is less noisy.
#
# By NLL both learned how MedQuAD writes, plain LoRA a little more. By F1 it is hard to see: 16 replies are few, and a
# third of the references is longer than a reply may be.

# %% [markdown]
# On PubMedQA plain LoRA seems twice as good as the base. But it says *yes* to all 50 questions: its 0.64 **is** the
# majority baseline. It learned its most frequent weak label: 115 of 150 are yes, none is maybe, 71 % are right. ICFT
# has four more right than the base, far below that baseline. Neither learned to read abstracts.

# %% [markdown]
# **Predict.** What was forgotten? *Retention* is the share of right replies and followed instructions of the chat
# suite, relative to the base. The public suites compare log-probabilities of options, as lm-evaluation-harness does.

# %%
# NBVAL_CHECK_OUTPUT
chat = pd.DataFrame({labels[name]: {"free questions": one["free"]["value"],
                                    "instructions": one["instructions"]["value"], "words": one["words"],
                                    "KL(base ‖ tuned)": one.get("kl_base_tuned", 0)}
                     for name, one in record["chat"].items()}).T.round(2)
chat["retention"] = ["1", *(f"{one['value']:.2f} [{one['low']:.2f}, {one['high']:.2f}]"
                            for one in record["retention"].values())]
print(chat.to_string())
suites_right = {labels[name]: {key: sum(right) / len(right) for key, right in one["suites"].items()}
                for name, one in scores.items()}
print(pd.DataFrame(suites_right).T.round(2).to_string())
print("chance levels: 0.25, 0.50, 0.25, 0.25 (four options of CommonsenseQA's five are in our file)")
print("questions of each suite:", len(scores["base"]["suites"]["piqa"]))

# %% [markdown]
# Plain LoRA lost a quarter of what the base could do, after 12 steps, and its replies are half as long. ICFT retained
# it; its interval begins at 0.86. Choice accuracy does not see the difference. (On OpenBookQA the *sum* of
# log-probabilities is below chance; per character the base is above it, `docs/models.md`.)

# %%
# NBVAL_CHECK_OUTPUT
tuned = ("qlora", "icft")
changes = {labels[name]: score_changes(record, name) for name in tuned}
print(pd.DataFrame({name: {key: f"{c.difference:+.3f} [{c.low:+.3f}, {c.high:+.3f}]" for key, c in one.items()}
                    for name, one in changes.items()}).to_string())
counts = record["test"]["n"] | {"public suites": 4 * NUM_QUESTIONS, "chat": 2 * SETTINGS["limits.test"]}
figure = draw_changes(changes, {labels[name]: record["retention"][name] for name in tuned}, counts,
                        "smollm2, 13,000 tokens, one seed, 95 % intervals")
Image(png(figure), width=760, metadata={"alt": "Changes of scores and retention of plain LoRA and ICFT."})

# %% [markdown]
# Plain LoRA's gain on PubMedQA is the majority answer. The interval of ICFT's F1 hardly excludes zero; of six
# intervals, one may do so by chance (lesson 09). On public suites no difference was measured.
#
# Replies show what scores do not. First medical questions of our own, then general ones.

# %%
# NBVAL_CHECK_OUTPUT
medical = {labels[name]: one["replies"].__getitem__ for name, one in scores.items()}
ask_table(medical, list(scores["base"]["replies"]))

# %%
# NBVAL_CHECK_OUTPUT
shown = {one["prompt"]: one for one in record["display"]}
general = {labels[name]: (lambda prompt, name=name: shown[prompt][name]) for name in scores}
ask_table(general, list(shown)[:3])

# %% [markdown]
# Plain LoRA writes less than the base. It loops (blood pressure), advises a blow dryer against a nosebleed, and is the
# only one that answers *yes* in one word. ICFT still writes as the base does, with its faults: none of the three helps
# with a nosebleed. The base's tips for cooking are a loop.

# %% [markdown]
# ## 7 · Export it
#
# An **adapter** is small and needs its base. It is in PEFT's own format: below, `PeftModel` loads it. **Merged**
# weights are a model of their own, for any program that runs Qwen3.

# %%
# NBVAL_CHECK_OUTPUT
adapter = export("run/icft", "adapter")
merged = export("run/icft", "merged", merge=True)
size = {folder.name: sum(file.stat().st_size for file in folder.rglob("*.safetensors")) for folder in (adapter, merged)}
print({key: f"{value / 2**20:.1f} MiB" for key, value in size.items()})

# %% [markdown]
# The adapter was trained on *rounded* weights, and corrects for their rounding. So the package dequantizes the 4-bit
# weights, adds $s\,BA$ to them, and does not round again. **Predict**: how far apart are the outputs of the two?

# %%
batch = join_batch([encoder(example) for example in questions[:4]], 0, head_weight(model).device)


@torch.no_grad()
def logps_of(one):
    """The log-probability of every token of every option in `batch`."""
    states = hidden_states(one, batch)[batch["row"], batch["position"]]
    return token_logprobs(states, head_weight(one), batch["target"])


alone = AutoModelForCausalLM.from_pretrained(merged, dtype=model.dtype, device_map={"": model.device}).eval()
by_peft = PeftModel.from_pretrained(load_base(MODEL)[0], adapter).eval()
apart = {key: float((logps_of(one) - logps_of(model)).abs().max()) for key, one in
         (("merged", alone), ("adapter by peft", by_peft), ("untrained base", load_base(MODEL)[0]))}
print({key: f"{value:.1e}" for key, value in apart.items()}, "at most, in nats")

# %%
# NBVAL_CHECK_OUTPUT
tolerance = 1e-4 if model.dtype == torch.float32 else 0.05  # 16-bit sums are rough
print("merged weights answer as the run does:", apart["merged"] < tolerance)
print("so does peft's loading:", apart["adapter by peft"] < tolerance)
print("training had changed more than that:", apart["untrained base"] > apart["merged"])
print("merged, none of it is in 4 bits:", not any("quant" in key for key in alone.config.to_dict()))

# %% [markdown]
# ## 8 · The model card
#
# A **model card** is the README that travels with weights: what they are for, what they are not for, what was measured.
# Every run writes one next to its adapter. Its first lines are for machines.

# %%
# NBVAL_CHECK_OUTPUT
card = ModelCard.load(adapter / "README.md")
print({key: card.data.to_dict().get(key) for key in ("library_name", "license", "pipeline_tag", "tags")})
parts = [line[3:] for line in card.text.splitlines() if line.startswith("## ")]
print("tables:", parts)
print("warns:", "not medical advice" in card.text)

# %% [markdown]
# The license is *other*: the package cannot know that of your base and your data. Fill it in, and name the data.
# Qwen3 and SmolLM2 are Apache-2.0, PubMedQA is MIT; MedQuAD is CC BY 4.0 and must be named. The run did not see the
# test, so its scores are missing too: add them with their interval and *n*.

# %%
# NBVAL_CHECK_OUTPUT
card.data.license = "apache-2.0"
card.data.datasets = ["MedQuAD", "PubMedQA"] if REAL else None
items = live["scores"]["icft"]["pubmedqa"]["items"].values()
card.text += f"\n\n## PubMedQA, test\n\nAccuracy {with_interval(items)}, n = {len(items)}.\n"
card.save(adapter / "README.md")
print((adapter / "README.md").read_text().split("---")[1].strip())

# %% [markdown]
# **Share it.** The Hub needs a *token*: on Colab under the key symbol, as `HF_TOKEN`; elsewhere `hf auth login`. Never
# write one into a notebook. The next cell looks on Colab, then in the environment and earlier logins. Nothing is sent
# while `PUSH_TO` is empty.

# %%
PUSH_TO = ""  # "your-name/icft-qwen3-0.6b"


def hub_token():
    """Colab's secret, else the environment's or an earlier login's, else None."""
    with suppress(Exception):  # not on Colab, no such secret, not allowed to read it, or no page to ask
        from google.colab import userdata
        if token := userdata.get("HF_TOKEN"):
            return token
    return get_token()


def share(folder, repository, token):
    """Upload a folder to a *private* repository. Returns what was done, in words."""
    if not repository or not token:
        return f"nothing was sent: {'no token' if repository else 'PUSH_TO is empty'}"
    api = HfApi(token=token)
    api.create_repo(repository, private=True, exist_ok=True)
    return f"sent: {api.upload_folder(folder_path=folder, repo_id=repository)}"


# %%
# NBVAL_CHECK_OUTPUT
print(share(adapter, PUSH_TO, hub_token()))
print(share(adapter, "your-name/model", token=None))

# %% [markdown]
# The repository is private at first: read its page before you decide. People may believe what a model says about
# medicine.
#
# ## What was shown
#
# - Two public formats became the package's examples.
# - A budget from shapes alone agreed with measurements; activations dominate it.
# - In a complete run both methods learned a style. Plain LoRA forgot a quarter, ICFT nothing that 100 items show.
# - Neither learned PubMedQA: a score needs a baseline, an interval, and a look at the answers.
# - Merged weights and the adapter give the same answers.

# %% [markdown]
# ## Exercises
#
# Put your own code in place of `...` and run the cell: it says at once whether it is right.
#
# ### 1 · How many micro-batches? (easy, 5 minutes)
#
# Each token of a forward pass takes `per_token` GiB, everything else `fixed` GiB. Into how many micro-batches must a
# step of `tokens` tokens be split to stay within `usable` GiB?

# %%
# NBVAL_CHECK_OUTPUT
def micro_batches(tokens, fixed, per_token, usable):
    """The least number of micro-batches, at least 1; None if nothing helps."""
    return ...


answers = [micro_batches(6400, 2.0, 0.0025, 14.5), micro_batches(100, 2.0, 0.0025, 14.5),
           micro_batches(6400, 15.0, 0.0025, 14.5), micro_batches(5000, 2.0, 0.0025, 14.5),
           micro_batches(100, 14.499, 0.0025, 14.5)]
if ... in answers:
    print("Your turn.")
else:
    print("Right." if answers == [2, 1, None, 1, None] else f"Not yet: {answers}.")

# %% [markdown]
# <details><summary>Hint</summary>
#
# How many tokens fit into one pass? And how many passes is that, rounded up?
#
# </details>
# <details><summary>Solution</summary>
#
# ```python
# def micro_batches(tokens, fixed, per_token, usable):
#     fit = int((usable - fixed) / per_token)
#     return None if fit < 1 else -(-tokens // fit)
# ```
#
# </details>

# %% [markdown]
# ### 2 · How many questions? (medium, 6 minutes)
#
# Half of the answers are right. How many questions must a test have for its 95 % interval to reach `half` to either
# side? Use the normal approximation: 1.96 standard errors, where a share $p$ of $n$ has the standard error
# $\sqrt{p(1-p)/n}$.

# %%
# NBVAL_CHECK_OUTPUT
def questions(half):
    """The number of questions, a whole number, rounded up."""
    return ...


answers = [questions(0.1), questions(0.05), questions(0.01)]
right = "Right." if answers == [97, 385, 9604] else f"Not yet: {answers}."
print("Your turn." if ... in answers else right)

# %% [markdown]
# <details><summary>Hint</summary>
#
# 1.96 · √(0.25/n) = half. Solve for n. Beware of 9604.000000001: round to six digits before you round up.
#
# </details>
# <details><summary>Solution</summary>
#
# ```python
# def questions(half):
#     exact = (1.96 / half) ** 2 / 4
#     return -int(-round(exact, 6) // 1)
# ```
#
# One point of accuracy takes nearly ten thousand questions. The 50 of section 6 reach 14 points.
#
# </details>

# %% [markdown]
# ## Further reading
#
# - [PubMedQA](https://arxiv.org/abs/1909.06146) (Jin and others, 2019) and
#   [MedQuAD](https://doi.org/10.1186/s12859-019-3119-4) (Ben Abacha and Demner-Fushman, 2019): how the sets were made.
# - [The Qwen3 report](https://arxiv.org/abs/2505.09388) (2025): thinking and non-thinking modes.
# - [Model Cards for Model Reporting](https://arxiv.org/abs/1810.03993) (Mitchell and others, 2019).
# - [Adding Error Bars to Evals](https://arxiv.org/abs/2411.00640) (Miller, 2024): intervals and paired tests for
#   language models.

# %%
# NBVAL_CHECK_OUTPUT
print_peak(8 if REAL else 2)
