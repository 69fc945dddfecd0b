"""Word vectors distilled from a teacher: of every architecture, alone or in a batch, and the teacher as it was."""

import numpy as np
import pytest
import torch
from torch import nn
from transformers import AutoModel
from transformers.modeling_outputs import BaseModelOutput
from vocabulary import WORDS

from distil_trainer.states import pool_states
from distil_trainer.vectors import from_teacher
from distil_trainer.vectors.from_teacher import (
    check_teacher_states,
    frequency_weights,
    teacher_vectors,
    words_of_tokenizer,
)
from distil_trainer.vectors.surfaces import Surface

KNOWN = [Surface(word, True) for word in WORDS]


def hidden_states_of(model, tokenizer, word):
    inputs = tokenizer(word, return_tensors="pt")
    with torch.no_grad():
        outputs = model.base_model(**inputs, output_hidden_states=True)
    return [state[0, 1:-1].mean(dim=0) for state in outputs.hidden_states]


def gram(vectors):
    return vectors @ vectors.T


def test_vectors_are_the_centred_states_in_other_axes_with_a_known_size(teacher, tokenizer):
    expected = torch.stack([hidden_states_of(teacher, tokenizer, word)[-1] for word in WORDS]).double().numpy()
    expected -= expected.mean(axis=0)
    expected *= 0.3 / np.sqrt((expected**2).mean())
    vectors, known = teacher_vectors(teacher, tokenizer, KNOWN, 32, layers=(-1,))
    assert known.all() and vectors.dtype == np.float32
    np.testing.assert_allclose(gram(vectors), gram(expected), atol=2e-5)
    assert np.sqrt((vectors**2).mean()) == pytest.approx(0.3, abs=1e-6)


def test_fewer_columns_are_the_first_principal_components(teacher, tokenizer):
    whole, _ = teacher_vectors(teacher, tokenizer, KNOWN, 32)
    part, _ = teacher_vectors(teacher, tokenizer, KNOWN, 5)
    ratio = np.sqrt((whole[:, :5] ** 2).mean()) / 0.3
    np.testing.assert_allclose(part * ratio, whole[:, :5], atol=1e-5)
    assert (np.diff((whole**2).sum(axis=0)) <= 1e-6).all()
    off_diagonal = gram(whole.T) - np.diag((whole**2).sum(axis=0))
    np.testing.assert_allclose(off_diagonal, 0, atol=1e-4)


def test_layers_stand_side_by_side(teacher, tokenizer):
    states = [hidden_states_of(teacher, tokenizer, word) for word in WORDS]
    expected = torch.stack([torch.cat([state[0], state[2]]) for state in states]).double().numpy()
    expected -= expected.mean(axis=0)
    vectors, _ = teacher_vectors(teacher, tokenizer, KNOWN, 40, layers=(0, -3))
    scale = np.sqrt((vectors**2).sum() / (expected**2).sum())
    np.testing.assert_allclose(gram(vectors), gram(expected * scale), atol=2e-4)


def test_every_architecture_teaches_and_batches_change_nothing(any_teacher, monkeypatch):
    teacher, tokenizer = any_teacher
    # Words of one token and of two, so that some are padded.
    words = [
        *KNOWN[:20],
        *(Surface(f"{first} {second}", True) for first, second in zip(WORDS, WORDS[7:], strict=False)),
    ]
    together, known = teacher_vectors(teacher, tokenizer, words, 8)
    assert known.all() and np.isfinite(together).all()
    monkeypatch.setattr(from_teacher, "_TOKENS_PER_BATCH", 1)
    alone, _ = teacher_vectors(teacher, tokenizer, words, 8)
    np.testing.assert_allclose(together, alone, atol=1e-4)


def test_a_model_without_a_head_teaches_too(teacher, tokenizer, tmp_path):
    teacher.save_pretrained(tmp_path)
    body = AutoModel.from_pretrained(tmp_path, add_pooling_layer=False)
    expected, _ = teacher_vectors(teacher, tokenizer, KNOWN, 4)
    np.testing.assert_allclose(teacher_vectors(body, tokenizer, KNOWN, 4)[0], expected, atol=1e-6)


def test_special_and_unknown_tokens_are_no_part_of_a_word(teacher, tokenizer):
    words = [*KNOWN, Surface("unheard", True), Surface("good unheard", True), Surface("", True)]
    _, known = teacher_vectors(teacher, tokenizer, words, 4)
    assert known.tolist() == [True] * len(KNOWN) + [False, True, False]


def test_the_teacher_is_left_as_it_was(teacher, tokenizer):
    teacher.train()
    teacher.bert.encoder.layer[1].eval()
    modes = [module.training for module in teacher.modules()]
    expected, _ = teacher_vectors(teacher, tokenizer, KNOWN, 4)
    assert [module.training for module in teacher.modules()] == modes
    assert all(parameter.grad is None and parameter.requires_grad for parameter in teacher.parameters())
    np.testing.assert_array_equal(teacher_vectors(teacher.eval(), tokenizer, KNOWN, 4)[0], expected)


