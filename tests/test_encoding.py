"""Encoding: what is supervised, what is cut, and what never changes a score."""

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from icft_lite.errors import ICFTError
from icft_lite.modeling.adapters import adapter_tensors
from icft_lite.modeling.base import TINY, head_weight, hidden_states
from icft_lite.modeling.encoding import Encoder
from icft_lite.modeling.losses import response_sums, token_logprobs
from icft_lite.modeling.packing import group_by_length, join_batch
from icft_lite.modeling.scoring import score_responses

OPTIONS = ["inflammation of the kidney", "pain", "removal of the left lung"]
LONG = " ".join(f"sentence {n} of the abstract." for n in range(300))


@pytest.fixture(scope="module")
def tokenizer(base):
    return base[1]


@pytest.fixture
def examples(row):
    return [
        row(id="a", task="question", responses=OPTIONS),
        row(id="b"),
        row(id="c", task="pair", prompt="What should be done?", responses=["rest now", "go to the surgery"]),
        row(id="d", task="question", prompt="Pain where?", responses=["head", "foot"], context="A man fell."),
    ]


def targets(encoded, response=0):
    return [target for _, _, target, number in encoded.tokens if number == response]


@pytest.mark.parametrize("shared", [True, False])
def test_only_response_tokens_are_supervised_and_the_end_of_turn_is(tokenizer, row, shared):
    example = row(
        task="question",
        responses=OPTIONS,
        context="Some context.",
        prompt="What is it?",
        history=[{"role": "user", "content": "Hello."}, {"role": "assistant", "content": "pain"}],
    )
    encoded = Encoder(tokenizer, share_prompts=shared)(example)
    for number, text in enumerate(OPTIONS):
        ids = targets(encoded, number)
        assert ids[-1] == tokenizer.eos_token_id
        assert tokenizer.decode(ids[:-1]).strip() == text
    assert encoded.num_responses == 3 and encoded.num_sequences == (1 if shared else 3)
    batch = join_batch([encoded, Encoder(tokenizer)(row(prompt=LONG[:400]))], pad_id=0)
    predicts = batch["position"]  # the state at `position` writes the token after it
    assert (predicts >= len(Encoder(tokenizer).prompt_ids(example)[0]) - 1).all()
    assert (batch["target"] != tokenizer.pad_token_id).all()


def test_each_target_follows_its_position_in_a_plain_row(tokenizer, row):
    encoded = Encoder(tokenizer)(row())
    assert all(encoded.sequences[r][position + 1] == target for r, position, target, _ in encoded.tokens)
    assert encoded.sequences[0][: -len(encoded.tokens)] == Encoder(tokenizer).prompt_ids(row())[0]


def test_the_prompt_is_what_generation_starts_from(tokenizer, row):
    example = row(history=[{"role": "user", "content": "Hello."}, {"role": "assistant", "content": "pain"}])
    text = tokenizer.decode(Encoder(tokenizer)(example).sequences[0])
    assert text == tokenizer.apply_chat_template(
        [
            *example["history"],
            {"role": "user", "content": "Define nephritis."},
            {"role": "assistant", "content": "inflammation of the kidney"},
        ],
        tokenize=False,
    )
    assert text.index("Hello") < text.index("pain") < text.index("Define")


@pytest.mark.parametrize("task, responses", [("response", ["inflammation of the kidney"]), ("question", OPTIONS)])
def test_context_is_cut_at_its_end_and_nothing_else(tokenizer, row, task, responses):
    encoder = Encoder(tokenizer, max_length=80)
    example = row(task=task, context=LONG, responses=responses)
    encoded = encoder(example)
    alone = [Encoder(tokenizer, 80, share_prompts=False)(example).sequences[r] for r in range(len(responses))]
    assert encoded.truncated and max(map(len, alone)) <= 80
    text = tokenizer.decode(alone[0])
    assert "sentence 0 of the abstract" in text and "sentence 299" not in text
    assert "Define nephritis." in text and text.endswith("inflammation of the kidney<|end|>")
    assert len(alone[0]) > 60, "more was cut than needed"


