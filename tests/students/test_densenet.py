"""The dense block and the dynamic self-attention compute what their papers say, worked out token by token."""

import torch
from tiny_students import make_student, run
from torch.nn import functional as F

from distil_trainer.students import DensenetCnnConfig, DensenetCnnForSequenceClassification


def convolve(layer, tokens):
    reach = layer.kernel_size[0] // 2
    padded = F.pad(tokens, (0, 0, reach, reach))
    windows = [padded[i : i + layer.kernel_size[0]] for i in range(len(tokens))]
    return torch.stack([(window.T * layer.weight).sum(dim=(1, 2)) + layer.bias for window in windows])


def test_each_layer_of_a_branch_reads_all_layers_before_it():
    base = make_student("densenet_cnn").student
    ids = torch.tensor([[4, 9, 2, 30, 11]])
    embedded, block, _ = run(base, {"input_ids": ids}, output_hidden_states=True).hidden_states
    joined = [embedded[0]]
    for branch in base.block.branches:
        made = []
        for layer in branch:
            made.append(convolve(layer, torch.cat(made, dim=1) if made else embedded[0]).relu())
        joined.append(made[-1])
    assert [branch[4].kernel_size for branch in base.block.branches] == [(3,), (9,)]
    expected = base.block.norm(convolve(base.block.mix, torch.cat(joined, dim=1)).relu())
    torch.testing.assert_close(block[0], expected.detach(), rtol=0, atol=1e-5)


def test_dynamic_self_attention_follows_its_algorithm():
    base = make_student("densenet_dsa").student
    ids = torch.tensor([[4, 9, 2, 30, 11]])
    outputs = run(base, {"input_ids": ids}, output_hidden_states=True)
    pooled = []
    for head in outputs.hidden_states[-1][0].split(base.config.head_size, dim=1):
        scores = torch.zeros(len(head))
        for _ in range(2):
            weights = scores.exp() / scores.exp().sum()
            z = torch.tanh(sum(weight * x for weight, x in zip(weights, head, strict=True)))
            scores = scores + head @ z
        pooled.append(z)
    torch.testing.assert_close(outputs.pooler_output[0], torch.cat(pooled), rtol=0, atol=1e-5)
    expected = F.leaky_relu(base.attention.projection(outputs.hidden_states[1][0]), 0.01)
    torch.testing.assert_close(outputs.hidden_states[-1][0], expected.detach(), rtol=0, atol=1e-6)


def test_no_gradient_goes_through_the_weights_of_dynamic_self_attention():
    base = make_student("densenet_dsa").student
    states = torch.randn(1, 6, 10, requires_grad=True)
    pooled, projected = base.attention(states, torch.ones(1, 6))
    (gradient,) = torch.autograd.grad(pooled.sum(), projected)
    weights_times_slope = gradient.unflatten(-1, (2, 5))
    # d tanh(s) / d x_t = a_t (1 - z²): the same direction for each token, scaled by its weight alone.
    slope = 1 - pooled.detach().reshape(2, 5) ** 2
    weights = weights_times_slope / slope
    torch.testing.assert_close(weights[0].sum(dim=0), torch.ones(2, 5), rtol=0, atol=1e-4)
    torch.testing.assert_close(weights, weights[..., :1].expand_as(weights), rtol=0, atol=1e-4)


def test_a_block_may_have_one_layer_and_any_number_of_branches():
    config = DensenetCnnConfig(vocab_size=9, block_kernel_sizes=[[1, 3, 5]], first_filters=4, block_size=6)
    student = DensenetCnnForSequenceClassification(config).eval()
    assert student.student.block.mix.in_channels == 300 + 3 * 4
    assert run(student, {"input_ids": torch.tensor([[4, 8]])}).logits.shape == (1, 2)
