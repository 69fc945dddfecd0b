"""Tiny classifiers whose logits differ from row to row by as much as they are large."""

import pytest
from gated import shaken


@pytest.fixture
def family_model(any_family_model):
    """A 4-layer classifier of each family, with 4 heads and 64 neurons in each layer."""
    return shaken(any_family_model)


@pytest.fixture
def model(teacher):
    """The same of BERT alone."""
    return shaken(teacher)
