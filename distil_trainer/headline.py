"""The headline metric of a run: what its table, plot and gate go by, and the form in which its figures are shown."""

from dataclasses import dataclass

from distil_trainer.tasks import MULTI_LABEL, REGRESSION


@dataclass(frozen=True)
class Metric:
    """A figure of `evaluate_logits` or `evaluate_scores`.

    Args:
        key (`str`): its key there.
        name (`str`): its name in a sentence.
        column (`str`): its name over a column.
        hub_type (`str`): its name in the Hub's model index, an `evaluate` id.
        scale (`int`): figures are shown multiplied by it: 100 where they are percentages.
        decimals (`int`): of a figure shown.
    """

    key: str
    name: str
    column: str
    hub_type: str
    scale: int
    decimals: int

    def format(self, value):
        """Return a figure as it is shown, without its unit: "87.7", "0.853", "−0.086"."""
        return f"{self.scale * value:.{self.decimals}f}".replace("-", "−")


@dataclass(frozen=True)
class Headline(Metric):
    """A metric with an interval and a test for two models, so that a run can be judged by it; more is better.

    Args:
        others (`tuple[str]`): keys of the metrics that stand beside it in the table.
        interval (`str`): what its 95 % interval is.
        test (`str`): how two models are compared.
        claim (`str`): what a card says first, with the figure as `{value}` and the split as `{split}`.
    """

    others: tuple
    interval: str
    test: str
    claim: str

    @property
    def unit(self):
        """What follows a figure in a sentence (`str`)."""
        return " %" if self.scale == 100 else ""

    def format_with_interval(self, evaluation):
        """Return the figure of an evaluation with half the width of its interval: "88.1 ± 2.1", "0.853 ± 0.012"."""
        half = (evaluation[f"{self.key}_high"] - evaluation[f"{self.key}_low"]) / 2
        return f"{self.format(evaluation[self.key])} ± {self.format(half)}"

    def format_change(self, difference):
        """Return a difference of two figures with its sign, unless it rounds to zero: "−0.3", "+1.2", "0.0"."""
        text = f"{self.scale * difference:+.{self.decimals}f}".replace("-", "−")
        return text[1:] if not text.strip("+−0.") else text


_BOOTSTRAP = "a paired bootstrap over the same rows (2,000 resamples)"
HEADLINES = {
    headline.key: headline
    for headline in (
        Headline(
            "accuracy",
            "accuracy",
            "accuracy %",
            "accuracy",
            100,
            1,
            others=("macro_f1",),
            interval="Wilson",
            test="McNemar's exact test on the same rows",
            claim="It is right on {value} of the {split} rows",
        ),
        Headline(
            "macro_f1",
            "macro-F1",
            "macro-F1 %",
            "f1",
            100,
            1,
            others=("accuracy",),
            interval="bootstrap over rows",
            test=_BOOTSTRAP,
            claim="Its macro-F1 is {value} on the {split} rows",
        ),
        Headline(
            "pearson",
            "Pearson correlation",
            "Pearson r",
            "pearsonr",
            1,
            3,
            others=("spearman", "mse"),
            interval="Fisher's z",
            test=_BOOTSTRAP,
            claim="Its scores have a Pearson correlation of {value} with the gold scores of the {split} rows",
        ),
    )
}
METRICS = {
    **HEADLINES,
    "spearman": Metric("spearman", "Spearman correlation", "Spearman ρ", "spearmanr", 1, 3),
    "mse": Metric("mse", "mean squared error", "MSE", "mse", 1, 3),
}


def choose_headline(metric, task):
    """Return the headline metric of a task.

    Args:
        metric (`str`, *optional*): "accuracy" or "macro_f1" for one label a row, "pearson" for scores; `None` for the
            first that the task has.
        task (`str`): one of `PROBLEM_TYPES`.

    Returns:
        `Headline`

    Raises:
        ValueError: if the task has no such metric.
    """
    if task == MULTI_LABEL:
        raise ValueError(
            f"problem_type={task!r}: recipes and the gate judge models that give one label or one score a row; no "
            "headline metric is known here for several labels. Go through the stages yourself (`DistillationTrainer`, "
            "`metrics_for`, `export_onnx`), and judge the files by a metric that fits."
        )
    legal = ("pearson",) if task == REGRESSION else ("accuracy", "macro_f1")
    if metric is not None and metric not in legal:
        answers = "scores (numbers)" if task == REGRESSION else "one label a row"
        raise ValueError(
            f"metric={metric!r} with problem_type={task!r}: for {answers} it says nothing, so nothing could be judged "
            f"by it. Choose {' or '.join(legal)}, or leave it out."
        )
    return HEADLINES[metric or legal[0]]


def headline_of(report):
    """Return the headline metric of a report; one from before there was a choice goes by its accuracy.

    Args:
        report (`dict`): result of `make_report`, or its parts.

    Returns:
        `Headline`

    Raises:
        ValueError: if the report names another.
    """
    key = (report.get("task") or {}).get("metric") or "accuracy"
    if key not in HEADLINES:
        raise ValueError(f"The report's part task has metric={key!r}: known are {', '.join(HEADLINES)}.")
    return HEADLINES[key]
