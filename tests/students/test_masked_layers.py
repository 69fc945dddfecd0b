"""The shared layers compute what they say, worked out by hand or by loops."""

import torch
from torch.nn import functional as F

from distil_trainer.students.masked_layers import (
    SameLengthConv1d,
    TextCnn,
    left_align,
    masked_softmax,
    mean_over_time,
    normalized_head,
    relu_head,
    restore_order,
)


def equal(first, second):
    torch.testing.assert_close(first, second, rtol=0, atol=1e-6)


def test_left_align_moves_tokens_in_their_order_and_restore_order_brings_them_back():
    ids = torch.tensor([[9, 4, 9, 5, 6], [1, 2, 3, 4, 5], [7, 7, 7, 7, 8]])
    mask = torch.tensor([[0.0, 1, 0, 1, 1], [1, 1, 1, 1, 1], [0, 0, 0, 0, 1]])
    moved, moved_mask, position = left_align(ids, mask)
    assert moved.tolist() == [[4, 5, 6, 9, 9], [1, 2, 3, 4, 5], [8, 7, 7, 7, 7]]
    assert moved_mask.tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1], [1, 0, 0, 0, 0]]
    assert restore_order(moved.unsqueeze(-1), position).squeeze(-1).tolist() == ids.tolist()


def test_left_align_leaves_a_row_without_tokens_as_it_is():
    moved, mask, position = left_align(torch.tensor([[3, 4]]), torch.zeros(1, 2))
    assert (moved.tolist(), mask.tolist(), position.tolist()) == ([[3, 4]], [[0.0, 0.0]], [[0, 1]])


def test_masked_softmax_sums_to_one_over_the_tokens():
    scores = torch.tensor([[0.0, 50.0, 0.0, -3.0]])
    equal(masked_softmax(scores, torch.tensor([[1, 0, 1, 0]])), torch.tensor([[0.5, 0.0, 0.5, 0.0]]))
    equal(masked_softmax(scores - 1e30, torch.tensor([[0, 1, 0, 0]])), torch.tensor([[0.0, 1.0, 0.0, 0.0]]))


def test_masked_softmax_of_a_row_without_tokens_is_zero():
    assert masked_softmax(torch.randn(1, 3), torch.zeros(1, 3)).tolist() == [[0.0, 0.0, 0.0]]


def test_mean_over_time_divides_by_the_tokens():
    states = torch.tensor([[[2.0, 4.0], [4.0, 0.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 0.0], [0.0, 0.0]]])
    mask = torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    assert mean_over_time(states, mask).tolist() == [[3.0, 2.0], [0.0, 0.0]]


def test_a_window_is_centred_on_its_token():
    for kernel_size, left in ((1, 0), (2, 0), (3, 1), (4, 1), (5, 2), (6, 2)):
        convolution = SameLengthConv1d(1, 1, kernel_size)
        torch.nn.init.ones_(convolution.weight)
        torch.nn.init.zeros_(convolution.bias)
        tokens = torch.arange(1.0, 6.0)
        expected = [float(tokens[max(0, i - left) : i - left + kernel_size].sum()) for i in range(5)]
        assert convolution(tokens[None, None])[0, 0].tolist() == expected


@torch.no_grad()
def test_the_text_cnn_takes_the_largest_answer_of_each_filter():
    torch.manual_seed(0)
    cnn = TextCnn(4, [2, 3], 5)
    states = torch.randn(1, 7, 4)
    pooled, answers = cnn(states, torch.ones(1, 7))
    expected = []
    for convolution, right in zip(cnn.convolutions, (1, 1), strict=True):
        left = convolution.kernel_size[0] - 1 - right
        padded = F.pad(states[0], (0, 0, left, right))
        for weight, bias in zip(convolution.weight, convolution.bias, strict=True):
            windows = [(padded[i : i + len(weight[0])] * weight.T).sum() + bias for i in range(len(states[0]))]
            expected.append(max(0.0, max(windows)))
    equal(pooled[0], torch.tensor(expected))
    equal(answers.amax(dim=1), pooled)
    assert answers.shape == (1, 7, 10)


def test_the_heads_have_their_layers_in_order():
    names = [type(layer).__name__ for layer in normalized_head(8, 4, 2, 0.2)]
    assert names == ["LayerNorm", "Dropout", "Linear", "LayerNorm", "Dropout", "Linear"]
    assert [type(layer).__name__ for layer in relu_head(8, 4, 2, 0.2)] == ["Linear", "ReLU", "Dropout", "Linear"]
