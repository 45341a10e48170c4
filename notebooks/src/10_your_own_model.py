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
# Here you bring your own model and data: a chat model of 0.6 billion parameters and two public data sets, on one GPU
# with 16 GB. You predict its memory before it runs, measure it afterwards, and export the result so that others can use
# it without this package.

# %% [markdown]
# **You will be able to**
#
# - check whether a model and a data set suit the package;
# - predict a run's memory part by part, and measure it;
# - score lettered options from the logits, with an interval and a baseline;
# - export an adapter or merged weights with a model card.
#
# **You need** lessons 00 to 06, above all 04 and 06.

# %% [markdown]
# {{budget}}
#
# Where the text says **predict**, write down a guess first. The course's paper names neither models nor data sets,
# so both choices are *our reading* of "general to medical". Questions and answers are teaching material, **not
# medical advice**.

# %% [markdown]
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
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch
from huggingface_hub import HfApi, ModelCard, get_token
from IPython.display import Image, display
from peft import PeftModel
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, Qwen3Config, logging

from icft_lite import Encoder, ICFTError, add_adapters, bundle_from_files, load_base, read_examples, train_icft
from icft_lite.config import RuntimeConfig
from icft_lite.experiments.recorded import load_recorded
from icft_lite.finished_runs import export, load_run
from icft_lite.modeling.adapters import use_adapter
from icft_lite.modeling.base import head_weight, hidden_states
from icft_lite.modeling.losses import chunk_size, token_kl, token_logprobs
from icft_lite.modeling.packing import join_batch
from icft_lite.modeling.scoring import option_scores
from icft_lite.reporting.concepts import memory_budget
from icft_lite.reporting.lessons.budget import memory_bars
from icft_lite.reporting.style import png
from icft_lite.reporting.tables import comparison_tables
from icft_lite.statistics import binomial_interval, mcnemar_exact
from icft_lite.utils.hardware import peak_memory

warnings.simplefilter("ignore", FutureWarning)  # what other libraries plan is not our subject
logging.set_verbosity_error()
logging.disable_progress_bar()
os.chdir(tempfile.mkdtemp())  # every file of this lesson goes to a folder of its own

# %% [markdown]
# **One line chooses the model.** `"tiny-qwen3"` has the architecture of Qwen3 and random weights. It is built here, the
# lesson runs in a minute, and the model learns no medicine. For the real one choose a T4 and write
# `"Qwen/Qwen3-0.6B"`. The T4 figures above are predicted: nobody has measured them on a T4.

# %%
MODEL = "tiny-qwen3"  # or "Qwen/Qwen3-0.6B"
REAL = MODEL != "tiny-qwen3"

# %% [markdown]
# ## 1 · Data in its own format
#
# Two public sets, both free to use. **MedMCQA** (Apache-2.0) has 193,000 questions from Indian medical entrance
# exams, four options each. **PubMedQA** (MIT) has 1,000 research questions that experts answered with yes, no or
# maybe, each with the abstract it was taken from.

# %% [markdown]
# Offline we need examples of the same form: general knowledge in our own words. A question of MedMCQA has a line: the
# right option first, shuffled below. PubMedQA has two lines: question and answer, abstract and conclusion.

