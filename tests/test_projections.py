import os

import pytest
import torch
from safetensors.torch import load_file

from distil_trainer.projections import Projections, load_projections, save_projections

WIDTHS = {"hidden_states_mse_t4_s2": (16, 32), "cls_states_pkd_t4_s2": (16, 48)}


def _states(projections):
    return {name: value.clone() for name, value in projections.state_dict().items()}


def _equal(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_each_loss_has_an_affine_map_of_its_own_over_the_last_dimension():
    projections = Projections(WIDTHS, seed=0)
    states = {name: torch.randn(2, 5, 16) for name in WIDTHS}
    projected = projections(states)
    for name, (_, width) in WIDTHS.items():
        linear = projections.linears[name]
        assert projected[name].shape == (2, 5, width)
        expected = torch.einsum("bls,ts->blt", states[name], linear.weight) + linear.bias
        torch.testing.assert_close(projected[name], expected)


def test_what_is_saved_is_what_is_loaded_bit_by_bit(tmp_path):
    saved = Projections(WIDTHS, seed=1)
    save_projections(saved, tmp_path / "not" / "there" / "yet")
    loaded = Projections(WIDTHS, seed=2)
    assert not _equal(_states(saved), _states(loaded))
    load_projections(loaded, tmp_path / "not" / "there" / "yet")
    assert _equal(_states(saved), _states(loaded))


def test_the_seed_decides_the_weights_and_the_random_state_is_left_as_it_was():
    torch.manual_seed(123)
    before = torch.get_rng_state()
    first = Projections(WIDTHS, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(321)
    assert _equal(_states(first), _states(Projections(WIDTHS, seed=1)))
    assert not _equal(_states(first), _states(Projections(WIDTHS, seed=2)))


def test_accelerators_are_not_seeded(monkeypatch):
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda seed: pytest.fail("CUDA was seeded"))
    monkeypatch.setattr(torch, "manual_seed", lambda seed: pytest.fail("every device was seeded"))
    Projections(WIDTHS, seed=1)


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    old = Projections(WIDTHS, seed=1)
    save_projections(old, tmp_path)
    monkeypatch.setattr(os, "replace", lambda source, target: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        save_projections(Projections(WIDTHS, seed=2), tmp_path)
    assert _equal(load_file(tmp_path / "projections.safetensors"), _states(old))


def test_nothing_but_the_file_is_left_in_the_folder(tmp_path):
    save_projections(Projections(WIDTHS, seed=1), tmp_path)
    save_projections(Projections(WIDTHS, seed=2), tmp_path)
    assert os.listdir(tmp_path) == ["projections.safetensors"]


def test_a_checkpoint_without_projections_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"has no projections.safetensors.*would go on with untrained ones"):
        load_projections(Projections(WIDTHS, seed=1), str(tmp_path))


@pytest.mark.parametrize(
    "widths",
    [
        {"hidden_states_mse_t4_s2": (16, 32)},
        {"hidden_states_mse_t4_s2": (16, 32), "cls_states_pkd_t4_s2": (16, 32)},
        {"hidden_states_mse_t3_s2": (16, 32), "cls_states_pkd_t4_s2": (16, 48)},
    ],
    ids=["fewer", "another_width", "another_layer"],
)
def test_projections_of_other_losses_are_refused_and_nothing_is_loaded(tmp_path, widths):
    save_projections(Projections(widths, seed=1), tmp_path)
    projections = Projections(WIDTHS, seed=2)
    before = _states(projections)
    with pytest.raises(ValueError, match=r"holds projections .* but this run needs .*Resume with the losses"):
        load_projections(projections, tmp_path)
    assert _equal(before, _states(projections))


def test_a_run_without_projections_refuses_a_checkpoint_that_has_some(tmp_path):
    load_projections(None, tmp_path)
    save_projections(Projections(WIDTHS, seed=1), tmp_path)
    with pytest.raises(ValueError, match="belongs to a run with projections, and this one has none"):
        load_projections(None, tmp_path)