def test_context_that_fits_is_whole_and_not_counted_as_cut(tokenizer, row):
    short = Encoder(tokenizer)(row(context="A short abstract."))
    assert not short.truncated and "A short abstract.\n\nDefine nephritis." in tokenizer.decode(short.sequences[0])


@pytest.mark.parametrize("columns", [dict(prompt=LONG), dict(responses=[LONG]), dict(prompt=LONG, context=LONG)])
def test_a_question_or_response_that_does_not_fit_is_refused_by_name(tokenizer, row, columns):
    with pytest.raises(ICFTError, match="example r7: .*max_length is 80"):
        Encoder(tokenizer, max_length=80)(row(id="r7", **columns))


def test_a_tokenizer_without_a_chat_template_is_refused():
    bare = PreTrainedTokenizerFast(tokenizer_file=str(TINY / "tokenizer.json"))
    with pytest.raises(ICFTError, match="chat template"):
        Encoder(bare)


def test_lettered_options_are_one_row_and_scored_by_the_letter(tokenizer, row):
    encoded = Encoder(tokenizer, letter_options=True)(row(task="question", responses=OPTIONS, label=2))
    text = tokenizer.decode(encoded.sequences[0])
    assert encoded.num_sequences == 1 and encoded.num_responses == 3 and len(encoded.tokens) == 3
    assert "\nA. inflammation of the kidney\nB. pain\nC. removal of the left lung" in text
    assert len({position for _, position, _, _ in encoded.tokens}) == 1
    assert [tokenizer.decode([target]).strip() for _, _, target, _ in encoded.tokens] == ["A", "B", "C"]
    assert text.endswith("C<|end|>")


# ---------------------------------------------------------------- what never changes a score


def log_probabilities(model, encoded, pack=False):
    """Summed log-probability of every response, and the gradient of their weighted sum."""
    head = head_weight(model)
    batch = join_batch(encoded, 0, pack=pack)
    states = hidden_states(model, batch)[batch["row"], batch["position"]]
    sums = response_sums(token_logprobs(states, head, batch["target"]), batch["response"], len(batch["example"]))
    tensors = adapter_tensors(model, "fast")
    loss = (sums * torch.linspace(-1, 1, len(sums))).sum()
    return sums.detach(), torch.autograd.grad(loss, tensors)


