"""Encoding and packing: what is supervised, what is truncated, and what does not change a score."""

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from icft_lite.errors import ICFTError
from icft_lite.modeling.adapters import adapter_tensors
from icft_lite.modeling.base import TINY
from icft_lite.modeling.encoding import Encoder, TooLong, drop_prompt, supervise_prompt
from icft_lite.modeling.forward import head_weight, hidden_states
from icft_lite.modeling.losses import response_sums, token_logprobs
from icft_lite.modeling.packing import group_by_length, join_batch, place_sequences
from icft_lite.modeling.scoring import score_responses

OPTIONS = ["inflammation of the kidney", "pain", "removal of the left lung"]
LONG = " ".join(f"sentence {n} of the abstract." for n in range(300))


@pytest.fixture(scope="module")
def tokenizer(base):
    return base[1]


@pytest.fixture
def examples(example):
    return [
        example(id="a", task="question", responses=OPTIONS),
        example(id="b"),
        example(id="c", task="pair", prompt="What should be done?", responses=["rest now", "go to the surgery"]),
        example(id="d", task="question", prompt="Pain where?", responses=["head", "foot"], context="A man fell."),
    ]


def targets(encoded, response=0):
    return [target for _, _, target, number in encoded.tokens if number == response]


# ---------------------------------------------------------------- the loss mask


@pytest.mark.parametrize("shared", [True, False])
def test_only_response_tokens_and_their_end_of_turn_are_supervised(tokenizer, example, shared):
    question = example(
        task="question",
        responses=OPTIONS,
        context="Some context.",
        prompt="What is it?",
        history=[{"role": "user", "content": "Hello."}, {"role": "assistant", "content": "pain"}],
    )
    encoded = Encoder(tokenizer, share_prompts=shared)(question)
    for number, text in enumerate(OPTIONS):
        ids = targets(encoded, number)
        assert ids[-1] == tokenizer.eos_token_id
        assert tokenizer.decode(ids[:-1]).strip() == text
    assert encoded.num_responses == 3 and encoded.num_sequences == (1 if shared else 3)
    batch = join_batch([encoded, Encoder(tokenizer)(example(prompt=LONG[:400]))], pad_id=0)
    # the state at `position` predicts the token after it
    assert (batch["position"] >= len(Encoder(tokenizer).prompt_ids(question)[0]) - 1).all()
    assert (batch["target"] != tokenizer.pad_token_id).all()


def test_each_target_follows_its_position(tokenizer, example):
    encoded = Encoder(tokenizer)(example())
    assert all(encoded.sequences[n][position + 1] == target for n, position, target, _ in encoded.tokens)
    assert encoded.sequences[0][: -len(encoded.tokens)] == Encoder(tokenizer).prompt_ids(example())[0]


def test_the_prompt_is_the_one_that_generation_starts_from(tokenizer, example):
    history = [{"role": "user", "content": "Hello."}, {"role": "assistant", "content": "pain"}]
    text = tokenizer.decode(Encoder(tokenizer)(example(history=history)).sequences[0])
    assert text == tokenizer.apply_chat_template(
        [
            *history,
            {"role": "user", "content": "Define nephritis."},
            {"role": "assistant", "content": "inflammation of the kidney"},
        ],
        tokenize=False,
    )
    assert text.index("Hello") < text.index("pain") < text.index("Define")


def test_a_supervised_prompt_is_a_response_before_the_response(tokenizer, example):
    plain = Encoder(tokenizer)(example())
    encoded, (sequence,) = supervise_prompt(plain), plain.sequences
    assert encoded.num_responses == 2 and targets(encoded, 1) == targets(plain)
    assert targets(encoded, 0) + targets(encoded, 1) == sequence[1:], "every token but the first"


def test_a_dropped_prompt_leaves_its_last_token(tokenizer, example):
    plain = Encoder(tokenizer)(example())
    bare = drop_prompt(plain)
    assert targets(bare) == targets(plain) and bare.sequences[0][1:] == targets(plain)
    assert bare.sequences[0][0] == Encoder(tokenizer).prompt_ids(example())[0][-1]


