import math

import pytest
import torch

from distil_trainer.losses import hard_label_cross_entropy, logit_mse, soft_cross_entropy, soft_target_kl

STUDENT = torch.tensor([[0.0, 0.0], [math.log(3.0), 0.0]], dtype=torch.float32)
TEACHER = torch.tensor([[math.log(3.0), 0.0], [math.log(3.0), 0.0]], dtype=torch.float32)
RANDOM = torch.Generator().manual_seed(3)
LOGITS = torch.randn(5, 4, generator=RANDOM)
TARGETS = torch.randn(5, 4, generator=RANDOM)


def _gradient(loss, *args):
    logits = LOGITS.clone().requires_grad_(True)
    loss(logits, *args).backward()
    return logits.grad


def test_kl_equals_the_value_worked_by_hand():
    # Row 0: teacher (3/4, 1/4), student (1/2, 1/2): 3/4 ln(3/2) + 1/4 ln(1/2). Row 1: equal, so 0. Mean over two rows.
    expected = (0.75 * math.log(1.5) + 0.25 * math.log(0.5)) / 2
    assert soft_target_kl(STUDENT, TEACHER, 1.0).item() == pytest.approx(expected, abs=1e-7)


def test_kl_is_multiplied_by_the_square_of_the_temperature():
    # Logits 2 ln 3 over temperature 2 are the logits above, so the value is four times that of the test above.
    expected = 4 * (0.75 * math.log(1.5) + 0.25 * math.log(0.5)) / 2
    assert soft_target_kl(2 * STUDENT, 2 * TEACHER, 2.0).item() == pytest.approx(expected, abs=1e-6)


def test_kl_runs_from_teacher_to_student():
    reverse = (0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25)) / 2
    assert soft_target_kl(TEACHER, STUDENT, 1.0).item() == pytest.approx(reverse, abs=1e-7)


def test_soft_cross_entropy_equals_the_value_worked_by_hand():
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    expected = (math.log(2.0) + entropy) / 2
    assert soft_cross_entropy(STUDENT, TEACHER, 1.0).item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_soft_cross_entropy_of_equal_logits_is_the_scaled_entropy_of_the_teacher(temperature):
    probabilities = torch.softmax(TARGETS / temperature, dim=-1)
    entropy = -(probabilities * probabilities.log()).sum(dim=-1).mean()
    value = soft_cross_entropy(TARGETS, TARGETS, temperature)
    assert value.item() == pytest.approx(temperature**2 * entropy.item(), rel=1e-6)


def test_mse_equals_the_value_worked_by_hand():
    # One difference of ln 3 among four values.
    assert logit_mse(STUDENT, TEACHER).item() == pytest.approx(math.log(3.0) ** 2 / 4, abs=1e-6)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_kl_and_mse_and_all_gradients_are_zero_where_the_student_equals_the_teacher(temperature):
    assert soft_target_kl(LOGITS, LOGITS, temperature).item() == 0
    assert logit_mse(LOGITS, LOGITS).item() == 0
    for gradient in (
        _gradient(soft_target_kl, LOGITS, temperature),
        _gradient(soft_cross_entropy, LOGITS, temperature),
        _gradient(logit_mse, LOGITS),
    ):
        assert gradient.abs().max().item() < 1e-6


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_kl_and_soft_cross_entropy_have_the_gradient_of_the_closed_form(temperature):
    closed_form = (
        (torch.softmax(LOGITS / temperature, -1) - torch.softmax(TARGETS / temperature, -1)) * temperature / 5
    )
    torch.testing.assert_close(_gradient(soft_target_kl, TARGETS, temperature), closed_form, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(_gradient(soft_cross_entropy, TARGETS, temperature), closed_form, atol=1e-6, rtol=1e-5)


def test_mse_has_the_gradient_of_the_closed_form():
    torch.testing.assert_close(_gradient(logit_mse, TARGETS), 2 * (LOGITS - TARGETS) / LOGITS.numel())


def test_hard_labels_are_summed_over_labelled_rows_and_divided_by_all_rows():
    labels = torch.tensor([1, -100])
    assert hard_label_cross_entropy(STUDENT, labels).item() == pytest.approx(math.log(2.0) / 2, abs=1e-6)


def test_an_unlabelled_row_gets_no_gradient_and_leaves_the_others_unchanged():
    labels = torch.tensor([0, 1, -100, 3, 2])
    gradient = _gradient(hard_label_cross_entropy, labels)
    expected = (torch.softmax(LOGITS, -1) - torch.nn.functional.one_hot(labels.clamp(min=0), 4)) / 5
    expected[2] = 0
    torch.testing.assert_close(gradient, expected)


def test_a_batch_without_labels_has_hard_label_loss_zero_not_nan():
    labels = torch.full((5,), -100)
    assert hard_label_cross_entropy(LOGITS, labels).item() == 0
    assert _gradient(hard_label_cross_entropy, labels).abs().max().item() == 0


def test_label_smoothing_spreads_its_share_over_all_labels():
    labels = torch.tensor([1, -100])
    # Row 0 is uniform, so every target costs ln 2; row 1 is unlabelled. A row that is not uniform tells the share.
    assert hard_label_cross_entropy(STUDENT, labels, 0.2).item() == pytest.approx(math.log(2.0) / 2, abs=1e-6)
    labels = torch.tensor([-100, 0])
    expected = -(0.9 * math.log(0.75) + 0.1 * math.log(0.25)) / 2
    assert hard_label_cross_entropy(STUDENT, labels, 0.2).item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("loss", [soft_target_kl, soft_cross_entropy, logit_mse])
def test_half_precision_logits_are_compared_in_float32(loss):
    value = loss(LOGITS.bfloat16(), TARGETS.bfloat16())
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(loss(LOGITS.bfloat16().float(), TARGETS.bfloat16().float()).item(), rel=1e-6)


@pytest.mark.parametrize("loss", [soft_target_kl, soft_cross_entropy, logit_mse])
def test_logits_of_unequal_shape_are_refused(loss):
    with pytest.raises(ValueError, match=r"\(5, 4\), teacher_logits has \(5, 1\)"):
        loss(LOGITS, TARGETS[:, :1])