def test_the_sign_of_a_component_is_fixed(teacher, tokenizer, monkeypatch):
    expected, _ = teacher_vectors(teacher, tokenizer, KNOWN, 6)
    eigh = np.linalg.eigh
    monkeypatch.setattr(np.linalg, "eigh", lambda matrix: (eigh(matrix)[0], -eigh(matrix)[1]))
    np.testing.assert_allclose(teacher_vectors(teacher, tokenizer, KNOWN, 6)[0], expected, atol=1e-6)


def test_words_of_a_tokenizer_are_its_tokens_in_order(tokenizer):
    assert list(words_of_tokenizer(tokenizer)) == WORDS


def test_frequent_words_weigh_less():
    weights = frequency_weights(np.array([0, 1, 999]), 1e-3)
    np.testing.assert_allclose(weights, [1.0, 0.5, 1e-3 / (1e-3 + 0.999)])


# What is refused


def test_more_columns_than_there_are_components_are_refused(teacher, tokenizer):
    with pytest.raises(
        ValueError, match=r"size=33, but 42 words.*, with states of 32 numbers \(1 layer.*Give size=32"
    ):
        teacher_vectors(teacher, tokenizer, KNOWN, 33, layers=(-1,))
    with pytest.raises(ValueError, match=r"size=5, but 5 words that the teacher knows \(of 5\).*Give size=4 or less"):
        teacher_vectors(teacher, tokenizer, KNOWN[:5], 5)


def test_words_that_the_teacher_does_not_know_give_no_components(teacher, tokenizer):
    words = [*KNOWN[:5], *(Surface(f"unheard{number}", True) for number in range(9))]
    with pytest.raises(ValueError, match=r"size=5, but 5 words that the teacher knows \(of 14\).*Give size=4 or less"):
        teacher_vectors(teacher, tokenizer, words, 5)
    vectors, known = teacher_vectors(teacher, tokenizer, words)
    assert vectors.shape == (14, 4) and np.linalg.matrix_rank(vectors[known]) == 4
    vectors, known = teacher_vectors(teacher, tokenizer, words[5:], 3)
    assert not vectors.any() and vectors.shape == (9, 3) and not known.any()


def test_a_teacher_is_checked_by_one_word(any_teacher):
    teacher, tokenizer = any_teacher
    width = 2 * teacher.config.hidden_size
    check_teacher_states(teacher, tokenizer, width)
    with pytest.raises(ValueError, match=f"size={width + 1}, but the states of this .* have {width} numbers"):
        check_teacher_states(teacher, tokenizer, width + 1)


@pytest.mark.parametrize("layers", [(), (5,), (-6,), (0, 9)])
def test_layers_that_are_not_there_are_refused(layers, teacher, tokenizer):
    with pytest.raises(ValueError, match=r"layers=\(.*0 \(embeddings\) to 4; -1 is the last"):
        teacher_vectors(teacher, tokenizer, KNOWN, 4, layers=layers)


def test_a_tokenizer_that_cannot_pad_is_refused(teacher, teacher_zoo):
    model, tokenizer = teacher_zoo("gpt2")
    tokenizer.pad_token = None
    with pytest.raises(ValueError, match="teacher's tokenizer has no padding token"):
        teacher_vectors(model, tokenizer, KNOWN, 4)


def test_nothing_to_read_and_states_that_are_nan_are_refused(teacher, tokenizer, teacher_zoo):
    model, bare = teacher_zoo("gpt2")
    with pytest.raises(ValueError, match="no word makes a token"):
        teacher_vectors(model, bare, [Surface("", False)], 1)
    nn.init.constant_(teacher.bert.embeddings.LayerNorm.weight, torch.nan)
    with pytest.raises(ValueError, match="a state is NaN or infinite"):
        teacher_vectors(teacher, tokenizer, KNOWN, 4)


def test_a_teacher_that_makes_the_same_of_all_words_is_refused(teacher, tokenizer):
    nn.init.zeros_(teacher.bert.embeddings.word_embeddings.weight)
    with pytest.raises(ValueError, match="makes the same of all 42 words that it knows"):
        teacher_vectors(teacher, tokenizer, KNOWN, 4)


@pytest.mark.parametrize("states", [None, (torch.zeros(1, 1, 4),)])
def test_a_teacher_without_a_state_for_each_token_is_refused(states, teacher, tokenizer, monkeypatch):
    monkeypatch.setattr(type(teacher.bert), "forward", lambda *_, **__: BaseModelOutput(hidden_states=states))
    with pytest.raises(ValueError, match="does not return hidden states with one vector for each token"):
        teacher_vectors(teacher, tokenizer, KNOWN, 4)


def test_the_mean_is_that_of_pool_states(teacher, tokenizer):
    inputs = tokenizer(["good film the"], return_tensors="pt")
    with torch.no_grad():
        last = teacher.bert(**inputs).last_hidden_state
    mask = torch.tensor([[0, 1, 1, 1, 0]])
    words = [*KNOWN, Surface("good film the", True)]
    vectors, _ = teacher_vectors(teacher, tokenizer, words, 32, layers=(-1,))
    singles = torch.stack([hidden_states_of(teacher, tokenizer, word)[-1] for word in WORDS])
    expected = torch.cat([singles, pool_states(last, mask)]).double().numpy()
    expected -= expected.mean(axis=0)
    scale = 0.3 / np.sqrt((expected**2).mean())
    np.testing.assert_allclose(gram(vectors), gram(expected * scale), atol=2e-5)
