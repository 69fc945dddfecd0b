"""The headline metric against latency, one point per model: what a run bought and what it cost, at a glance."""

import io

from distil_trainer.headline import headline_of
from distil_trainer.report import write_atomically

# The Okabe-Ito colours, which people with colour-vision deficiency tell apart.
_COLORS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"]
_MARKERS = ["o", "s", "^", "D", "v"]  # of more models than colours each has a colour and a shape of its own


def plot_accuracy_against_latency(report, path):
    """Draw the models of a report with the 95 % intervals of their accuracy, over the median latency on a log scale.

    Where a report is headed by another metric, that takes the place of accuracy. Figures are those on the test split
    where there is one, else on validation. Models without figures or latency are left out. Up to seven names stand
    beside their points; more stand below the axes, with a colour and a shape for each.

    Args:
        report (`dict`): result of `make_report`.
        path (`str` or `os.PathLike`): the PNG file to write, whole or not at all.

    Returns:
        `pathlib.Path`: the file.

    Raises:
        ImportError: if matplotlib is not installed.
        ValueError: if no model has both a figure and a latency.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('Plots need matplotlib: pip install "distil_trainer[recipes]"') from error
    headline = headline_of(report)
    split, points = _points(report, headline)
    crowded = len(points) > len(_COLORS)
    figure = Figure(figsize=(7.6, 4.8 + 0.12 * crowded * len(points)), dpi=160, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots()
    for index, (label, latency_ms, value, low, high) in enumerate(points):
        axes.errorbar(
            latency_ms,
            value,
            yerr=[[value - low], [high - value]],
            fmt=_MARKERS[index % len(_MARKERS)] if crowded else "o",
            color=_COLORS[index % len(_COLORS)],
            markersize=7,
            elinewidth=1.4,
            capsize=4,
            label=f"{label}: {_figures(headline, value, latency_ms)}",
        )
    _set_axes(axes, split, points, report, headline)
    if crowded:
        figure.legend(loc="outside lower center", ncols=2, fontsize=8.5, frameon=False)
    else:
        canvas.draw()  # places the axes: labels are laid out in pixels
        _place_labels(axes, canvas, points, headline)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return write_atomically(path, buffer.getvalue())


def _points(report, headline):
    """Return the split shown and `(label, ms, value, low, high)` of each model that has them, in the unit shown."""
    splits = {split for row in report["models"] for split in row.get("evaluation") or {}}
    split = "test" if "test" in splits else "validation"
    points = []
    for row in report["models"]:
        scores, latency = (row.get("evaluation") or {}).get(split), row.get("latency")
        if scores and latency:
            shown = [headline.scale * scores[f"{headline.key}{end}"] for end in ("", "_low", "_high")]
            points.append((row.get("name") or row["role"], latency["p50_ms"], *shown))
    if not points:
        raise ValueError(
            f"No model of the report has both a latency and {headline.name} on {split}: there is no point to draw. "
            "Measure them first, or leave out the plot."
        )
    return split, points


def _figures(headline, value, latency_ms):
    return f"{headline.format(value / headline.scale)}{headline.unit}, {latency_ms:.3g} ms"


def _set_axes(axes, split, points, report, headline):
    from matplotlib.ticker import LogLocator, NullFormatter

    _, latencies, _, lows, highs = zip(*points, strict=True)
    axes.set_xscale("log")
    # Room on both sides for labels, and at least a factor of four, so that equal latencies do not fill the width.
    room = max(1.75, (4 * min(latencies) / max(latencies)) ** 0.5)
    axes.set_xlim(min(latencies) / room, max(latencies) * room)
    height = max(max(highs) - min(lows), 0.01 * headline.scale)
    axes.set_ylim(min(lows) - 0.12 * height, max(highs) + 0.12 * height)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    latency = next(row["latency"] for row in report["models"] if row.get("latency"))
    threads = f"{latency['threads']} thread{'s' if latency['threads'] > 1 else ''}"
    axes.set_xlabel(f"median latency of one text, ms (log scale; {threads}, {latency['cpu']})")
    scored = next(row["evaluation"][split]["n"] for row in report["models"] if split in (row.get("evaluation") or {}))
    unit = f",{headline.unit}" if headline.unit else ""
    axes.set_ylabel(f"{headline.name} on {split}{unit} (n = {scored:,}; bars: 95 % interval)")
    axes.set_title(report["name"], loc="left", fontweight="bold")
    axes.grid(True, which="major", color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _place_labels(axes, canvas, points, headline):
    """Write each model's name near its point and in its colour, where it hides no point, error bar or other name.

    A thin line leads from a name to its point where they stand apart.
    """
    renderer, frame, pixel = canvas.get_renderer(), axes.get_window_extent(), axes.figure.dpi / 72
    centers = [axes.transData.transform((latency_ms, value)) for _, latency_ms, value, _, _ in points]
    taken = []
    for (x, y), (_, latency_ms, _, low, high) in zip(centers, points, strict=True):
        (_, bottom), (_, top) = axes.transData.transform([(latency_ms, low), (latency_ms, high)])
        taken += [
            _box(x, y, 14 * pixel, 14 * pixel),
            _box(x, (bottom + top) / 2, 11 * pixel, top - bottom + 4 * pixel),
        ]
    for (x, y), (label, latency_ms, value, _, _), color in zip(centers, points, _COLORS, strict=False):
        text = axes.annotate(
            f"{label}\n{_figures(headline, value, latency_ms)}",
            (latency_ms, value),
            xytext=(0, 0),
            textcoords="offset points",
            fontsize=8.5,
            color=color,
            ha="center",
            va="center",
            arrowprops={"arrowstyle": "-", "color": color, "linewidth": 0.7, "shrinkA": 0, "shrinkB": 5},
        )
        extent = text.get_window_extent(renderer)
        candidates = [
            (_box(x + dx * pixel, y + dy * pixel, extent.width + 4 * pixel, extent.height + 2 * pixel), dx, dy)
            for dx, dy in _offsets(extent.width / pixel)
        ]
        box, dx, dy = min(candidates, key=lambda candidate: _overlap(candidate[0], taken, frame))
        text.set_position((dx, dy))
        taken.append(box)


def _offsets(width):
    """Yield offsets of a label's centre from its point, in typographic points, the nearest first."""
    for distance in (0, 14, 28, 44, 62, 82):
        for lift in (distance, -distance):
            for side in (1, -1):
                yield side * (width / 2 + 9), lift
                yield side * (width / 2 + 9 + distance), lift


def _box(x, y, width, height):
    return (x - width / 2, y - height / 2, x + width / 2, y + height / 2)


def _overlap(box, taken, frame):
    """Return the area of a box that lies on others or outside the frame; 0 where it is free."""
    left, bottom, right, top = box
    inside = max(0, min(right, frame.x1) - max(left, frame.x0)) * max(0, min(top, frame.y1) - max(bottom, frame.y0))
    covered = sum(
        max(0, min(right, x1) - max(left, x0)) * max(0, min(top, y1) - max(bottom, y0)) for x0, y0, x1, y1 in taken
    )
    return covered + (right - left) * (top - bottom) - inside
