"""The closing table of a report, as aligned text and as Markdown, and in plain words how its figures were measured."""

import textwrap

from distil_trainer.conclusions import comparison_lines, constant_lines, shown_name, shown_splits
from distil_trainer.headline import METRICS, headline_of
from distil_trainer.latency import dollars_per_100m_texts
from distil_trainer.transfer_words import round_lines

MISSING = "–"


def closing_table(report):
    """Draw the table a run ends with: one line per model, then how it was measured, then what may be concluded.

    Args:
        report (`dict`): result of `make_report`.

    Returns:
        `str`: aligned text, without a line end.
    """
    header, rows = _cells(report)
    upper, lower = zip(*(cell.split("\n") if "\n" in cell else ("", cell) for cell in header), strict=True)
    widths = [max(map(len, column)) for column in zip(upper, lower, *rows, strict=True)]

    def align(line):
        first, *others = line
        cells = [first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True))]
        return "  ".join(cells).rstrip()

    rule = "─" * (sum(widths) + 2 * (len(widths) - 1))
    table = [align(upper), align(lower), rule, *map(align, rows), rule]
    sentences = [
        *measurement_lines(report),
        *constant_lines(report),
        *comparison_lines(report),
        *round_lines(report),
    ]
    width = max(len(rule), 79)
    return "\n".join(
        [*table, *(textwrap.fill(line, width, subsequent_indent="  ", break_on_hyphens=False) for line in sentences)]
    )


def markdown_table(report):
    """Draw the same table for a Markdown page, without the lines below it.

    Args:
        report (`dict`): result of `make_report`.

    Returns:
        `str`: a Markdown table, without a line end.
    """
    header, rows = _cells(report)
    columns = [cell.replace("\n", ", ") for cell in header]
    alignment = [":--"] + ["--:"] * (len(header) - 1)
    return "\n".join("| " + " | ".join(line) + " |" for line in [columns, alignment, *rows])


def measurement_lines(report):
    """Say in words how the figures were measured: rows and intervals, then texts, threads and processor.

    Args:
        report (`dict`): result of `make_report`.

    Returns:
        `list[str]`: one sentence or two each; empty where nothing was measured.
    """
    lines = []
    counts = [
        f"{split}: {_distinct(row['evaluation'][split]['n'] for row in _scored(report, split))} rows"
        for split in shown_splits(report)
    ]
    if counts:
        interval = headline_of(report).interval
        lines.append(f"{', '.join(counts).capitalize()}. ± is half the width of the 95 % interval ({interval}).")
    latencies = [row["latency"] for row in report["models"] if row.get("latency")]
    if latencies:
        texts = _distinct(latency["n"] for latency in latencies)
        tokens = _distinct(f"{latency['mean_tokens']:.0f}" for latency in latencies)
        threads = _distinct(latency["threads"] for latency in latencies)
        reference = next((row for row in report["models"] if row["role"] == "teacher"), {})
        engine = f", run by {reference['engine']}" if reference.get("engine") else ""
        tokenization = max(latency["tokenization_p50_ms"] for latency in latencies)
        lines.append(
            f"Latency: one text at a time, {texts} texts of real length ({tokens} tokens on average), {threads} "
            f"{'thread' if threads == '1' else 'threads'}, {_distinct(latency['cpu'] for latency in latencies)}; "
            f"tokenization, at most {tokenization:.2f} ms, comes on top. "
            f"× faster: medians, against {reference.get('name') or 'the teacher'}{engine}."
        )
        if report["run"].get("price_per_core_hour"):
            lines[-1] += (
                f" $: at {report['run']['price_per_core_hour']:g} for a core for an hour, one text at a time, "
                "tokenization included, cores paid for while they work."
            )
    return lines


def format_parameters(count):
    """Return a number of parameters to three digits: "22.7M", "391k"."""
    if count is None:
        return MISSING
    for unit, suffix in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if count >= unit:
            return f"{_three_digits(count / unit)}{suffix}"
    return str(count)


def format_size(size_bytes):
    """Return a size to three digits in decimal units: "90.9 MB", "391 kB"."""
    if size_bytes is None:
        return MISSING
    for unit, suffix in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if size_bytes >= unit:
            return f"{_three_digits(size_bytes / unit)} {suffix}"
    return f"{size_bytes} B"


def _cells(report):
    """Return the header (a line end inside a cell where it has two lines) and the rows of the table."""
    splits, headline = shown_splits(report), headline_of(report)
    # The other metrics once, on the split that decides: the test split where there is one.
    others = [(METRICS[key], split) for key in headline.others for split in splits[-1:]]
    header = [
        "model",
        "parameters",
        "size",
        *[f"{headline.column}\n{split}" for split in splits],
        *[f"{metric.column}\n{split}" for metric, split in others],
        "latency ms\nmedian",
        "latency ms\np95",
        "× faster",
    ]
    price = report["run"].get("price_per_core_hour")
    if price:
        header.append("$ for 100\nmillion texts")
    rows = []
    for row in report["models"]:
        evaluation, latency = row.get("evaluation") or {}, row.get("latency") or {}
        rows.append(
            [
                shown_name(row),
                format_parameters(row.get("parameters")),
                format_size(row.get("size_bytes")),
                *[
                    headline.format_with_interval(evaluation[split]) if split in evaluation else MISSING
                    for split in splits
                ],
                *[
                    metric.format(evaluation[split][metric.key]) if split in evaluation else MISSING
                    for metric, split in others
                ],
                _or_missing("{:.2f}", latency.get("p50_ms")),
                _or_missing("{:.2f}", latency.get("p95_ms")),
                _or_missing("{:.1f}", row.get("speedup")),
                *([_or_missing("{:,.2f}", _dollars(latency, price))] if price else []),
            ]
        )
    return header, rows


def _dollars(latency, price):
    """Return what 100 million texts cost one by one, tokenization included; `None` where nothing was timed."""
    if not latency:
        return None
    return dollars_per_100m_texts(latency["mean_ms"] + latency["tokenization_p50_ms"], latency["threads"], price)


def _scored(report, split):
    return [row for row in report["models"] if split in (row.get("evaluation") or {})]


def _distinct(values):
    return " / ".join(dict.fromkeys(str(value) for value in values))


def _or_missing(form, value):
    return MISSING if value is None else form.format(value)


def _three_digits(value):
    return f"{value:.2f}" if value < 9.995 else f"{value:.1f}" if value < 99.95 else f"{value:.0f}"
