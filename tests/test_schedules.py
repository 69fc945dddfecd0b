"""Weights and temperatures move linearly; the cyclic learning rate is a triangle that a saved state goes on with."""

import pytest
import torch

from distil_trainer.schedules import cyclic_schedule, interpolate


def test_a_value_moves_linearly_and_ends_exactly_where_it_should():
    assert [interpolate(4.0, 1.0, progress) for progress in (0.0, 0.5, 1.0)] == [4.0, 2.5, 1.0]
    assert interpolate(0.1, 0.3, 1.0) == 0.3
    assert interpolate(0.0, 1.0, 0.25) == 0.25


def test_a_value_without_an_end_is_constant():
    assert [interpolate(2.0, None, progress) for progress in (0.0, 0.3, 1.0)] == [2.0] * 3


def _optimizer():
    torch.manual_seed(0)
    weights = [torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(2))]
    return torch.optim.AdamW([{"params": weights[:1], "lr": 1.0}, {"params": weights[1:], "lr": 0.5}])


def _run(optimizer, schedule, num_steps):
    rates = []
    for _ in range(num_steps):
        rates.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        schedule.step()
    return rates


def test_each_parameter_group_rises_from_a_25th_of_its_rate_and_falls_back_in_every_cycle():
    optimizer = _optimizer()
    rates = _run(optimizer, cyclic_schedule(optimizer, 4), 9)
    one_cycle = [0.04, 0.52, 1.0, 0.52]
    assert [first for first, _ in rates] == pytest.approx(one_cycle * 2 + [0.04], abs=1e-12)
    assert [second for _, second in rates] == pytest.approx([first / 2 for first, _ in rates], abs=1e-12)


@pytest.mark.parametrize("steps_per_cycle", [2, 3, 5])
def test_the_highest_rate_is_reached_and_a_cycle_has_its_length_for_any_number_of_steps(steps_per_cycle):
    optimizer = _optimizer()
    rates = [first for first, _ in _run(optimizer, cyclic_schedule(optimizer, steps_per_cycle), 2 * steps_per_cycle)]
    assert max(rates) == pytest.approx(1.0, abs=1e-12)
    assert rates[0] == rates[steps_per_cycle] == min(rates) == pytest.approx(0.04, abs=1e-12)


def test_momentum_stays_as_it_is():
    optimizer = _optimizer()
    _run(optimizer, cyclic_schedule(optimizer, 4), 3)
    assert {group["betas"] for group in optimizer.param_groups} == {(0.9, 0.999)}


@pytest.mark.parametrize("stop", [1, 3, 5])
def test_a_schedule_that_is_saved_and_loaded_goes_on_exactly(tmp_path, stop):
    optimizer = _optimizer()
    straight = _run(optimizer, cyclic_schedule(optimizer, 5), 12)
    optimizer = _optimizer()
    schedule = cyclic_schedule(optimizer, 5)
    first = _run(optimizer, schedule, stop)
    torch.save({"schedule": schedule.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "state.pt")
    optimizer = _optimizer()
    schedule = cyclic_schedule(optimizer, 5)
    saved = torch.load(tmp_path / "state.pt", weights_only=True)
    optimizer.load_state_dict(saved["optimizer"])
    schedule.load_state_dict(saved["schedule"])
    assert first + _run(optimizer, schedule, 12 - stop) == straight


@pytest.mark.parametrize("steps_per_cycle", [0, 1])
def test_a_cycle_that_is_too_short_to_rise_and_fall_is_refused(steps_per_cycle):
    with pytest.raises(ValueError, match=f"steps_per_cycle={steps_per_cycle}: a cycle needs at least 2 steps"):
        cyclic_schedule(_optimizer(), steps_per_cycle)
