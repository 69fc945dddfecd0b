"""Students cut out of their teacher."""

import copy

import pytest
import torch
from transformers import AutoModelForSequenceClassification, GPT2Config, GPT2ForSequenceClassification

from distil_trainer.loading import load_classifier
from distil_trainer.students.layer_selection import _FAMILIES, student_from_teacher

INPUTS = {
    "input_ids": torch.tensor([[2, 7, 9, 11, 3], [2, 8, 3, 0, 0]]),
    "attention_mask": torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]),
}


def logits_of(model):
    with torch.no_grad():
        return model(**INPUTS).logits


def layers_of(model):
    return model.get_submodule(_FAMILIES[model.config.model_type][0])


def same(first, second):
    first, second = first.state_dict(), second.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_a_student_with_all_layers_has_the_teachers_logits(any_family_model):
    torch.testing.assert_close(
        logits_of(student_from_teacher(any_family_model, num_layers=4)), logits_of(any_family_model), rtol=0, atol=0
    )


def test_the_student_holds_the_chosen_layers_the_embeddings_and_the_head(any_family_model):
    student = student_from_teacher(any_family_model, layers=[1, 2, 4])
    assert [len(layers_of(model)) for model in (student, any_family_model)] == [3, 4]
    for index, layer in enumerate([1, 2, 4]):
        assert same(layers_of(student)[index], layers_of(any_family_model)[layer - 1])
    assert not same(layers_of(student)[2], layers_of(any_family_model)[2])
    assert same(student.base_model.embeddings, any_family_model.base_model.embeddings)
    assert same(student.classifier, any_family_model.classifier)


def test_a_student_equals_its_teacher_with_the_other_layers_taken_out(any_family_model):
    student = student_from_teacher(any_family_model, layers=[2, 3])
    shortened = copy.deepcopy(any_family_model)
    parent, _, name = _FAMILIES[shortened.config.model_type][0].rpartition(".")
    setattr(shortened.get_submodule(parent), name, layers_of(shortened)[1:3])
    shortened.config.num_hidden_layers = 2
    torch.testing.assert_close(logits_of(student), logits_of(shortened), rtol=0, atol=0)
    assert not torch.allclose(logits_of(student), logits_of(any_family_model))


def test_the_student_has_a_configuration_of_its_own_and_reloads(any_family_model, tmp_path):
    before = any_family_model.config.to_dict()
    student = student_from_teacher(any_family_model, num_layers=2)
    assert student.config.num_hidden_layers == 2
    assert student.config.id2label == any_family_model.config.id2label
    assert any_family_model.config.to_dict() == before
    student.save_pretrained(tmp_path)
    reloaded = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(logits_of(reloaded), logits_of(student), rtol=0, atol=0)


def test_no_tensor_is_shared_and_training_the_student_leaves_the_teacher(any_family_model):
    before = copy.deepcopy(any_family_model.state_dict())
    student = student_from_teacher(any_family_model, num_layers=4)
    assert not {p.data_ptr() for p in student.parameters()} & {p.data_ptr() for p in any_family_model.parameters()}
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(1.0)
    after = any_family_model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_half_precision_or_frozen_teacher_gives_a_trainable_float32_student(any_family_model, tmp_path):
    teacher = any_family_model.half().requires_grad_(False)
    teacher.config.dtype = torch.float16
    student = student_from_teacher(teacher, num_layers=2)
    assert {p.dtype for p in student.parameters()} == {torch.float32}
    assert all(p.requires_grad for p in student.parameters())
    assert {p.dtype for p in teacher.parameters()} == {torch.float16}
    student.save_pretrained(tmp_path)
    assert AutoModelForSequenceClassification.from_pretrained(tmp_path, dtype="auto").dtype == torch.float32


@pytest.mark.parametrize(
    "teacher_layers, num_layers, expected",
    [(6, 3, [2, 4, 6]), (12, 4, [3, 6, 9, 12]), (6, 4, [1, 3, 4, 6]), (12, 5, [2, 4, 7, 9, 12]), (4, 1, [4])],
)
def test_evenly_spaced_layers_end_with_the_last(teacher, teacher_layers, num_layers, expected):
    teacher = student_from_teacher(teacher, num_layers=1)
    teacher.config.num_hidden_layers = teacher_layers
    deep = type(teacher)(teacher.config)
    student = student_from_teacher(deep, num_layers=num_layers)
    assert all(same(layers_of(student)[i], layers_of(deep)[layer - 1]) for i, layer in enumerate(expected))
    assert len(layers_of(student)) == len(expected)


def test_making_a_student_draws_nothing_from_the_global_generator(teacher):
    state = torch.get_rng_state()
    student_from_teacher(teacher, num_layers=2)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_attention_implementation_is_the_teachers(teacher):
    teacher = AutoModelForSequenceClassification.from_config(teacher.config, attn_implementation="eager")
    assert student_from_teacher(teacher, num_layers=2).config._attn_implementation == "eager"


def test_an_unknown_family_is_refused_with_the_list_of_known_ones():
    model = GPT2ForSequenceClassification(GPT2Config(vocab_size=20, n_embd=8, n_layer=1, n_head=2, n_positions=8))
    with pytest.raises(
        ValueError, match="model_type='gpt2'; layers can be taken from bert, roberta, electra, distilbert"
    ):
        student_from_teacher(model, num_layers=1)


def test_a_teacher_with_pruned_heads_is_refused(teacher):
    teacher.config.pruned_heads = {0: [1]}
    with pytest.raises(ValueError, match="choose layers from the unpruned teacher"):
        student_from_teacher(teacher, num_layers=2)


@pytest.mark.parametrize(
    "choice, error, message",
    [
        ({}, ValueError, "give exactly one of them"),
        ({"num_layers": 2, "layers": [1, 2]}, ValueError, "give exactly one of them"),
        ({"num_layers": 5}, ValueError, "num_layers=5: the teacher has 4 layers"),
        ({"num_layers": 0}, ValueError, "num_layers=0: the teacher has 4 layers"),
        ({"num_layers": 2.0}, TypeError, "num_layers=2.0 must be an integer"),
        ({"layers": []}, ValueError, "name at least one, counted from 1 to 4"),
        ({"layers": [0, 2]}, ValueError, "counted from 1 to 4"),
        ({"layers": [2, 5]}, ValueError, "counted from 1 to 4"),
        ({"layers": [2, 2]}, ValueError, r"must increase, each layer once.*\[2\]"),
        ({"layers": [4, 2]}, ValueError, r"must increase, each layer once.*\[2, 4\]"),
        ({"layers": "2,4"}, TypeError, "must be a list of integers"),
        ({"layers": [True, 2]}, TypeError, "must be a list of integers"),
    ],
)
def test_layers_that_are_not_in_the_teacher_are_refused(teacher, choice, error, message):
    with pytest.raises(error, match=message):
        student_from_teacher(teacher, **choice)


def test_the_real_teacher_gives_a_three_layer_float32_student(minilm_folder):
    model, _ = load_classifier(minilm_folder)
    student = student_from_teacher(model, layers=[2, 4, 6])
    assert student.config.num_hidden_layers == 3
    assert student.dtype == torch.float32
    assert same(layers_of(student)[2], layers_of(model)[5])