# %%
EXAM = """
Biochemistry | Lack of which vitamin causes scurvy? | vitamin C | vitamin A | vitamin D | vitamin K
Biochemistry | Lack of which vitamin causes rickets in children? | vitamin D | vitamin C | vitamin B12 | vitamin E
Biochemistry | Which metal is part of haemoglobin? | iron | copper | zinc | lead
Physiology | Which hormone lowers the sugar in the blood? | insulin | glucagon | cortisol | adrenaline
Physiology | Which gland makes thyroxine? | thyroid | pituitary | adrenal | pancreas
Physiology | Which cells carry oxygen in the blood? | red cells | white cells | platelets | fat cells
Physiology | Which organ makes urine? | kidney | liver | bladder | spleen
Physiology | Where does gas exchange take place? | alveoli | bronchi | trachea | larynx
Anatomy | How many chambers does the human heart have? | four | two | three | six
Anatomy | Which is the longest bone of the human body? | femur | tibia | humerus | fibula
Anatomy | Which vessel leaves the left ventricle? | aorta | vena cava | pulmonary artery | portal vein
Anatomy | Which nerve carries sight to the brain? | optic | facial | vagus | olfactory
Anatomy | Which part of the eye holds the rods and cones? | retina | cornea | lens | iris
Microbiology | Which of these is caused by a virus? | measles | cholera | syphilis | malaria
Microbiology | What transmits malaria? | mosquitoes | fleas | ticks | lice
Microbiology | Which of these is caused by a bacterium? | cholera | measles | malaria | influenza
Pharmacology | To which class does amoxicillin belong? | penicillins | statins | opioids | diuretics
Pharmacology | Which drug is an opioid? | morphine | aspirin | metformin | warfarin
Pharmacology | Which drug reverses an opioid overdose? | naloxone | atropine | heparin | insulin
Pharmacology | What do statins lower? | LDL cholesterol | blood sugar | heart rate | body temperature
Pathology | What does the ending -itis mean? | inflammation | removal | pain | tumour
Pathology | An infarct is tissue that died of what? | lack of blood flow | heat | radiation | ageing
Pathology | What is a malignant tumour of epithelial cells called? | carcinoma | sarcoma | lymphoma | lipoma
Pathology | What is the death of a single cell by its own programme called? | apoptosis | atrophy | necrosis | fibrosis
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

# %% [markdown]
# Now in each set's own columns. MedMCQA counts the right option, `cop`, from 0 on the Hub; its original release
# counted from 1, so check which release you have. PubMedQA holds the abstract in a list, and its conclusion apart.

# %%
def exam_row(number, line):
    subject, question, *options = (part.strip() for part in line.split("|"))
    at = number % 4  # where the right one goes
    options[0], options[at] = options[at], options[0]
    return dict(id=f"exam-{number}", question=question, **dict(zip(("opa", "opb", "opc", "opd"), options)), cop=at,
                choice_type="single", exp=None, subject_name=subject, topic_name=None)


def abstract_row(number, first, second):
    (question, decision), (context, conclusion) = (map(str.strip, line.split("|")) for line in (first, second))
    return dict(pubid=1000 + number, question=question, context=dict(contexts=[context]), long_answer=conclusion,
                final_decision=decision)

# %%
# NBVAL_CHECK_OUTPUT
own_exam = [exam_row(n, line) for n, line in enumerate(EXAM.strip().splitlines())]
lines = ABSTRACTS.strip().splitlines()
own_abstracts = [abstract_row(n, *pair) for n, pair in enumerate(zip(lines[::2], lines[1::2]))]
print(len(own_exam), "like MedMCQA:", own_exam[1])
print(len(own_abstracts), "like PubMedQA:", own_abstracts[1])

# %% [markdown]
# The real examples are streamed from the Hub. MedMCQA does not publish the answers of its test split, so everybody
# reports on *validation*. PubMedQA has one split of 1,000; every second example becomes test. (Published numbers use
# the 500 ids of `data.splits.read_pubmedqa`.) All go into plain files, with a list of test ids.

# %%
def from_the_hub(repository, count, **options):
    """`count` examples, drawn with a fixed seed."""
    from datasets import load_dataset
    stream = load_dataset(repository, streaming=True, **options).shuffle(seed=0, buffer_size=10_000)
    return list(stream.take(count))


if REAL:
    exam = from_the_hub("openlifescienceai/medmcqa", 2000, split="train")
    exam_test = from_the_hub("openlifescienceai/medmcqa", 500, split="validation")
    abstracts = from_the_hub("qiaojin/PubMedQA", 1000, name="pqa_labeled", split="train")
else:
    exam, exam_test = [row for n, row in enumerate(own_exam) if n % 3], own_exam[::3]
    abstracts = own_abstracts

test_ids = [row["id"] for row in exam_test] + [str(row["pubid"]) for row in abstracts[::2]]
for name, rows in (("medmcqa", [*exam, *exam_test]), ("pubmedqa", abstracts)):
    Path(f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
Path("test_ids.txt").write_text("\n".join(test_ids))
files = ["medmcqa.jsonl", "pubmedqa.jsonl"]
sources = [read_examples(file) for file in files]

# %%
# NBVAL_CHECK_OUTPUT
for source in sources:
    example = source[1]
    for name in ("topic", "context", "prompt", "responses", "label"):
        print(f"{name:10} {example[name]}")
    print()

# %% [markdown]
# **Predict.** Three roles are to be given: *trusted* examples teach with their answers, the *pool* gets weak labels,
# the *test* is only for scoring. Which examples go where?

# %%
# NBVAL_CHECK_OUTPUT
data = bundle_from_files(files, ["samples"], "test_ids.txt")
general = {name: getattr(data, name) for name in ("general_memory", "general_validation", "general_test")}
some = {name: part.shuffle(seed=0).select(range(400 if REAL else 24)) for name, part in general.items()}
data = replace(data, **some)
for role in ("trusted", "pool", "test"):
    part = getattr(data, role)
    print(f"{role:8} {len(part):3} examples; topics {sorted(set(part['topic'][:]))}")
print("labels left in the pool:", sum(label >= 0 for label in data.pool["label"][:]))
print("no test example is trained on:", not set(data.test["id"][:]) & {*data.trusted["id"][:], *data.pool["id"][:]})

# %% [markdown]
# PubMedQA's answers are set aside: votes take their place (lesson 02). For your own model, name what *you* want it to
# retain.
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
    tokenizer = small_tokenizer([EXAM, ABSTRACTS])
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
without_template = small_tokenizer([EXAM])
without_template.chat_template = None
for attempt in (lambda: load_base(build("odd", **{**SMALL, "hidden_size": 96}), device="cpu"),
                lambda: Encoder(without_template)):
    try:
        attempt()
    except ICFTError as error:
        print(error)

# %% [markdown]
# **Look at what the model sees** before you train it: most of the failures that lesson 06 lists are visible here. We
# list options as A, B, C, D and score the letter, as is usual for these data sets (`letter_options`).
#
# **Predict**: which of the tokens below are supervised, that is, enter a loss?

# %%
# NBVAL_CHECK_OUTPUT
encoder = Encoder(tokenizer, max_length=512, letter_options=True)
question = data.trusted[0]
one = encoder(question)
print(tokenizer.decode(one.sequences[0]))
print("supervised:", [tokenizer.decode([target]) for _, _, target, _ in one.tokens])

# %% [markdown]
# Four letters compete at one position, after the empty `<think>` block, which makes Qwen3 answer at once. Neither the
# question nor the end of turn is supervised: Qwen3 knows already when to stop.
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
# - $3Q + 3K$: queries and keys before and after the rotation, values, the result of attention;
# - $4I$: gate, its activation, up, and their product;
# - $7r$: between $A$ and $B$ of seven adapters.

# %% [markdown]
# **Predict** how much of that 16-bit computing saves on a T4: half?
#
# Less. Adapters stay in fp32 (lesson 04), so each of the seven makes an fp32 copy of its input, and norms compute in
# fp32 too. In bytes: $28H + 12Q + 8K + 10I + 28r$.
#
# The seventh part is logits: at most 128 MiB at a time (`chunk_size`), in up to six arrays.

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
# tokens, of which some 100 need logits (a lettered question has four). **Predict** the largest part.

# %%
# NBVAL_CHECK_OUTPUT
SIZES = {"0.6 B": (1024, 28, 3072, 16), "1.7 B": (2048, 28, 6144, 16), "4 B": (2560, 36, 9728, 32)}
sisters = {label: Qwen3Config(vocab_size=151936, hidden_size=h, num_hidden_layers=n, intermediate_size=i,
                              num_attention_heads=q, num_key_value_heads=8, head_dim=128, tie_word_embeddings=True)
           for label, (h, n, i, q) in SIZES.items()}
table = pd.DataFrame({label: budget(c, tokens=1600, supervised=100) for label, c in sisters.items()}) / 2**30
print(table.round(2).to_string())
print("in all", table.sum().round(1).to_dict())
print("largest part:", sorted(set(table.idxmax())))

# %%
figure = memory_bars(table, 14.5, "QLoRA with ICFT, 1,600 tokens per forward pass")
Image(png(figure), width=700, metadata={"alt": "Predicted memory of three Qwen3 models by part, in GiB."})

# %% [markdown]
# The quantized weights are small; activations dominate. If memory is short, raise `micro_batches` (of `RuntimeConfig`)
# first: it changes no gradient (lesson 06). CUDA and the libraries take about 0.7 GiB more. Teacher states are in the
# computer's own memory: $4H$ bytes per token of a memory example, 0.23 GiB for 60,000 tokens.

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
replies = [{**one, "task": "response", "responses": [one["responses"][one["label"]]]} for one in data.trusted]
batch = join_batch([encoder(one) for one in replies[:8]], 0, base.device)


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
# The prediction holds.
#
# It held on a GPU too. An H200, limited to a T4's 15 GiB and its fp16, took 3.8 GiB for a step of 1,024 tokens with
# Qwen3-0.6B's shape, and 6.7 with that of the 1.7 B (`benchmarks/fit.py`). The seven parts predict 4.0 and 6.9.

# %% [markdown]
# ## 5 · Train
#
# In a terminal, with the settings below in a YAML file:
#
# ```
# icft-lite train --data medmcqa.jsonl pubmedqa.jsonl --test-ids test_ids.txt \
#     --general samples --model Qwen/Qwen3-0.6B --config settings.yaml --out run
# ```
#
# A large model needs a smaller learning rate than `tiny`: 2e-4 is usual for LoRA. The small model takes six steps.

# %%
model = base = optimizer = fast = batch = None  # make room for the run
settings = {
    "model": MODEL, "encoding.letter_options": True,
    "optim.learning_rate": 2e-4, "consolidation.max_drop": 0.02,
}
if REAL:
    settings |= {
        "optim.max_tokens": 400_000, "optim.batch_size": 16,
        "long_term.self_prompts": 200, "long_term.size": 600,
    }
else:
    settings |= {"optim.max_steps": 6, "optim.batch_size": 8, "long_term.self_prompts": 0}
runtime = RuntimeConfig(micro_batches=4 if REAL else 1)
report = train_icft(settings, "run", data, runtime=runtime)
pd.DataFrame(report["stages"])[["name", "steps", "new_examples", "promoted", "memory_examples", "tokens"]]

# %%
# NBVAL_CHECK_OUTPUT
cost, losses = report["cost"], pd.DataFrame(report["losses"])
weight = report["config"]["loss"]["consistency_weight"]
gap = losses["total"] - weight * losses["consistency"] - losses["task"] - losses["fine_tune"]
print("total = weight · consistency + task + fine-tune:", bool(gap.abs().max() < 1e-3))
print("LoRA parameters as predicted:", cost["trainable_parameters"] == predicted["two adapters"] / 8)

# %% [markdown]
# Six steps teach the small model nothing: this run only shows that every part works.
#
# ## 6 · Is it better?
#
# A score needs a **baseline**: the chance level, or the score of the most frequent answer. It needs an **interval**:
# another test of the same size gives another score.

# %%
model, tokenizer = load_run("run")
encoder = Encoder(tokenizer, **report["config"]["encoding"])


def right(adapter):
    """{id: 1 if the most likely letter is the right one, else 0}; adapter None is the bare base."""
    with use_adapter(model, adapter):
        scores = option_scores(model, data.test, encoder)
    return {example["id"]: int(one.argmax() == example["label"]) for example, one in zip(data.test, scores)}


@torch.no_grad()
def letter_logits(examples):
    """(logits, letters, labels, counts) of questions, from plain forward passes of transformers."""
    encoded = [encoder(one) for one in examples]
    rows = [model(torch.tensor([one.sequences[0]], device=model.device)).logits[0, one.tokens[0][1]] for one in encoded]
    letters = max(([token[2] for token in one.tokens] for one in encoded), key=len)
    return torch.stack(rows).float(), letters, examples["label"], [len(one["responses"]) for one in examples]


items = {"base": right(None), "trained": right("default")}
by_package = sum(items["trained"].values())
sets = {"MedMCQA": [example["id"] for example in data.test if example["topic"] != "pubmedqa"],
        "PubMedQA": [example["id"] for example in data.test if example["topic"] == "pubmedqa"]}

# %% [markdown]
# ### Your turn: right_letters
#
# ●●○ difficulty · ●●● importance · 10 minutes

# %%
# NBVAL_CHECK_OUTPUT
def right_letters(logits, letters, labels, counts):
    """Return whether the most likely of a question's letters is the right one: bool [n].

    logits: float [n, vocabulary], where the answer is predicted; letters: ids of A, B, C, D, int [4];
    labels: int [n], index of the right option; counts: int [n], options of each question (3 or 4).
    """
    return ...


logits = torch.tensor([[9.0, 1, 3, 2, 0], [9.0, 0, 1, 2, 5], [0.0, 1, 2, 3, 4], [0.0, 4, 3, 2, 1]])
found = right_letters(logits, [1, 2, 3, 4], [1, 2, 0, 0], [4, 3, 4, 4])
if found is ...:
    print("Your turn.")
else:
    found = [bool(one) for one in found]
    print("Right." if found == [True, True, False, True] else f"Not yet: {found}")

# %% [markdown]
# <details><summary>Hint</summary>
#
# The whole vocabulary does not compete, only the letters do. A question with three options has no D: compare only its
# first `count` letters.
#
# </details>
# <details><summary>Solution</summary>
#
# ```python
# def right_letters(logits, letters, labels, counts):
#     scores = logits[:, letters]
#     return [int(row[:count].argmax()) == label for row, label, count in zip(scores, labels, counts)]
# ```
#
# </details>

# %%
# NBVAL_CHECK_OUTPUT
answers = right_letters(*letter_logits(data.test))
if answers is not ...:
    items["trained"] = dict(zip(data.test["id"], map(int, answers)))
print("questions right, with your function or the package's:", sum(items["trained"].values()) == by_package)

# %%
def share_right(right):
    """'0.50 [0.21, 0.79]': the share of 1s, with its 95 % interval."""
    low, high = binomial_interval(int(sum(right)), len(right))
    return f"{sum(right) / len(right):.2f} [{low:.2f}, {high:.2f}]"


gold = [example["label"] for example in data.test if example["topic"] == "pubmedqa"]
frequent = max(map(gold.count, gold)) / len(gold)
baseline = {"MedMCQA": "1/4, chance level", "PubMedQA": f"{frequent:.2f}, most frequent answer"}
pd.DataFrame([{"set": key, "n": len(ids), "baseline": baseline[key],
               **{name: share_right([one[i] for i in ids]) for name, one in items.items()},
               "p": mcnemar_exact(*([one[i] for i in ids] for one in items.values()))}
              for key, ids in sets.items()]).set_index("set").round(3)

# %% [markdown]
# *p* is that of McNemar's test: the probability that two equally good models differ at least this much on the questions
# where they differ. With eight MedMCQA and six PubMedQA questions nothing can be shown. With 500, a score is known to
# ±4.5 points; two runs on the *same* questions can be compared more finely (lesson 09).

# %% [markdown]
# ## 7 · What did it forget?
#
# Choice accuracy does not see everything that a chat model forgets. SmolLM2-135M-Instruct shows it in half an hour on
# two CPU cores: `icft-lite demo --model smollm2`, with 30,000 tokens for each method. Here is the record of a complete
# run. **Retention** is the share of right replies and followed instructions, relative to the base.

# %% [markdown]
# **Predict** for plain LoRA: what happens to choice accuracy on general questions, to retention, and to the number of
# words in a reply?

# %%
recorded = load_recorded()
methods, replies, differences = comparison_tables(recorded)
for part in (methods, replies):
    display(pd.DataFrame(part.rows, columns=part.header).set_index("method").fillna("–"))

# %%
# NBVAL_CHECK_OUTPUT
mean = {name: {key: one[key]["mean"] for key in ("general", "retention", "words", "kl_base_tuned")}
        for name, one in recorded["methods"].items()}
plain, icft = mean["qlora"], mean["icft"]
base = recorded["base"]["general"], recorded["chat"]["base"]["words"]
print("choice accuracy of plain LoRA did not fall:", plain["general"] >= base[0])
print("its retention fell below a half, its replies below half as many words:",
      plain["retention"] < 0.5, plain["words"] < base[1] / 2)
print("ICFT's KL from the base is less than a fifth of plain LoRA's:",
      icft["kl_base_tuned"] < plain["kl_base_tuned"] / 5)

# %% [markdown]
# By choice accuracy, plain LoRA forgot nothing. Its replies are short, and more than half of the right ones are lost
# (lesson 08 shows them). ICFT and replay still write as the base does. Their price is medicine: ICFT learned half of
# what plain LoRA did with as many tokens, replay a quarter. This is one seed.

# %% [markdown]
# ## 8 · Export it
#
# An **adapter** is small and needs its base. It is in PEFT's own format: the cell after next loads it without this
# package. **Merged** weights are a model of their own, for any program that runs Qwen3.

# %%
# NBVAL_CHECK_OUTPUT
adapter = export("run", "adapter")
merged = export("run", "merged", merge=True)
size = {folder.name: sum(file.stat().st_size for file in folder.rglob("*.safetensors")) for folder in (adapter, merged)}
print({key: f"{value / 2**20:.1f} MiB" for key, value in size.items()})

# %% [markdown]
# The adapter was trained on *rounded* weights, and corrects for their rounding. So the package dequantizes the 4-bit
# weights, adds $BA$ to them, and does not round again. **Predict**: how far apart are the outputs of the two?

# %%
batch = join_batch([encoder(example) for example in data.test.select(range(8))], 0, head_weight(model).device)


@torch.no_grad()
def letters(one):
    """The log-probability of every letter of every question in `batch`."""
    states = hidden_states(one, batch)[batch["row"], batch["position"]]
    return token_logprobs(states, head_weight(one), batch["target"])


alone = AutoModelForCausalLM.from_pretrained(merged, dtype=model.dtype, device_map={"": model.device}).eval()
by_peft = PeftModel.from_pretrained(load_base(MODEL)[0], adapter).eval()
apart = {key: float((letters(one) - letters(model)).abs().max()) for key, one in
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
# ## 9 · The model card
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
# The license is *other*: the package cannot know that of your base and your data. You do: fill it in, and name what you
# trained on. Qwen3 and MedMCQA are Apache-2.0, PubMedQA is MIT.

# %%
# NBVAL_CHECK_OUTPUT
card.data.license = "apache-2.0"
card.data.datasets = ["openlifescienceai/medmcqa", "qiaojin/PubMedQA"] if REAL else None
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
# The repository is private first: look at the page, then decide. Somebody may believe a model that speaks about
# medicine.
#
# ## What was shown
#
# - Two public formats became the package's examples.
# - A budget from shapes alone agreed with measurements; activations dominate it.
# - A score needs a baseline and an interval.
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
           micro_batches(6400, 15.0, 0.0025, 14.5), micro_batches(5000, 2.0, 0.0025, 14.5)]
if ... in answers:
    print("Your turn.")
else:
    print("Right." if answers == [2, 1, None, 1] else f"Not yet: {answers}.")

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
# ### 2 · A format of your own (medium, 8 minutes)
#
# The package reads the formats of common data sets, such as MedQA's `options` and `answer_idx`. Here is a file with
# `stem`, `alternatives` (a dict from letter to text) and `key`, a letter. Turn one of its examples into one that the
# package reads.

# %%
# NBVAL_CHECK_OUTPUT
def convert(example):
    """A dict with "question", "choices" (texts) and "answer" (the right one's text)."""
    return ...


exam = [dict(stem="Which organ makes bile?", alternatives=dict(A="pancreas", B="liver", C="spleen"), key="B"),
        dict(stem="Which vitamin do we make in sunlight?", alternatives=dict(C="A", B="B", A="D"), key="A")]
answers = [convert(example) for example in exam]
if ... in answers:
    print("Your turn.")
else:
    try:
        read = [one["responses"][one["label"]] if one["label"] >= 0 else "none" for one in read_examples(answers)]
    except (ICFTError, KeyError, TypeError, AttributeError) as error:
        read = [f"{type(error).__name__}: {error}"]
    print("Right." if read == ["liver", "D"] else f"Not yet: the right answers are read as {read}.")

# %% [markdown]
# <details><summary>Hint</summary>
#
# `example["alternatives"].values()` are the texts. Give the answer's text, not its letter: "A" is itself an option of
# the second question.
#
# </details>
# <details><summary>Solution</summary>
#
# ```python
# def convert(example):
#     options = example["alternatives"]
#     answer = options[example["key"]]
#     return dict(question=example["stem"], choices=list(options.values()), answer=answer)
# ```
#
# </details>

# %% [markdown]
# ### 3 · How many questions? (medium, 6 minutes)
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
if ... in answers:
    print("Your turn.")
else:
    print("Right." if answers == [97, 385, 9604] else f"Not yet: {answers}.")

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
# One point of accuracy takes nearly ten thousand questions, PubMedQA's 1,000 nearly ten times over.
#
# </details>

# %% [markdown]
# ## Further reading
#
# - [PubMedQA](https://arxiv.org/abs/1909.06146) (Jin and others, 2019) and [MedMCQA](https://arxiv.org/abs/2203.14371)
#   (Pal and others, 2022): how the sets were made, and what people score.
# - [The Qwen3 report](https://arxiv.org/abs/2505.09388) (2025): thinking and non-thinking modes.
# - [Model Cards for Model Reporting](https://arxiv.org/abs/1810.03993) (Mitchell and others, 2019).
# - [Adding Error Bars to Evals](https://arxiv.org/abs/2411.00640) (Miller, 2024): intervals and paired tests for
#   language models.

# %%
# NBVAL_CHECK_OUTPUT
peak = peak_memory() / 2**30
print("within the memory declared at the top:", peak < 8)