def test_lettered_options_are_one_sequence_and_scored_by_the_letter(tokenizer, example):
    encoded = Encoder(tokenizer, letter_options=True)(example(task="question", responses=OPTIONS, label=2))
    text = tokenizer.decode(encoded.sequences[0])
    assert encoded.num_sequences == 1 and encoded.num_responses == 3 and len(encoded.tokens) == 3
    assert "\nA. inflammation of the kidney\nB. pain\nC. removal of the left lung" in text
    assert len({position for _, position, _, _ in encoded.tokens}) == 1
    assert [tokenizer.decode([target]).strip() for _, _, target, _ in encoded.tokens] == ["A", "B", "C"]
    assert text.endswith("C<|end|>")


# ---------------------------------------------------------------- truncation


@pytest.mark.parametrize("task, responses", [("response", ["inflammation of the kidney"]), ("question", OPTIONS)])
def test_only_the_end_of_the_context_is_truncated(tokenizer, example, task, responses):
    long = example(task=task, context=LONG, responses=responses)
    encoded = Encoder(tokenizer, max_length=80)(long)
    sequences = Encoder(tokenizer, max_length=80, share_prompts=False)(long).sequences
    assert encoded.truncated and max(map(len, sequences)) <= 80
    text = tokenizer.decode(sequences[0])
    assert "sentence 0 of the abstract" in text and "sentence 299" not in text
    assert "Define nephritis." in text and text.endswith("inflammation of the kidney<|end|>")
    assert len(sequences[0]) > 60, "more was truncated than necessary"


def test_context_that_fits_is_complete_and_not_marked_as_truncated(tokenizer, example):
    short = Encoder(tokenizer)(example(context="A short abstract."))
    assert not short.truncated and "A short abstract.\n\nDefine nephritis." in tokenizer.decode(short.sequences[0])


@pytest.mark.parametrize("columns", [dict(prompt=LONG), dict(responses=[LONG]), dict(prompt=LONG, context=LONG)])
def test_a_prompt_or_response_that_does_not_fit_is_refused_by_id(tokenizer, example, columns):
    with pytest.raises(TooLong, match="example r7: .* need [0-9]+ tokens, but max_length is 80; raise"):
        Encoder(tokenizer, max_length=80)(example(id="r7", **columns))


def test_a_tokenizer_without_a_chat_template_is_refused():
    bare = PreTrainedTokenizerFast(tokenizer_file=str(TINY / "tokenizer.json"))
    with pytest.raises(ICFTError, match="chat template"):
        Encoder(bare)


# ---------------------------------------------------------------- what does not change a score


def log_probabilities(model, encoded, pack=False):
    """The summed log-probability of every response, and the gradient of their weighted sum."""
    head = head_weight(model)
    batch = join_batch(encoded, 0, pack=pack)
    states = hidden_states(model, batch)[batch["row"], batch["position"]]
    sums = response_sums(token_logprobs(states, head, batch["target"]), batch["response"], len(batch["example"]))
    tensors = adapter_tensors(model, "fast")
    loss = (sums * torch.linspace(-1, 1, len(sums))).sum()
    return sums.detach(), torch.autograd.grad(loss, tensors)


def assert_equal_scores_and_gradients(ours, expected):
    torch.testing.assert_close(ours[0], expected[0], atol=1e-4, rtol=1e-5)
    assert max(gradient.abs().max() for gradient in expected[1]) > 1e-2
    torch.testing.assert_close(ours[1], expected[1], atol=1e-4, rtol=1e-4)


def test_shared_prompts_give_the_scores_and_gradients_of_separate_sequences(adapted, shake, examples):
    model, tokenizer = adapted
    shake(model, "fast")
    shared, separate = ([Encoder(tokenizer, share_prompts=share)(one) for one in examples] for share in (True, False))
    assert sum(one.num_sequences for one in shared) < sum(one.num_sequences for one in separate)
    assert_equal_scores_and_gradients(log_probabilities(model, shared), log_probabilities(model, separate))


@pytest.mark.parametrize("shared", [True, False])
def test_packed_sequences_give_the_scores_and_gradients_of_padded_ones(adapted, shake, examples, example, shared):
    model, tokenizer = adapted
    shake(model, "fast")
    encoder = Encoder(tokenizer, share_prompts=shared)
    encoded = [encoder(one) for one in [example(prompt=LONG[:300]), *examples, *examples[::-1]]]
    tokens = sum(len(ids) for one in encoded for ids in one.sequences)
    assert tokens <= join_batch(encoded, 0, pack=True)["input_ids"].numel() < 1.2 * tokens
    assert join_batch(encoded, 0)["input_ids"].numel() > 2 * tokens
    assert_equal_scores_and_gradients(log_probabilities(model, encoded, pack=True), log_probabilities(model, encoded))


