"""Figures and tables of the lesson on losses."""

import html
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from transformers import PreTrainedTokenizerBase

from icft_lite.modeling.encoding import Encoded
from icft_lite.modeling.packing import join_batch
from icft_lite.reporting.style import GENERAL, GREY, INK, MEDICAL, subplots

LOOKS = {
    "prompt": "background:#dedede",
    "response": "background:#a6d4f2;font-weight:bold",
    "padding": "background:#fff;border:1px dashed #777;color:#555",
}
"""CSS of each kind of token. The response is what is supervised."""


def token_table(encoded: Sequence[Encoded], tokenizer: PreTrainedTokenizerBase) -> str:
    """Return a padded batch as HTML: a line per example, each token colored by its kind, "·" for a space.

    encoded: examples with one response each. The text of examples is escaped.
    """
    batch = join_batch(encoded, tokenizer.pad_token_id, pack=False)
    targets = set(zip(batch["row"].tolist(), (batch["position"] + 1).tolist(), strict=True))
    lines = []
    for row, ids in enumerate(batch["input_ids"].tolist()):
        size = len(encoded[row].sequences[0])
        kinds = ["padding" if i >= size else "response" if (row, i) in targets else "prompt" for i in range(len(ids))]
        texts = [html.escape(tokenizer.decode([token]).replace(" ", "·")) for token in ids]
        lines.append(
            "".join(
                f'<code title="{kind}" style="{LOOKS[kind]};color:#111;margin:1px;padding:1px 3px">{text}</code>'
                for kind, text in zip(kinds, texts, strict=True)
            )
        )
    key = "".join(
        f'<code style="{look};color:#111;margin:4px;padding:1px 6px">{kind}</code>' for kind, look in LOOKS.items()
    )
    return f"<p>{key}</p>" + "".join(f'<p style="line-height:1.9">{line}</p>' for line in lines)


def gradient_figure(
    words: Sequence[str], gradients: Mapping[str, tuple[Sequence[float], Sequence[float]]], limit: float
) -> Figure:
    """Return a figure of gradients on logits, a panel for each.

    words: the vocabulary; gradients: {title: (by formula, by autograd)}; limit: largest absolute value of the axis.
    """
    figure, panels = subplots((4.6 * len(gradients), 3.2), len(gradients))
    for axis, (title, (formula, autograd)) in zip(panels, gradients.items(), strict=True):
        axis.bar(words, formula, color=[MEDICAL if g > 0 else GENERAL for g in formula], width=0.55)
        axis.plot(words, autograd, "o", color=INK, markersize=7, markerfacecolor="white")
        for at, g in enumerate(formula):
            place: dict[str, Any] = dict(
                textcoords="offset points", ha="center", va="center" if g else "bottom", fontsize=9
            )
            axis.annotate(f"{g:+.3f}", (at, g), (0, 14 if g >= 0 else -14), **place)
        axis.axhline(0, color=GREY, linewidth=1)
        axis.set(ylim=(-limit, limit), xlabel="bars: formula; dots: autograd")
        axis.set_title(title, loc="left")
    panels[0].set_ylabel("gradient on the logit (nats per unit)")
    return figure


def pair_figure(delta: Sequence[float], losses: Mapping[float, Sequence[float]]) -> Figure:
    """Return a figure of the loss of a pair against Δ, a curve for each posterior; dots mark the minima.

    delta: values of Δ; losses: {posterior of the first reply: losses}. A certain label has no minimum.
    """
    figure, (axis,) = subplots((6.5, 3.6))
    looks = zip(losses.items(), ((MEDICAL, "-"), (GENERAL, "--"), (GREY, "-.")), strict=True)
    for (posterior, values), (color, style) in looks:
        axis.plot(delta, values, style, color=color, linewidth=2, label=f"p̃ = {posterior:g}")
        if posterior < 1:
            least = int(np.argmin(values))
            axis.plot(delta[least], values[least], "o", color=color, markersize=9)
    axis.set(xlabel="Δ: how much the model prefers the first reply (nats)", ylabel="L_task of the pair (nats)")
    axis.set_title("L_task of a pair; dots: where sigmoid(Δ) = p̃", loc="left")
    axis.legend(frameon=False)
    return figure


def drift_figure(
    history: Mapping[str, Sequence[float]], tokens: Sequence[str], per_token: Mapping[str, Sequence[float]]
) -> Figure:
    """Return a figure of two runs: the distance of memory examples from their teacher.

    history: {run: half the variance of the logit differences, at each step}; tokens: of the response; per_token:
    {run: the same at each of these tokens after training}.
    """
    figure, (left, right) = subplots((11, 3.8), 2)
    looks = ((MEDICAL, "-", -0.2, ""), (GENERAL, "--", 0.2, "//"))
    for (name, values), (color, style, shift, hatch) in zip(history.items(), looks, strict=True):
        left.plot(range(1, len(values) + 1), values, style, color=color, linewidth=2, label=name)
        places = np.arange(len(tokens)) + shift
        right.bar(places, per_token[name], 0.38, color=color, hatch=hatch, edgecolor="white", label=name)
    left.set(xlabel="optimizer step", ylabel="distance from the teacher\n(half variance of logits, mean per token)")
    left.set_title("Memory examples during training, seed 0", loc="left")
    right.set_xticks(range(len(tokens)), tokens, rotation=60)
    right.set_ylabel("distance from the teacher")
    right.set_title("One memory response after training", loc="left")
    for axis in (left, right):
        axis.legend(frameon=False)
    return figure
