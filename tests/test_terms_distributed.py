"""Every loss term in two processes on CPU, started by torchrun: both the test and the program that they run."""

import sys
from pathlib import Path

import pytest
import torch
from loss_terms import largest_difference, trained_weights
from test_trainer_distributed import FEW_WIDTHS, WIDTHS, run_term, save_model_and_rows, train_terms
from two_processes import run_in_two_processes

OTHERS = [pair for pair in WIDTHS if pair not in FEW_WIDTHS]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory, _families, tokenizer):
    """A folder with the model, the rows, and the weights that two processes trained with each term."""
    folder = save_model_and_rows(tmp_path_factory.mktemp("terms"), _families["bert"], tokenizer)
    run_in_two_processes(__file__, folder)
    return folder


@pytest.mark.parametrize(("term", "width"), OTHERS)
def test_every_term_gives_two_processes_the_gradients_of_one(folder, tmp_path, term, width):
    one = trained_weights(run_term(folder, tmp_path, 8, term, width))
    assert largest_difference(one, torch.load(folder / "terms_two.pt")[f"{term}-{width}"]) < 1e-6


if __name__ == "__main__":
    train_terms(Path(sys.argv[1]), OTHERS)
    torch.distributed.destroy_process_group()  # left to the interpreter, it aborts now and then at exit
