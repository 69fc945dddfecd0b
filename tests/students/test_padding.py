"""However a text is padded, and whatever stands beside it in a batch, a student says the same of it."""

import pytest
import torch
from tiny_students import (
    NETWORKS,
    PAIR_NETWORKS,
    SINGLE_NETWORKS,
    TABLE_NETWORKS,
    VOCAB_SIZE,
    make_batch,
    make_rows,
    make_student,
    run,
)


def equal(first, second):
    torch.testing.assert_close(first, second, rtol=0, atol=1e-12)


def make_exact_student(name):
    """Make a student in double precision, in which what rounding leaves is far below any real difference."""
    return make_student(name).double()


# BERT numbers its positions from the left edge, so that padding there moves its tokens: its tokenizer pads right.
SIDES = [(name, "right") for name in NETWORKS] + [(name, "left") for name in TABLE_NETWORKS]


@pytest.mark.parametrize(("name", "side"), SIDES)
def test_padding_and_neighbours_never_change_a_logit(name, side):
    student, rows = make_exact_student(name), make_rows(pairs="pairs" in name)
    alone = torch.cat([run(student, make_batch([row])).logits for row in rows])
    assert len({tuple(logits) for logits in alone.round(decimals=4).tolist()}) == len(rows)
    for width in (9, 10, 30):
        equal(run(student, make_batch(rows, side, width)).logits, alone)


@pytest.mark.parametrize(("name", "side"), SIDES)
def test_hidden_states_stay_with_their_tokens_and_are_zero_on_padding(name, side):
    student, rows = make_exact_student(name), make_rows(pairs="pairs" in name)
    batch = make_batch(rows, side, 14)
    outputs = run(student, batch, output_hidden_states=True)
    assert [state.shape[-1] for state in outputs.hidden_states] == student.config.hidden_sizes
    for row, (ids, _) in enumerate(rows[:3]):
        alone = run(student, make_batch([rows[row]]), output_hidden_states=True).hidden_states
        tokens = batch["attention_mask"][row] == 1
        for state, expected in zip(outputs.hidden_states, alone, strict=True):
            assert state.shape[:2] == (5, 14)
            equal(state[row, tokens], expected[0])
            assert expected.shape[1] == len(ids)
            assert name == "transformer_cnn" or not state[row, ~tokens].any()


@pytest.mark.parametrize("name", NETWORKS)
def test_a_row_without_tokens_has_finite_logits(name):
    student = make_exact_student(name)
    empty = {"input_ids": torch.ones(1, 4, dtype=torch.long), "attention_mask": torch.zeros(1, 4, dtype=torch.long)}
    assert run(student, {**empty, "token_type_ids": torch.zeros(1, 4, dtype=torch.long)}).logits.isfinite().all()


@pytest.mark.parametrize("name", NETWORKS)
def test_a_row_without_tokens_has_finite_gradients(name):
    student = make_exact_student(name).train()
    rows = make_rows(pairs="pairs" in name)
    student(**make_batch(rows), labels=torch.tensor([0, 1, 0, 1, 0])).loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in student.parameters())


@pytest.mark.parametrize("name", NETWORKS)
def test_without_a_mask_all_but_the_padding_token_is_read(name):
    student = make_exact_student(name)
    batch = make_batch(make_rows(pairs="pairs" in name), width=12)
    batch["input_ids"][batch["attention_mask"] == 0] = 0
    expected = run(student, batch).logits
    del batch["attention_mask"]
    equal(run(student, batch).logits, expected)


@pytest.mark.parametrize("name", NETWORKS)
def test_masks_may_be_of_any_type(name):
    student = make_exact_student(name)
    batch = make_batch(make_rows(pairs="pairs" in name), width=12)
    expected = run(student, batch).logits
    for dtype in (torch.bool, torch.int32, torch.float32):
        equal(run(student, {**batch, "attention_mask": batch["attention_mask"].to(dtype)}).logits, expected)


@pytest.mark.parametrize("name", TABLE_NETWORKS)
def test_ten_thousand_tokens_are_read(name):
    student = make_exact_student(name)
    ids = torch.randint(1, VOCAB_SIZE, (1, 10_000), generator=torch.Generator().manual_seed(0))
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if name in PAIR_NETWORKS:
        batch["token_type_ids"] = (torch.arange(10_000) > 5_000).long()[None]
    assert run(student, batch).logits.isfinite().all()


@pytest.mark.parametrize("name", TABLE_NETWORKS)
@pytest.mark.parametrize("padding", [0, 40])
def test_long_texts_are_read_in_half_precision(name, padding):
    student = make_student(name)
    ids = torch.randint(1, VOCAB_SIZE, (1, 300), generator=torch.Generator().manual_seed(0))
    batch = make_batch([(ids[0], (torch.arange(300) > 40).long() * (name in PAIR_NETWORKS))], width=300 + padding)
    expected = run(student, batch).logits
    logits = run(student.bfloat16(), batch).logits
    assert logits.dtype == torch.bfloat16
    torch.testing.assert_close(logits.float(), expected, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("name", NETWORKS)
def test_training_under_autocast_gives_finite_gradients(name):
    student = make_student(name).train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = student(**make_batch(make_rows(pairs="pairs" in name)), labels=torch.tensor([0, 1, 0, 1, 0])).loss
    loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in student.parameters())


