"""The audit of a transfer set as aligned text."""

import textwrap

import numpy as np

_MISSING = "–"
_TABLE_WIDTH = 119
# Of an example: characters, and those before the first difference.
_EXAMPLE_WIDTH = 90
_BEFORE_DIFFERENCE = 40
_CUT = "..."


def audit_table(audit):
    """Draw an audit: one line for all rows and one for each group, then what the columns mean and some near rows.

    Args:
        audit (`dict`): result of `audit_transfer_set`.

    Returns:
        `str`: aligned text, without a line end.
    """
    sections = [[("all", audit["all"])], *(list(group.items()) for group in audit["groups"].values())]
    has_teacher, has_parents = "entropy_bits" in audit["all"], "label_left_parent" in audit["all"]
    header = [("", ""), ("", "rows"), ("", "share"), ("in", "eval."), ("near", "eval."), ("dupli-", "cates")]
    header += [("teacher", "bits"), ("", "p5–p95")] * has_teacher + [("label left", "parent's")] * has_parents
    header += [("words", "median"), ("", "p5–p95"), ("characters", "median"), ("", "p5–p95")]
    looked_for = _leaks_looked_for(audit)
    lines = [
        [_cells(name, summary, looked_for, has_teacher, has_parents) for name, summary in section]
        for section in sections
    ]
    cells = [cell for section in lines for cell in section]
    widths = [max(map(len, column)) for column in zip(*zip(*header, strict=True), *cells, strict=True)]

    def align(line):
        first, *others = line
        others = (cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True))
        return "  ".join([first.ljust(widths[0]), *others]).rstrip()

    rule = "─" * (sum(widths) + 2 * (len(widths) - 1))
    table = [*map(align, zip(*header, strict=True))]
    for section in lines:
        table += [rule, *map(align, section)]
    legend = (_fill(sentence) for sentence in _legend(audit, has_teacher, has_parents))
    return "\n".join([*table, rule, *legend, *_example_lines(audit["near_examples"])])


def _leaks_looked_for(audit):
    """Return which kinds of leaks the audit could find: a zero for another would say that there are none."""
    if not audit["evaluation_texts"]:
        return set()
    return {"in_evaluation_data"} | ({"near_evaluation_data"} if audit["near_threshold"] is not None else set())


def _cells(name, summary, looked_for, has_teacher, has_parents):
    cells = [name, f"{summary['rows']:,}", f"{100 * summary['share']:.1f} %"]
    leaks = ("in_evaluation_data", "near_evaluation_data")
    cells += [f"{summary[key]:,}" if key in looked_for else _MISSING for key in leaks]
    cells.append(f"{summary['duplicates']:,}")
    if has_teacher:
        bits = summary["entropy_bits"]
        cells += [f"{bits['mean']:.3f}", f"{bits['p5']:.2f}–{bits['p95']:.2f}"]
    if has_parents:
        compared = summary["copies_compared"]
        cells.append(f"{100 * summary['label_left_parent'] / compared:.1f} %" if compared else _MISSING)
    for measure in ("words", "characters"):
        lengths = summary[measure]
        cells += [f"{lengths['median']:.0f}", f"{lengths['p5']:.0f}–{lengths['p95']:.0f}"]
    return cells


def _legend(audit, has_teacher, has_parents):
    summary = audit["all"]
    texts = audit["evaluation_texts"]
    if not texts:
        yield "No evaluation texts were given, so leaks were not looked for."
    elif audit["near_threshold"] is None:
        yield f"Compared with {texts:,} evaluation texts for equality; near ones were not looked for."
    else:
        yield (
            f"Compared with {texts:,} evaluation texts: equal but for case and white space, or near, with at least "
            f"{100 * audit['near_threshold']:g} % of the trigrams in common."
        )
    duplicates = summary["duplicates"]
    yield f"Duplicates of earlier rows: {100 * duplicates / summary['rows']:.1f} % of the rows; leaks are not counted."
    if has_teacher:
        yield (
            f"Teacher: mean entropy and range in bits, of at most {np.log2(audit['num_labels']):.2f} with "
            f"{audit['num_labels']} labels."
        )
    if has_parents:
        compared, left = summary["copies_compared"], summary["label_left_parent"]
        yield (
            f"The teacher's label left that of the parent in {left:,} of {compared:,} copies whose original is there."
        )


def _fill(sentence):
    return textwrap.fill(sentence, _TABLE_WIDTH, subsequent_indent="  ", break_on_hyphens=False)


def _example_lines(examples):
    if examples:
        yield "Near rows, each above the evaluation text that it is near:"
    for example in examples:
        texts = [example["text"], example["evaluation_text"]]
        texts = [" ".join((text if isinstance(text, str) else " | ".join(text)).split()) for text in texts]
        labels = (f"{example['similarity']:.2f}  row {example['row']:,}", "")
        for label, text in zip(labels, _around_first_difference(*texts), strict=True):
            yield f"  {label:<18}  {text}"


def _around_first_difference(*texts):
    """Cut two texts to the same window, so that what tells them apart is seen; their case is no difference."""
    longest = max(map(len, texts))
    if longest <= _EXAMPLE_WIDTH:
        return texts
    pairs = enumerate(zip(*texts, strict=False))
    difference = next((place for place, (a, b) in pairs if a.lower() != b.lower()), min(map(len, texts)))
    start = min(difference - _BEFORE_DIFFERENCE, longest - _EXAMPLE_WIDTH + len(_CUT))
    return [_window(text, start) for text in texts]


def _window(text, start):
    if start > len(_CUT):
        text = _CUT + text[start:]
    return text if len(text) <= _EXAMPLE_WIDTH else text[: _EXAMPLE_WIDTH - len(_CUT)] + _CUT
