"""Which of several files to serve: the fastest that passes every limit, the smaller where they are as fast."""

import numpy as np

from distil_trainer.bootstrap import RESAMPLES, percentile_interval

_MOST_DRAWS_AT_ONCE = 4_000_000


def apply_limits(rung, latency, target_latency_ms, max_size_mb):
    """Write a rung's latency into it, and whether it keeps to the limits of the user.

    Args:
        rung (`dict`): what `judge_file` says of a file; its `passed` and `reason` go on from there.
        latency (`dict`): see `measure_latencies`.
        target_latency_ms (`float`): the longest median; `None` for no limit.
        max_size_mb (`float`): the largest file, in millions of bytes; `None` for no limit.
    """
    rung.update(p50_ms=latency["p50_ms"], p95_ms=latency["p95_ms"])
    for value, limit, words in (
        (latency["p50_ms"], target_latency_ms, "p50 {:.4g} ms, {} the target of {} ms"),
        (rung["size_bytes"] / 1e6, max_size_mb, "{:.4g} MB, {} the largest size of {} MB"),
    ):
        if limit is not None:
            rung["passed"] &= value <= limit
            rung["reason"] += "; " + words.format(value, "within" if value <= limit else "beyond", limit)


def choose_rung(rungs, milliseconds, seed=0):
    """Choose among rungs that pass: the lowest median of all texts, or a smaller file that is as fast.

    As fast means that the 95 % interval of the difference of the two medians holds zero. It comes from the bootstrap
    over texts; both were timed on the same ones. Each rung's interval is written into it as `p50_difference_ms`, its
    median minus the lowest.

    Args:
        rungs (`list[dict]`): with `name` and `size_bytes`; at least one.
        milliseconds (`dict[str, np.ndarray]`): what each text took, by the rung's name, of shape `(num_texts,)`.
        seed (`int`, *optional*, defaults to 0): of the resamples.

    Returns:
        `dict`: the chosen rung.
    """
    medians = {rung["name"]: float(np.median(milliseconds[rung["name"]])) for rung in rungs}
    fastest = min(rungs, key=lambda rung: (medians[rung["name"]], rung["size_bytes"]))
    for rung in rungs:
        rung["p50_difference_ms"] = median_difference_interval(
            milliseconds[rung["name"]], milliseconds[fastest["name"]], seed
        )
    as_fast = [rung for rung in rungs if rung is fastest or rung["p50_difference_ms"][0] <= 0]
    return min(as_fast, key=lambda rung: (rung["size_bytes"], medians[rung["name"]]))


def median_difference_interval(slower, faster, seed=0):
    """Return the 95 % interval of the difference of two medians over the same texts, as `[low, high]`."""
    generator, differences = np.random.default_rng(seed), []
    at_once = max(1, _MOST_DRAWS_AT_ONCE // len(slower))
    for start in range(0, RESAMPLES, at_once):
        rows = generator.integers(len(slower), size=(min(at_once, RESAMPLES - start), len(slower)))
        differences.append(np.median(slower[rows], axis=1) - np.median(faster[rows], axis=1))
    return list(percentile_interval(np.concatenate(differences)))


def limits_table(rungs, metric):
    """Write what each rung reached as lines of text, for a refusal."""
    lines = [f"{'rung':<54} {'MB':>9} {'p50 ms':>9} {metric:>9}  verdict"]
    for rung in rungs:
        size = None if rung["size_bytes"] is None else rung["size_bytes"] / 1e6
        figures = [
            "–" if value is None else form.format(value)
            for value, form in ((size, "{:.4g}"), (rung["p50_ms"], "{:.4g}"), (rung[metric], "{:.4f}"))
        ]
        verdict = "passes" if rung["passed"] else rung["reason"]
        lines.append(f"{rung['name']:<54} {figures[0]:>9} {figures[1]:>9} {figures[2]:>9}  {verdict}")
    return "\n".join(lines)
