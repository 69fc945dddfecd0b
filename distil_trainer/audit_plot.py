"""The audit of a transfer set as a picture: rows, entropy, label changes and lengths of each operator."""

import io

import numpy as np

from distil_trainer.report import write_atomically

# Of the Okabe-Ito colours, which people with colour-vision deficiency tell apart.
_KEPT, _DUPLICATES, _NEAR, _LEAKS, _MARK = "#0072B2", "#E69F00", "#CC79A7", "#D55E00", "#0072B2"
_ROWS_OF = {
    "duplicates": ("duplicates", _DUPLICATES),
    "near_evaluation_data": ("near evaluation data", _NEAR),
    "in_evaluation_data": ("in evaluation data", _LEAKS),
}


def plot_transfer_audit(audit, path):
    """Draw an audit: one line of panels, in which each operator, source or rewritten side has the same height.

    The panels are the rows with their duplicates and leaks, the teacher's entropy, the share of copies whose teacher's
    label left the parent's, and the number of words. Ranges run from the 5 % to the 95 % quantile, boxes from the
    quartiles, with the median in them. What the audit does not have is left out.

    Args:
        audit (`dict`): result of `audit_transfer_set`.
        path (`str` or `os.PathLike`): the PNG file to write, whole or not at all.

    Returns:
        `pathlib.Path`: the file.

    Raises:
        ImportError: if matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('Plots need matplotlib: pip install "distil_trainer[recipes]"') from error
    groups, places = _places(audit)
    panels = [_draw_rows]
    panels += [_draw_entropy] * ("entropy_bits" in audit["all"])
    panels += [_draw_labels] * bool(audit["all"].get("copies_compared"))
    panels.append(_draw_words)
    figure = Figure(figsize=(3.0 + 2.7 * len(panels), 1.7 + 0.34 * (max(places) + 1)), dpi=160, layout="constrained")
    FigureCanvasAgg(figure)
    widths = [1.35] + [1.0] * (len(panels) - 1)
    every_axes = figure.subplots(1, len(panels), sharey=True, width_ratios=widths, squeeze=False)[0]
    for axes, draw in zip(every_axes, panels, strict=True):
        draw(axes, [summary for _, summary in groups], places, audit)
        axes.grid(True, axis="x", color="0.9", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.tick_params(axis="y", length=0)
        axes.spines[["top", "right", "left"]].set_visible(False)
        for boundary in _boundaries(places):
            axes.axhline(boundary, color="0.8", linewidth=0.8)
    every_axes[0].set_yticks(places, [name for name, _ in groups])
    every_axes[0].set_ylim(max(places) + 0.6, -0.6)  # the first group on top
    figure.suptitle(f"Transfer set of {audit['all']['rows']:,} rows", x=0.01, ha="left", fontweight="bold")
    handles, labels = every_axes[0].get_legend_handles_labels()
    if len(handles) > 1:
        # Outside of the panels: inside, with few groups, it would hide numbers.
        figure.legend(handles, labels, loc="outside upper right", ncols=len(handles), fontsize=8, frameon=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return write_atomically(path, buffer.getvalue())


def _places(audit):
    """Return name and summary of each line, and its height: half a line of room before each kind of group."""
    groups, places = [("all", audit["all"])], [0.0]
    for group in audit["groups"].values():
        start = places[-1] + 1.5
        groups += list(group.items())
        places += [start + number for number in range(len(group))]
    return groups, places


def _boundaries(places):
    return [(before + after) / 2 for before, after in zip(places[:-1], places[1:], strict=True) if after - before > 1]


def _draw_rows(axes, summaries, places, audit):
    dropped = [sum(summary[key] for key in _ROWS_OF) for summary in summaries]
    starts = [summary["rows"] - number for summary, number in zip(summaries, dropped, strict=True)]
    axes.barh(places, starts, color=_KEPT, height=0.62, label="other rows")
    for key, (label, color) in _ROWS_OF.items():
        numbers = [summary[key] for summary in summaries]
        if any(numbers):
            axes.barh(places, numbers, left=starts, color=color, height=0.62, label=label)
            starts = [start + number for start, number in zip(starts, numbers, strict=True)]
    for place, summary, number in zip(places, summaries, dropped, strict=True):
        share = f"  ({100 * number / summary['rows']:.1f} %)" if number else ""
        axes.annotate(
            f"{summary['rows']:,}{share}",
            (summary["rows"], place),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=7.5,
            color="0.25",
        )
    axes.set_xlim(0, 1.5 * audit["all"]["rows"])  # room for the numbers
    axes.xaxis.set_major_locator(_few_ticks())
    axes.xaxis.set_major_formatter(lambda value, _: _short(value))
    counted = "duplicates, leaks" if audit["evaluation_texts"] else "duplicates"
    axes.set_title(f"rows (in brackets: {counted})" if any(dropped) else "rows", loc="left", fontsize=9)


def _draw_entropy(axes, summaries, places, audit):
    _draw_ranges(axes, [summary["entropy_bits"] for summary in summaries], places)
    # Up to the entropy of a teacher that knows nothing, with room for marks that stand there.
    axes.set_xlim(0, 1.04 * np.log2(audit["num_labels"]))
    axes.set_title(f"teacher's entropy, bits ({audit['num_labels']} labels)", loc="left", fontsize=9)


def _draw_labels(axes, summaries, places, audit):
    for place, summary in zip(places, summaries, strict=True):
        if not summary["copies_compared"]:
            axes.annotate("–", (0, place), xytext=(4, 0), textcoords="offset points", va="center", color="0.5")
            continue
        percent = 100 * summary["label_left_parent"] / summary["copies_compared"]
        axes.barh([place], [percent], color=_MARK, height=0.62)
        axes.annotate(
            f"{percent:.1f}",
            (percent, place),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=7.5,
            color="0.25",
        )
    axes.set_xlim(0, max(1.0, 1.2 * axes.get_xlim()[1]))
    axes.set_title("label left the parent's, % of copies", loc="left", fontsize=9)


def _draw_words(axes, summaries, places, audit):
    _draw_ranges(axes, [summary["words"] for summary in summaries], places)
    axes.set_xlim(left=0)
    axes.set_title("words of a row", loc="left", fontsize=9)


def _draw_ranges(axes, measures, places):
    axes.set_xlabel("box: quartiles, line: 5 to 95 %", fontsize=7.5, color="0.35")
    for place, measure in zip(places, measures, strict=True):
        axes.plot([measure["p5"], measure["p95"]], [place, place], color=_MARK, linewidth=1.2)
        axes.barh(
            [place], [measure["p75"] - measure["p25"]], left=[measure["p25"]], color="#9CC7E0", height=0.5, zorder=2
        )
        axes.plot([measure["median"]] * 2, [place - 0.25, place + 0.25], color=_MARK, linewidth=2, zorder=3)


def _few_ticks():
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(4)


def _short(value):
    for unit, suffix in ((1e6, "M"), (1e3, "k")):
        if value >= unit:
            return f"{value / unit:g}{suffix}"
    return f"{value:g}"