def test_shared_prompts_give_the_scores_and_gradients_of_separate_rows(adapted, shake, examples):
    model, tokenizer = adapted
    shake(model, "fast")
    shared, separate = ([Encoder(tokenizer, share_prompts=share)(one) for one in examples] for share in (True, False))
    assert sum(one.num_sequences for one in shared) < sum(one.num_sequences for one in separate)
    ours, gradient = log_probabilities(model, shared)
    plain, expected = log_probabilities(model, separate)
    torch.testing.assert_close(ours, plain, atol=1e-4, rtol=1e-5)
    assert max(g.abs().max() for g in expected) > 1e-2
    torch.testing.assert_close(gradient, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("shared", [True, False])
def test_packed_rows_give_the_scores_and_gradients_of_rows_apart(adapted, shake, examples, row, shared):
    model, tokenizer = adapted
    shake(model, "fast")
    encoder = Encoder(tokenizer, share_prompts=shared)
    encoded = [encoder(one) for one in [row(prompt=LONG[:300]), *examples, *examples[::-1]]]
    tokens = sum(len(ids) for one in encoded for ids in one.sequences)
    assert tokens <= join_batch(encoded, 0, pack=True)["input_ids"].numel() < 1.2 * tokens
    assert join_batch(encoded, 0)["input_ids"].numel() > 2 * tokens
    ours, gradient = log_probabilities(model, encoded, pack=True)
    apart, expected = log_probabilities(model, encoded)
    torch.testing.assert_close(ours, apart, atol=1e-4, rtol=1e-5)
    assert max(g.abs().max() for g in expected) > 1e-2
    torch.testing.assert_close(gradient, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("shared", [True, False])
def test_a_packed_row_sees_itself_alone(tokenizer, examples, shared):
    encoded = [Encoder(tokenizer, share_prompts=shared)(one) for one in examples]
    batch = join_batch(encoded, 0, pack=True)
    sees = batch["attention_mask"][:, 0] == 0
    for one, of_one in zip(encoded, batch["example"].unique()):
        mine = [
            (int(r), int(p))
            for r, p, s in zip(batch["row"], batch["position"], batch["response"])
            if batch["example"][s] == of_one
        ]
        for (r, p), (_, alone, _, _) in zip(mine, one.tokens):
            assert sees[r, p].sum() <= alone + 1 and not sees[r, p, p + 1 :].any()
            assert batch["position_ids"][r, p] == sees[r, p].sum() - 1


@pytest.mark.parametrize("shared", [True, False])
def test_batching_order_and_padding_never_change_scores(base, examples, row, shared):
    model, tokenizer = base
    encoder = Encoder(tokenizer, share_prompts=shared)
    encoded = [encoder(one) for one in examples]
    filler = [encoder(row(prompt=f"Define {'x ' * n}.")) for n in (40, 1, 90)]
    alone = [score_responses(model, [one])[0] for one in encoded]
    back = score_responses(model, encoded[::-1])[::-1]
    padded = score_responses(model, encoded + filler, tokens=10**6)[: len(encoded)]
    single = score_responses(model, encoded, tokens=1)
    for other in (back, padded, single):
        for expected, score in zip(alone, other):
            assert score["logp"] == pytest.approx(expected["logp"], abs=1e-4)
            assert list(score["greedy"]) == list(expected["greedy"])
            assert list(score["tokens"]) == list(expected["tokens"])


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("tokens", [1, 60, 150, 10**6])
def test_groups_are_of_similar_length_and_hold_no_more_than_they_may(tokenizer, examples, shared, tokens):
    encoder = Encoder(tokenizer, share_prompts=shared)
    encoded = [encoder(one) for one in examples * 3]
    groups = group_by_length(encoded, tokens)
    assert sorted(sum(groups, [])) == list(range(len(encoded))) and all(groups)
    lengths = [encoded[i].length for group in groups for i in group]
    assert lengths == sorted(lengths)
    for group, after in zip(groups, [*groups[1:], None]):

        def taken(some):
            return sum(encoded[i].num_sequences for i in some) * max(encoded[i].length for i in some)

        assert taken(group) <= tokens or len(group) == 1
        assert after is None or taken([*group, after[0]]) > tokens, "no smaller than need be"
    assert group_by_length([], tokens) == []


def test_a_pad_that_is_the_end_of_turn_changes_nothing(base, examples):
    model, tokenizer = base
    same = PreTrainedTokenizerFast.from_pretrained(TINY)
    same.pad_token = same.eos_token
    ours, theirs = ([Encoder(tok, share_prompts=False)(one) for one in examples] for tok in (tokenizer, same))
    assert all(targets(a, 0) == targets(b, 0) and targets(b, 0)[-1] == same.pad_token_id for a, b in zip(ours, theirs))
    plain, with_eos = join_batch(ours, tokenizer.pad_token_id), join_batch(theirs, same.pad_token_id)
    assert torch.equal(plain["attention_mask"], with_eos["attention_mask"])
    assert torch.equal(with_eos["attention_mask"].sum(1), torch.tensor([len(r) for one in ours for r in one.sequences]))
    states = [hidden_states(model, batch)[batch["row"], batch["position"]] for batch in (plain, with_eos)]
    torch.testing.assert_close(*states, atol=1e-5, rtol=1e-4)


def test_a_template_that_rewrites_the_last_turn_still_closes_it(row):
    odd = PreTrainedTokenizerFast.from_pretrained(TINY)
    odd.chat_template = (
        "{% for m in messages %}[{{ m['content'] }}]{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    ids = targets(Encoder(odd)(row(responses=["pain"])))
    assert odd.decode(ids[:-1]).strip() == "pain" and ids[-1] == odd.eos_token_id
