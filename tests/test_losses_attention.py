import math

import pytest
import torch

from distil_trainer.losses import attention_cosine, attention_kl, attention_mse, relation_kl

# One head. Row 0 has two positions, row 1 one and a padding.
STUDENT = torch.tensor([[[[0.5, 0.5], [1.0, 0.0]]], [[[1.0, 0.0], [0.3, 0.7]]]])
TEACHER = torch.tensor([[[[0.75, 0.25], [1.0, 0.0]]], [[[1.0, 0.0], [0.9, 0.1]]]])
MASK = torch.tensor([[1, 1], [1, 0]])
RANDOM = torch.Generator().manual_seed(3)
SCORES = torch.randn(2, 3, 5, 5, generator=RANDOM)
ALL = torch.ones(2, 5)


def _gradient(loss, states, *args):
    states = states.clone().requires_grad_(True)
    loss(states, *args).backward()
    return states.grad


def test_attention_mse_equals_the_value_worked_by_hand():
    # Row 0: mean of 1/16 (twice) and 0 (twice).
    assert attention_mse(STUDENT, TEACHER, MASK).item() == pytest.approx(1 / 32 / 2, abs=1e-7)


def test_attention_cosine_equals_the_value_worked_by_hand():
    # Row 0, first query: (3/8 + 1/8) / (sqrt(1/2) sqrt(10/16)) = 2 / sqrt 5.
    expected = (1 - 2 / math.sqrt(5.0)) / 2 / 2
    assert attention_cosine(STUDENT, TEACHER, MASK).item() == pytest.approx(expected, abs=1e-6)


def test_attention_kl_equals_the_value_worked_by_hand():
    expected = (0.75 * math.log(1.5) + 0.25 * math.log(0.5)) / 2 / 2
    assert attention_kl(STUDENT, TEACHER, MASK).item() == pytest.approx(expected, abs=1e-7)


def test_attention_kl_runs_from_teacher_to_student():
    expected = (0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25)) / 2 / 2
    assert attention_kl(TEACHER, STUDENT, MASK).item() == pytest.approx(expected, abs=1e-7)


def test_heads_are_averaged():
    student, teacher = STUDENT.repeat(1, 2, 1, 1), torch.cat([TEACHER, STUDENT], dim=1)
    for loss in (attention_mse, attention_cosine, attention_kl):
        assert loss(student, teacher, MASK).item() == pytest.approx(loss(STUDENT, TEACHER, MASK).item() / 2, rel=1e-6)


@pytest.mark.parametrize("loss", [attention_mse, attention_cosine, attention_kl])
def test_the_gradient_of_the_scores_is_zero_where_the_student_equals_the_teacher(loss):
    def of_scores(scores):
        return loss(scores.softmax(dim=-1), SCORES.softmax(dim=-1), ALL)

    assert _gradient(of_scores, SCORES).abs().max().item() < 1e-8
    assert _gradient(of_scores, SCORES.flip(0)).abs().max().item() > 1e-4


def test_attention_kl_has_the_gradient_of_the_closed_form():
    targets = SCORES.flip(0).softmax(dim=-1)
    gradient = _gradient(lambda scores: attention_kl(scores.softmax(dim=-1), targets, ALL), SCORES)
    torch.testing.assert_close(gradient, (SCORES.softmax(dim=-1) - targets) / (2 * 3 * 5), atol=1e-7, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("loss", [attention_mse, attention_cosine, attention_kl])
def test_probabilities_that_are_exactly_zero_give_finite_values_and_gradients(loss, dtype):
    student = torch.tensor([[[[1.0, 0.0], [0.0, 0.0]]]], dtype=dtype)
    teacher = torch.tensor([[[[0.0, 1.0], [1.0, 0.0]]]], dtype=dtype)
    assert loss(student, teacher, torch.ones(1, 2)).isfinite()
    assert _gradient(loss, student, teacher, torch.ones(1, 2)).isfinite().all()


def test_the_gradient_of_attention_kl_stays_finite_in_half_precision():
    student = torch.tensor([[[[1.0, 6e-8]]]], dtype=torch.float16).expand(1, 1, 2, 2)
    teacher = torch.tensor([[[[0.0, 1.0]]]], dtype=torch.float16).expand(1, 1, 2, 2)
    assert _gradient(attention_kl, student, teacher, torch.ones(1, 2)).isfinite().all()


@pytest.mark.parametrize("loss", [attention_mse, attention_cosine, attention_kl])
def test_unequal_numbers_of_heads_are_refused_and_point_to_relations(loss):
    with pytest.raises(ValueError, match="student has num_heads=3, teacher has num_heads=1: .* Compare relations"):
        loss(SCORES, SCORES[:, :1], ALL)


def test_relation_kl_equals_the_value_worked_by_hand():
    # Two heads of width 1. Head 0: the teacher's scores are (ln 3, 0) at each position, since X is (sqrt(ln 3), 0)
    # at the first and 0 at the second, where they are (0, 0); the student's are all 0. Head 1: all 0 on both sides.
    root = math.sqrt(math.log(3.0))
    teacher = torch.tensor([[[root, 0.0], [0.0, 0.0]]])
    student = torch.zeros(1, 2, 2)
    first = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert relation_kl(student, teacher, torch.ones(1, 2), 2).item() == pytest.approx(first / 2 / 2, abs=1e-6)


def test_relations_are_scaled_by_the_root_of_the_width_of_a_head():
    # The student's 2 numbers, each twice over, give twice the products; the root of the width grows by sqrt 2 only.
    narrow, teacher = torch.randn(2, 5, 2, generator=RANDOM), torch.randn(2, 5, 6, generator=RANDOM)
    wide = torch.cat([narrow, narrow], dim=-1) / 2**0.25
    assert relation_kl(wide, teacher, ALL, 1).item() == pytest.approx(
        relation_kl(narrow, teacher, ALL, 1).item(), rel=1e-5
    )


def test_relations_of_one_head_equal_a_loop_over_positions():
    student, teacher = torch.randn(1, 5, 4, generator=RANDOM), torch.randn(1, 5, 6, generator=RANDOM)
    total = 0.0
    for head in range(2):
        own, other = student[0, :, 2 * head : 2 * head + 2], teacher[0, :, 3 * head : 3 * head + 3]
        for query in range(5):
            p = torch.softmax(other @ other[query] / math.sqrt(3.0), dim=0)
            q = torch.softmax(own @ own[query] / math.sqrt(2.0), dim=0)
            total += (p * (p / q).log()).sum().item()
    assert relation_kl(student, teacher, torch.ones(1, 5), 2).item() == pytest.approx(total / 10, rel=1e-5)


def test_the_gradient_of_relations_is_zero_where_the_student_equals_the_teacher():
    states = torch.randn(2, 5, 4, generator=RANDOM)
    assert _gradient(relation_kl, states, states, ALL, 2).abs().max().item() < 1e-7
    assert _gradient(relation_kl, states, states.flip(0), ALL, 2).abs().max().item() > 1e-3


@pytest.mark.parametrize("num_relation_heads", [0, 3, 8])
def test_a_number_of_relation_heads_that_does_not_divide_both_widths_is_refused(num_relation_heads):
    message = f"num_relation_heads={num_relation_heads} must divide .* 8 and the teacher's width 12.* a divisor of 4"
    with pytest.raises(ValueError, match=message):
        relation_kl(torch.zeros(2, 5, 8), torch.zeros(2, 5, 12), ALL, num_relation_heads)