@pytest.mark.parametrize("shared", [True, False])
def test_a_packed_sequence_attends_only_to_itself(tokenizer, examples, shared):
    encoded = [Encoder(tokenizer, share_prompts=shared)(one) for one in examples]
    batch = join_batch(encoded, 0, pack=True)
    visible = batch["attention_mask"][:, 0] == 0
    for i, one in enumerate(encoded):
        where = [
            (int(row), int(column))
            for row, column, response in zip(batch["row"], batch["position"], batch["response"])
            if batch["example"][response] == i
        ]
        assert len(where) == len(one.tokens)
        for (row, column), (_, alone, _, _) in zip(where, one.tokens):
            assert visible[row, column].sum() <= alone + 1 and not visible[row, column, column + 1 :].any()
            assert batch["position_ids"][row, column] == visible[row, column].sum() - 1


def test_sequences_are_packed_longest_first_where_the_row_is_filled_least():
    starts, shape = place_sequences([3, 10, 4, 2], pack=True)  # 19 tokens in rows of 10: one row
    assert starts == [(0, 14), (0, 0), (0, 10), (0, 17)] and shape == (1, 19)
    starts, shape = place_sequences([3, 6, 4, 5], pack=True)  # 18 tokens: three rows of 6
    assert starts == [(2, 4), (0, 0), (2, 0), (1, 0)] and shape == (3, 7)
    assert place_sequences([3, 6], pack=False) == ([(0, 0), (1, 0)], (2, 6))


@pytest.mark.parametrize("shared", [True, False])
def test_batching_order_and_padding_do_not_change_scores(base, examples, example, shared):
    model, tokenizer = base
    encoder = Encoder(tokenizer, share_prompts=shared)
    encoded = [encoder(one) for one in examples]
    filler = [encoder(example(prompt=f"Define {'x ' * n}.")) for n in (40, 1, 90)]
    alone = [score_responses(model, [one])[0] for one in encoded]
    reverse = score_responses(model, encoded[::-1])[::-1]
    padded = score_responses(model, encoded + filler, max_tokens=10**6)[: len(encoded)]
    single = score_responses(model, encoded, max_tokens=1)
    for other in (reverse, padded, single):
        for expected, score in zip(alone, other):
            assert score["logp"] == pytest.approx(expected["logp"], abs=1e-4)
            assert list(score["greedy"]) == list(expected["greedy"])
            assert list(score["tokens"]) == list(expected["tokens"])


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("max_tokens", [1, 60, 150, 10**6])
def test_groups_are_of_similar_length_and_within_the_limit(tokenizer, examples, shared, max_tokens):
    encoder = Encoder(tokenizer, share_prompts=shared)
    encoded = [encoder(one) for one in examples * 3]
    groups = group_by_length(encoded, max_tokens)
    assert sorted(sum(groups, [])) == list(range(len(encoded))) and all(groups)
    lengths = [encoded[i].length for group in groups for i in group]
    assert lengths == sorted(lengths)

    def padded_tokens(indices):
        return sum(encoded[i].num_sequences for i in indices) * max(encoded[i].length for i in indices)

    for group, following in zip(groups, [*groups[1:], None]):
        assert padded_tokens(group) <= max_tokens or len(group) == 1
        assert following is None or padded_tokens([*group, following[0]]) > max_tokens, "no smaller than necessary"
    assert group_by_length([], max_tokens) == []


def test_a_padding_token_that_is_the_end_of_turn_changes_nothing(base, examples):
    model, tokenizer = base
    same = PreTrainedTokenizerFast.from_pretrained(TINY)
    same.pad_token = same.eos_token
    ours, theirs = ([Encoder(one, share_prompts=False)(item) for item in examples] for one in (tokenizer, same))
    assert all(targets(a, 0) == targets(b, 0) and targets(b, 0)[-1] == same.pad_token_id for a, b in zip(ours, theirs))
    plain, with_eos = join_batch(ours, tokenizer.pad_token_id), join_batch(theirs, same.pad_token_id)
    assert torch.equal(plain["attention_mask"], with_eos["attention_mask"])
    lengths = torch.tensor([len(ids) for one in ours for ids in one.sequences])
    assert torch.equal(with_eos["attention_mask"].sum(1), lengths)
    states = [hidden_states(model, batch)[batch["row"], batch["position"]] for batch in (plain, with_eos)]
    torch.testing.assert_close(*states, atol=1e-5, rtol=1e-4)
