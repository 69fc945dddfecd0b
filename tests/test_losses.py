import math

import pytest
import torch

import distil_trainer.losses
from distil_trainer.losses import (
    decoupled_kd,
    hard_label_binary_cross_entropy,
    hard_label_cross_entropy,
    hard_label_mse,
    logit_mse,
    sigmoid_cross_entropy,
    sigmoid_kl,
    soft_cross_entropy,
    soft_target_kl,
)

STUDENT = torch.tensor([[0.0, 0.0], [math.log(3.0), 0.0]], dtype=torch.float32)
TEACHER = torch.tensor([[math.log(3.0), 0.0], [math.log(3.0), 0.0]], dtype=torch.float32)
RANDOM = torch.Generator().manual_seed(3)
LOGITS = torch.randn(5, 4, generator=RANDOM)
TARGETS = torch.randn(5, 4, generator=RANDOM)
NAN = float("nan")


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


@pytest.mark.parametrize("loss", [soft_target_kl, soft_cross_entropy, logit_mse, sigmoid_kl, sigmoid_cross_entropy])
def test_half_precision_logits_are_compared_in_float32(loss):
    value = loss(LOGITS.bfloat16(), TARGETS.bfloat16())
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(loss(LOGITS.bfloat16().float(), TARGETS.bfloat16().float()).item(), rel=1e-6)


@pytest.mark.parametrize("loss", [soft_target_kl, soft_cross_entropy, logit_mse, sigmoid_kl, sigmoid_cross_entropy])
def test_logits_of_unequal_shape_are_refused(loss):
    with pytest.raises(ValueError, match=r"\(5, 4\), teacher_logits has \(5, 1\)"):
        loss(LOGITS, TARGETS[:, :1])


def test_sigmoid_kl_equals_the_value_worked_by_hand():
    # One label in four differs: teacher 3/4, student 1/2.
    expected = (0.75 * math.log(1.5) + 0.25 * math.log(0.5)) / 4
    assert sigmoid_kl(STUDENT, TEACHER).item() == pytest.approx(expected, abs=1e-7)
    assert sigmoid_kl(2 * STUDENT, 2 * TEACHER, 2.0).item() == pytest.approx(4 * expected, abs=1e-6)


def test_sigmoid_cross_entropy_equals_the_value_worked_by_hand():
    # In order: teacher 3/4 and student 1/2; 1/2 and 1/2; 3/4 and 3/4; 1/2 and 1/2.
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert sigmoid_cross_entropy(STUDENT, TEACHER).item() == pytest.approx((3 * math.log(2.0) + entropy) / 4, abs=1e-6)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_sigmoid_losses_differ_by_the_entropy_of_the_teacher_and_have_the_gradient_of_the_closed_form(temperature):
    probabilities = torch.sigmoid(TARGETS.double() / temperature)
    entropy = -torch.xlogy(probabilities, probabilities) - torch.xlogy(1 - probabilities, 1 - probabilities)
    difference = sigmoid_cross_entropy(LOGITS, TARGETS, temperature) - sigmoid_kl(LOGITS, TARGETS, temperature)
    assert difference.item() == pytest.approx(temperature**2 * entropy.mean().item(), rel=1e-5)
    closed_form = (torch.sigmoid(LOGITS / temperature) - torch.sigmoid(TARGETS / temperature)) * temperature / 20
    torch.testing.assert_close(_gradient(sigmoid_kl, TARGETS, temperature), closed_form, atol=1e-7, rtol=1e-5)
    torch.testing.assert_close(
        _gradient(sigmoid_cross_entropy, TARGETS, temperature), closed_form, atol=1e-7, rtol=1e-5
    )


def test_sigmoid_kl_and_all_gradients_are_zero_where_the_student_equals_the_teacher():
    assert sigmoid_kl(LOGITS, LOGITS, 2.0).item() == 0
    assert _gradient(sigmoid_kl, LOGITS, 2.0).abs().max().item() < 1e-7
    assert _gradient(sigmoid_cross_entropy, LOGITS, 2.0).abs().max().item() < 1e-7


