"""A latency benchmark as aligned text: for each model a line for each way to run it, then how it was measured."""

import textwrap

_MISSING = "–"
_NOTABLY_BUSY_CORES = 0.3


def latency_table(result):
    """Draw a latency benchmark.

    Args:
        result (`dict`): of `benchmark_latency`.

    Returns:
        `str`: aligned text, without a line end.
    """
    columns = _columns(result)
    lines = [[heading.split("\n")[half] for heading in columns] for half in (0, 1)]
    lines += [[cell(row) for cell in columns.values()] for row in result["rows"]]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    upper, lower, *figures = [
        "  ".join([first.ljust(widths[0]), *map(str.rjust, others, widths[1:])]).rstrip() for first, *others in lines
    ]
    rule = "─" * (sum(widths) + 2 * (len(widths) - 1))
    body, model = [], None
    for row, line in zip(result["rows"], figures, strict=True):
        if row["model"] != model:
            model = row["model"]
            body.append(row["name"].removesuffix(f", {row['way']}"))
        body.append(line)
    notes = [textwrap.fill(note, max(len(rule), 79), subsequent_indent="  ") for note in measurement_notes(result)]
    return "\n".join([upper, lower, rule, *body, rule, *notes])


def measurement_notes(result):
    """Say in words how the figures were measured.

    Args:
        result (`dict`): of `benchmark_latency`.

    Returns:
        `list[str]`: some sentences each.
    """
    rows, texts = result["rows"], "pairs of texts" if result["pairs"] else "texts"
    tokens = [row["latency"]["mean_tokens"] for row in rows]
    tokens = "–".join(dict.fromkeys(f"{count:.0f}" for count in (min(tokens), max(tokens))))
    one = next((row["latency"] for row in rows if row["processes"] == 1), rows[0]["latency"])
    notes = [
        f"{result['cpu']}, {result['cores']} core{'s' if result['cores'] > 1 else ''}. One text: {one['n']} {texts} "
        f"of real length ({tokens} tokens on average), the model alone; tokenization comes on top."
    ]
    if result["pad_to"] is not None:
        notes.append(f"Padded: the same {texts}, each padded to {result['pad_to']} tokens.")
    spread = max(row["throughput"]["fastest"] / row["throughput"]["slowest"] for row in rows)
    notes.append(
        f"Texts a second: {result['texts']} {texts} in batches of similar length, at most "
        f"{result['tokens_per_batch']} tokens each, tokenization included; the median of 3 rounds, of which the "
        f"fastest was up to {spread:.2f} times as fast as the slowest."
    )
    processes = [row for row in rows if row["processes"] > 1 or row["pinned"]]
    if processes:
        where = (
            "each on a core of its own"
            if processes[0]["pinned"]
            else "on no core in particular: this system pins none"
        )
        notes.append(f"Processes: each with one thread and its own copy of the model, all at the same time, {where}.")
    if result["price_per_core_hour"] is not None:
        notes.append(
            f"Dollars: at {result['price_per_core_hour']:g} for a core for an hour, tokenization included, cores paid "
            "for while they work."
        )
    if result["busy_cores"] >= _NOTABLY_BUSY_CORES:
        notes.append(
            f"Other work kept {result['busy_cores']:.1f} of {result['cores']} cores busy when this began: on a quiet "
            "machine the times are shorter."
        )
    return notes


def _columns(result):
    """Return what each column is headed with, in two lines, and how a row fills it."""
    columns = {
        "\nmodel, run with": lambda row: f"  {row['way']}",
        "one text, ms\nmedian": lambda row: _milliseconds(row["latency"]["p50_ms"]),
        "\np95": lambda row: _milliseconds(row["latency"]["p95_ms"]),
        "\nmean": lambda row: _milliseconds(row["latency"]["mean_ms"]),
        "tokenization\nmedian": lambda row: _milliseconds(row["latency"]["tokenization_p50_ms"]),
    }
    if result["pad_to"] is not None:
        columns[f"padded to {result['pad_to']}\nmedian"] = lambda row: (
            _MISSING if row["padded"] is None else _milliseconds(row["padded"]["p50_ms"])
        )
    columns["texts\na second"] = lambda row: _three_digits(row["throughput"]["texts_per_second"])
    if result["price_per_core_hour"] is not None:
        columns["$ for 100 million\none by one"] = lambda row: _three_digits(
            row["dollars_per_100m_texts"]["one_by_one"]
        )
        columns["\nin batches"] = lambda row: _three_digits(row["dollars_per_100m_texts"]["in_batches"])
    return columns


def _milliseconds(value):
    return f"{value:.3f}" if value < 1 else f"{value:.2f}" if value < 100 else f"{value:,.0f}"


def _three_digits(value):
    """Write a number to three digits: 0.123, 1.23, 12.3, 123, 1,230."""
    digits = next((digits for limit, digits in ((0.9995, 3), (9.995, 2), (99.95, 1)) if value < limit), None)
    return f"{value:,.0f}" if digits is None else f"{value:.{digits}f}"
