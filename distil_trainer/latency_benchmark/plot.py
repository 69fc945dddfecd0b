"""A latency benchmark as a picture: time of one text and texts a second, a line for each way to run a model."""

import io

from distil_trainer.report import write_atomically

# The Okabe-Ito colours, which people with colour-vision deficiency tell apart.
_COLORS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"]
_LINES_ABOVE = 1.1  # of a model's rows, for its name


def plot_latency(result, path):
    """Draw a latency benchmark: for each row the time of one text, from median to 95th percentile, and the throughput.

    Args:
        result (`dict`): of `benchmark_latency`.
        path (`str` or `os.PathLike`): the PNG file to write, whole or not at all.

    Returns:
        `pathlib.Path`: the file.

    Raises:
        ImportError: if matplotlib is not installed.
    """
    check_can_plot()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = result["rows"]
    models = list(dict.fromkeys(row["model"] for row in rows))
    places = [index + _LINES_ABOVE * (1 + models.index(row["model"])) for index, row in enumerate(rows)]
    colors = [_COLORS[models.index(row["model"]) % len(_COLORS)] for row in rows]
    figure = Figure(figsize=(9.6, 1.7 + 0.3 * (places[-1] + 1)), dpi=160, layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, sharey=True)
    _draw_latency(left, rows, places, colors, result)
    _draw_throughput(right, rows, places, colors)
    for axes in (left, right):
        axes.grid(True, axis="x", which="major", color="0.9", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.tick_params(axis="y", length=0)
        axes.spines[["top", "right", "left"]].set_visible(False)
    left.set_yticks(places, [row["way"] for row in rows])
    left.set_ylim(places[-1] + 0.7, -0.3)  # the first row on top
    for row, above, place, color in zip(rows, [None, *rows], places, colors, strict=False):
        if above is None or above["model"] != row["model"]:
            name, line = row["name"].removesuffix(f", {row['way']}"), left.get_yaxis_transform()
            left.text(0, place - 0.8, name, transform=line, color=color, fontweight="bold", va="center", fontsize=9)
    figure.suptitle(f"{result['cpu']}, {result['cores']} cores", x=0.01, ha="left", fontweight="bold")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return write_atomically(path, buffer.getvalue())


def check_can_plot():
    """Raise an `ImportError` that says what to install where matplotlib is not there."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ImportError('Plots need matplotlib: pip install "distil_trainer[recipes]"') from error


def _draw_latency(axes, rows, places, colors, result):
    from matplotlib.ticker import LogLocator, NullFormatter

    for row, place, color in zip(rows, places, colors, strict=True):
        latency, padded = row["latency"], row["padded"]
        axes.plot([latency["p50_ms"], latency["p95_ms"]], [place, place], color=color, linewidth=2)
        axes.plot(latency["p50_ms"], place, "o", color=color, markersize=6)
        if padded is not None:
            axes.plot(padded["p50_ms"], place, "o", color=color, markersize=6, markerfacecolor="white")
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 100 * low else (1,)))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    hollow = "" if result["pad_to"] is None else f"\nhollow: median, padded to {result['pad_to']} tokens"
    axes.set_xlabel(f"one text, ms (log scale): median to p95{hollow}")


def _draw_throughput(axes, rows, places, colors):
    values = [row["throughput"]["texts_per_second"] for row in rows]
    axes.barh(places, values, height=0.7, color=colors)
    for place, value in zip(places, values, strict=True):
        axes.annotate(
            f"{value:,.0f}", (value, place), xytext=(4, 0), textcoords="offset points", va="center", fontsize=8.5
        )
    axes.set_xlim(0, 1.16 * max(values))
    axes.set_xlabel("texts a second, in batches")