@pytest.mark.parametrize("name", NETWORKS)
def test_no_output_is_in_double_precision(name):
    outputs = run(make_student(name), make_batch(make_rows(pairs="pairs" in name)), output_hidden_states=True)
    assert {state.dtype for state in (outputs.logits, *outputs.hidden_states)} == {torch.float32}


@pytest.mark.parametrize("name", NETWORKS)
def test_padding_changes_no_more_than_rounding_in_single_precision(name):
    student, rows = make_student(name), make_rows(pairs="pairs" in name)
    alone = torch.cat([run(student, make_batch([row])).logits for row in rows])
    torch.testing.assert_close(run(student, make_batch(rows, width=30)).logits, alone, rtol=1e-5, atol=1e-6)


def interleaved(pair_rows):
    """Lay out each pair with the two texts' tokens in turn, and a masked hole behind each token."""
    length = 4 * max(len(ids) for pair in pair_rows for ids in pair)
    batch = {
        name: torch.zeros(len(pair_rows), length, dtype=torch.long) for name in ("attention_mask", "ids", "types")
    }
    batch["ids"] += 7
    for row, pair in enumerate(pair_rows):
        for kind, ids in enumerate(pair):
            places = torch.arange(len(ids)) * 4 + 2 * kind
            batch["ids"][row, places] = ids
            batch["types"][row, places] = kind
            batch["attention_mask"][row, places] = 1
    return {
        "input_ids": batch["ids"],
        "attention_mask": batch["attention_mask"],
        "token_type_ids": batch["types"],
    }


def single_encoder(name, student):
    """Return the base model of single texts with the weights of a student of pairs."""
    encoder = make_exact_student(name.split()[0]).student
    encoder.load_state_dict(student.student.state_dict())
    return encoder


PAIRS = [(torch.tensor([5, 9, 3]), torch.tensor([8])), (torch.tensor([4]), torch.tensor([6, 2, 11, 5, 9]))]


@pytest.mark.parametrize("name", PAIR_NETWORKS)
def test_a_pair_is_compared_by_the_states_of_its_texts_alone_in_any_layout(name):
    student = make_exact_student(name)
    encoder = single_encoder(name, student)
    pooled = run(student.student, interleaved(PAIRS)).pooler_output
    for row, (first, second) in enumerate(PAIRS):
        u, v = (run(encoder, {"input_ids": ids[None]}).pooler_output[0] for ids in (first, second))
        equal(pooled[row], torch.cat([u, v, (u - v).abs(), u * v]))
    assert pooled.shape[1] == student.config.pooled_size == 4 * student.config.hidden_size


@pytest.mark.parametrize("name", PAIR_NETWORKS)
def test_each_token_of_a_pair_has_the_state_that_it_has_in_its_text_alone(name):
    student = make_exact_student(name)
    encoder = single_encoder(name, student)
    batch = interleaved(PAIRS)
    states = run(student, batch, output_hidden_states=True).hidden_states
    for row, pair in enumerate(PAIRS):
        for kind, ids in enumerate(pair):
            alone = run(encoder, {"input_ids": ids[None]}, output_hidden_states=True).hidden_states
            places = (batch["attention_mask"][row] == 1) & (batch["token_type_ids"][row] == kind)
            for state, expected in zip(states, alone, strict=True):
                equal(state[row, places], expected[0])


@pytest.mark.parametrize("name", PAIR_NETWORKS)
def test_swapping_the_token_types_swaps_the_texts(name):
    student, batch = make_exact_student(name).student, interleaved(PAIRS)
    u, v, difference, product = run(student, batch).pooler_output.chunk(4, dim=1)
    batch["token_type_ids"] = 1 - batch["token_type_ids"]
    equal(run(student, batch).pooler_output, torch.cat([v, u, difference, product], dim=1))


@pytest.mark.parametrize("name", PAIR_NETWORKS)
def test_a_student_of_pairs_refuses_a_single_text(name):
    with pytest.raises(ValueError, match="was given a single text"):
        run(make_exact_student(name), {"input_ids": torch.tensor([[4, 5]])})


@pytest.mark.parametrize("name", SINGLE_NETWORKS)
def test_a_student_of_single_texts_refuses_tokens_of_a_second(name):
    with pytest.raises(ValueError, match="would read the pair as one text"):
        run(make_exact_student(name), {"input_ids": torch.tensor([[4, 5]]), "token_type_ids": torch.tensor([[0, 1]])})


@pytest.mark.parametrize("name", TABLE_NETWORKS)
def test_a_batch_without_columns_is_refused(name):
    empty = torch.zeros(2, 0, dtype=torch.long)
    with pytest.raises(ValueError, match="no text of the batch has a token"):
        run(make_exact_student(name), {"input_ids": empty, "attention_mask": empty, "token_type_ids": empty})