def test_sigmoid_kl_is_finite_where_the_sigmoid_is_exactly_zero_or_one():
    student = torch.tensor([[200.0, -200.0]], requires_grad=True)
    loss = sigmoid_kl(student, -student.detach())
    loss.backward()
    assert loss.item() == pytest.approx(200.0)
    torch.testing.assert_close(student.grad, torch.tensor([[0.5, -0.5]]))


def test_decoupled_kd_equals_the_value_worked_by_hand():
    # Teacher (1/2, 1/4, 1/4), student (1/4, 1/4, 1/2), target 0. Target against the rest: (1/2, 1/2) and (1/4, 3/4).
    # Among the others: (1/2, 1/2) and (1/3, 2/3).
    teacher = torch.tensor([[2.0, 1.0, 1.0]]).log()
    student = torch.tensor([[1.0, 1.0, 2.0]]).log()
    target_part = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    non_target_part = 0.5 * math.log(1.5) + 0.5 * math.log(0.75)
    value = decoupled_kd(student, teacher, torch.tensor([0]), 1.0, 2.0, 3.0)
    assert value.item() == pytest.approx(2 * target_part + 3 * non_target_part, abs=1e-6)
    value = decoupled_kd(2 * student, 2 * teacher, torch.tensor([0]), 2.0, 2.0, 3.0)
    assert value.item() == pytest.approx(4 * (2 * target_part + 3 * non_target_part), abs=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_decoupled_kd_weighted_with_the_teachers_doubt_is_the_kl(temperature):
    for row in range(5):
        student, teacher, labels = LOGITS[row : row + 1], TARGETS[row : row + 1], torch.tensor([row % 4])
        doubt = 1 - torch.softmax(teacher / temperature, -1)[0, labels.item()].item()
        decoupled = decoupled_kd(student, teacher, labels, temperature, 1.0, doubt)
        assert decoupled.item() == pytest.approx(soft_target_kl(student, teacher, temperature).item(), rel=1e-5)


def test_decoupled_kd_takes_the_teachers_class_where_a_row_is_unlabelled():
    labels = torch.tensor([1, -100, 3, -100, 0])
    filled = torch.where(labels == -100, TARGETS.argmax(-1), labels)
    assert decoupled_kd(LOGITS, TARGETS, labels).item() == decoupled_kd(LOGITS, TARGETS, filled).item()
    assert decoupled_kd(LOGITS, TARGETS, labels).item() != decoupled_kd(LOGITS, TARGETS, TARGETS.argmax(-1)).item()


def test_decoupled_kd_and_its_gradient_are_zero_where_the_student_equals_the_teacher():
    labels = torch.tensor([1, -100, 3, 2, 0])
    assert decoupled_kd(LOGITS, LOGITS, labels, 2.0).item() == 0
    assert _gradient(decoupled_kd, LOGITS, labels, 2.0).abs().max().item() < 1e-6
    assert _gradient(decoupled_kd, TARGETS, labels, 2.0).abs().max().item() > 1e-2


def test_decoupled_kd_of_two_labels_is_the_kl_whatever_the_non_target_weight():
    labels = torch.tensor([0, 1])
    assert decoupled_kd(STUDENT, TEACHER, labels, 1.0, 1.0, 100.0).item() == pytest.approx(
        soft_target_kl(STUDENT, TEACHER).item(), abs=1e-7
    )


def test_decoupled_kd_is_finite_where_the_target_has_all_the_probability():
    student = torch.tensor([[300.0, 0.0, 1.0]], requires_grad=True)
    loss = decoupled_kd(student, torch.tensor([[-300.0, 1.0, 0.0]]), torch.tensor([0]))
    loss.backward()
    assert loss.isfinite() and student.grad.isfinite().all()


def test_decoupled_kd_refuses_a_single_label_and_labels_that_are_not_one_per_row():
    with pytest.raises(ValueError, match="num_labels=1, but decoupling"):
        decoupled_kd(LOGITS[:, :1], TARGETS[:, :1], torch.zeros(5, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"labels has shape \(5, 4\), but \(batch_size,\)=\(5,\)"):
        decoupled_kd(LOGITS, TARGETS, torch.zeros(5, 4, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"teacher_logits has \(5, 3\)"):
        decoupled_kd(LOGITS, TARGETS[:, :3], torch.zeros(5, dtype=torch.int64))


def test_binary_cross_entropy_is_summed_over_labelled_rows_and_divided_by_all_rows():
    # Row 0 is at probability 1/2 for both labels, row 1 is unlabelled.
    labels = torch.tensor([[1.0, 0.0], [NAN, NAN]])
    assert hard_label_binary_cross_entropy(STUDENT, labels).item() == pytest.approx(math.log(2.0) / 2, abs=1e-6)
    # Row 1 is at 3/4 and 1/2.
    labels = torch.tensor([[NAN, 0.0], [0.0, 1.0]])
    expected = (math.log(4.0) + math.log(2.0)) / 2 / 2
    assert hard_label_binary_cross_entropy(STUDENT, labels).item() == pytest.approx(expected, abs=1e-6)


def test_squared_error_is_summed_over_labelled_rows_and_divided_by_all_rows():
    predictions = torch.tensor([[1.0], [2.0], [5.0]])
    labels = torch.tensor([0.5, NAN, 2.0])
    assert hard_label_mse(predictions, labels).item() == pytest.approx((0.25 + 9.0) / 3, abs=1e-6)
    assert hard_label_mse(predictions, labels[:, None]).item() == pytest.approx((0.25 + 9.0) / 3, abs=1e-6)
    two = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert hard_label_mse(two, torch.tensor([[0.0, 4.0], [3.0, NAN]])).item() == pytest.approx(2.5 / 2, abs=1e-6)


@pytest.mark.parametrize("loss", [hard_label_binary_cross_entropy, hard_label_mse])
def test_an_unlabelled_row_of_floats_gets_the_gradient_zero_not_nan(loss):
    labels = (TARGETS > 0).float()
    labels[1], labels[3, 2] = NAN, NAN
    gradient = _gradient(loss, labels)
    assert gradient.isfinite().all()
    assert gradient[[1, 3]].abs().max().item() == 0
    all_labelled = _gradient(loss, (TARGETS > 0).float())
    torch.testing.assert_close(gradient[[0, 2, 4]], all_labelled[[0, 2, 4]])
    assert loss(LOGITS, torch.full((5, 4), NAN)).item() == 0
    assert _gradient(loss, torch.full((5, 4), NAN)).abs().max().item() == 0


@pytest.mark.parametrize("loss", [hard_label_binary_cross_entropy, hard_label_mse])
def test_float_labels_of_unequal_shape_are_refused(loss):
    with pytest.raises(ValueError, match=r"student_logits has shape \(5, 4\), labels has \(5, 1\)"):
        loss(LOGITS, TARGETS[:, :1])


def test_values_without_a_second_axis_are_refused_where_the_student_predicts_several():
    with pytest.raises(ValueError, match=r"student_logits has shape \(5, 4\), labels has \(5, 1\)"):
        hard_label_mse(LOGITS, TARGETS[:, 0])


def test_four_micro_batches_of_two_have_the_mean_loss_of_one_batch_of_eight_for_every_loss_on_logits():
    student, teacher = torch.randn(8, 4, generator=RANDOM), torch.randn(8, 4, generator=RANDOM)
    classes = torch.tensor([0, -100, 2, 3, -100, -100, 1, 0])
    values = torch.where((classes == -100)[:, None], NAN, (teacher > 0).float())
    for loss, rest in (
        (soft_target_kl, [teacher]),
        (soft_cross_entropy, [teacher]),
        (logit_mse, [teacher]),
        (sigmoid_kl, [teacher]),
        (sigmoid_cross_entropy, [teacher]),
        (decoupled_kd, [teacher, classes]),
        (hard_label_cross_entropy, [classes]),
        (hard_label_binary_cross_entropy, [values]),
        (hard_label_mse, [values]),
    ):
        parts = [loss(student[i : i + 2], *(arg[i : i + 2] for arg in rest)) for i in range(0, 8, 2)]
        torch.testing.assert_close(torch.stack(parts).mean(), loss(student, *rest), msg=loss.__name__)


def test_every_loss_is_exported_and_no_helper():
    functions = {name for name in vars(distil_trainer.losses) if callable(getattr(distil_trainer.losses, name))}
    assert functions == set(distil_trainer.losses.__all__)
