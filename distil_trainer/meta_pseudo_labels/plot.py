"""A run of Meta Pseudo Labels at a glance: losses, feedback, the teacher's terms, and how far the two agree."""

import io

from distil_trainer.report import write_atomically

# The Okabe-Ito colours, which people with colour-vision deficiency tell apart.
_COLORS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7"]
# Title, and names in the log with what they are called in the plot.
_PANELS = [
    (
        "Student",
        {"loss": "loss on pseudo-labels", "labelled_loss_before": "loss on labels", "eval_loss": "evaluation loss"},
    ),
    ("Feedback", {"feedback": "raw", "centred_feedback": "minus moving average"}),
    (
        "Teacher",
        {
            "teacher_label_cross_entropy": "loss on labels",
            "teacher_pseudo_label_cross_entropy": "cross-entropy of pseudo-labels",
            "teacher_consistency": "consistency",
        },
    ),
    ("Answers", {"teacher_student_agreement": "student agrees with teacher", "eval_accuracy": "evaluation accuracy"}),
]


def plot_meta_pseudo_labels(log_history, path):
    """Draw what a `MetaPseudoLabelsTrainer` logged, over the optimizer steps.

    Args:
        log_history (`list[dict]`): `trainer.state.log_history`.
        path (`str` or `os.PathLike`): the PNG file to write, whole or not at all.

    Returns:
        `pathlib.Path`: the file.

    Raises:
        ImportError: if matplotlib is not installed.
        ValueError: if no log holds feedback.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('Plots need matplotlib: pip install "distil_trainer[recipes]"') from error
    if not any("feedback" in log for log in log_history):
        raise ValueError(
            "No log holds feedback, so there is nothing to draw. Give `trainer.state.log_history` of a "
            "MetaPseudoLabelsTrainer that has trained for at least `logging_steps` steps."
        )
    figure = Figure(figsize=(9.6, 6.4), dpi=160, layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (title, names) in zip(figure.subplots(2, 2, sharex=True).flat, _PANELS, strict=True):
        for (name, label), color in zip(names.items(), _COLORS, strict=False):
            points = [(log["step"], log[name]) for log in log_history if name in log]
            if points:
                # Few points, as evaluations often are, would hardly show as a line.
                marker = "o" if len(points) < 20 else None
                axes.plot(*zip(*points, strict=True), color=color, label=label, linewidth=1.4, marker=marker, ms=3.5)
        if title == "Feedback":
            axes.axhline(0.0, color="0.6", linewidth=0.8)
        axes.set_title(title, loc="left", fontweight="bold")
        axes.grid(True, color="0.9", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8.5)
    figure.supxlabel("optimizer step", fontsize=10)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return write_atomically(path, buffer.getvalue())
