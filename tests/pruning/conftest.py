"""Tiny classifiers whose logits differ from row to row by as much as they are large."""

import pytest
import torch


def shaken(model):
    """Give a model weights so large that each head and neuron is felt in the logits."""
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.2 if parameter.dim() > 1 else 0.1).add_(parameter.dim() == 1)
    return model.eval()


@pytest.fixture
def family_model(any_family_model):
    """A 4-layer classifier of each family, with 4 heads and 64 neurons in each layer."""
    return shaken(any_family_model)


@pytest.fixture
def model(teacher):
    """The same of BERT alone."""
    return shaken(teacher)
