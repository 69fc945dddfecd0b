"""What may be concluded from the figures of a report, and what not, in plain words."""

from distil_trainer.bootstrap import LEAST_P_VALUE
from distil_trainer.headline import headline_of
from distil_trainer.wording import listed

# Whose figures would read as success, were they not held against an answer that needs no model.
_JUDGED = ("teacher", "control", "student")


def constant_lines(report):
    """Say in words what always giving the most frequent label would score, and which models do no better.

    Args:
        report (`dict`): result of `make_report`.

    Returns:
        `list[str]`: up to a few sentences for each split; none where a row has a score, or the report is of before
        there were such figures.
    """
    headline, lines = headline_of(report), []
    for split in shown_splits(report):
        rows = [row for row in report["models"] if "constant" in (row.get("evaluation") or {}).get(split, {})]
        if not rows:
            continue
        constant = rows[0]["evaluation"][split]["constant"]
        score = constant_score_in_words(constant, headline, f" of the {split} rows")
        lines.append(f"Always answering `{constant['label']}` would {score}.")
        same = {}
        for row in rows:
            same.setdefault(row["evaluation"][split]["constant"]["only_answer"], []).append(shown_name(row))
        same.pop(None, None)
        for answer, names in same.items():
            verb = "answer" if len(names) > 1 else "answers"
            count = rows[0]["evaluation"][split]["n"]
            lines.append(f"{listed(names)} {verb} `{answer}` on every one of the {count:,} {split} rows.")
        weak = no_better_than_constant(report, split)
        if weak:
            names = [
                f"{shown_name(row)} ({_short_difference(row['evaluation'][split]['constant'], headline)})"
                for row in weak.values()
            ]
            verb = "are" if len(weak) > 1 else "is"
            lines.append(
                f"On {split}, {listed(names)} {verb} not shown to be better than always answering "
                f"`{constant['label']}`."
            )
    return lines


def constant_score_in_words(constant, headline, of_rows=""):
    """Say what always giving the most frequent label would score.

    Args:
        constant (`dict`): result of `compare_with_constant`.
        headline (`Headline`): of the report.
        of_rows (`str`, *optional*, defaults to `""`): of which rows.

    Returns:
        `str`: "be right on 68.4 %", with the macro-F1 where that is the headline metric.
    """
    words = f"be right on {100 * constant['share']:.1f} %{of_rows}"
    if headline.key == "macro_f1":
        words += f" and have a macro-F1 of {headline.format(constant['macro_f1'])}{headline.unit}"
    return words


def no_better_than_constant(report, split):
    """Find the models that are not shown to be better than always giving the most frequent label.

    Args:
        report (`dict`): result of `make_report`.
        split (`str`): "validation" or "test".

    Returns:
        `dict[str, dict]`: of teacher, control and student, by role, the rows of those that are not.
    """
    rows = {row["role"]: row for row in report["models"]}
    constants = {role: (rows.get(role, {}).get("evaluation") or {}).get(split, {}).get("constant") for role in _JUDGED}
    return {role: rows[role] for role, constant in constants.items() if constant and not constant["is_better"]}


def comparison_lines(report):
    """Say in words what the comparisons show and what they do not.

    Args:
        report (`dict`): result of `make_report`.

    Returns:
        `list[str]`: one line per comparison, then one per split on which retention and gap closed are defined.
    """
    labels, headline = {row["role"]: shown_name(row) for row in report["models"]}, headline_of(report)
    lines = []
    for comparison in report["comparisons"]:
        verdict = "" if comparison["distinguishable"] else "not "
        lines.append(
            f"{labels[comparison['a']]} against {labels[comparison['b']]} ({comparison['split']}, n = "
            f"{comparison['n']}): {_difference(comparison, headline)}, {_p_value(comparison)}: "
            f"{verdict}distinguishable{_likeness(comparison)}."
        )
    for split, gap in report.get("gaps", {}).items():
        lines.append(_gap_line(report, split, gap, labels))
    return lines


def shown_name(row):
    """Return what tables and sentences call a model of the report (`str`)."""
    return row.get("name") or row["role"]


def shown_splits(report):
    """Return the splits any model was scored on, validation before test, the test split last (`list[str]`)."""
    splits = {split for row in report["models"] for split in row.get("evaluation") or {}}
    return sorted(splits, key=lambda split: (split == "test", split != "validation", split))


def _difference(comparison, headline):
    """Say by how much two models differ, with the interval where the test gives one."""
    change = headline.format_change(comparison[f"{headline.key}_difference"])
    if headline.key == "accuracy":
        return f"{change} points"
    low, high = (headline.format_change(comparison[f"difference_{end}"]) for end in ("low", "high"))
    unit = " points of" if headline.unit else " in"
    return f"{change}{unit} {headline.name} (95 % interval {low} to {high})"


def _p_value(comparison):
    """Say how likely such a difference is without any; a bootstrap cannot tell small chances apart."""
    is_least = "difference_low" in comparison and comparison["p_value"] <= LEAST_P_VALUE
    return f"p {'≤' if is_least else '='} {comparison['p_value']:.2g}"


def _likeness(comparison):
    """Say how alike the answers of two models are, whoever is right."""
    if comparison.get("agreement") is not None:
        return f"; same answer on {100 * comparison['agreement']:.1f} % of the rows"
    if comparison.get("output_correlation") is not None:
        return f"; their scores correlate by {comparison['output_correlation']:.3f}"
    return ""


def _short_difference(constant, headline):
    unit = "points" if headline.key == "accuracy" else f"points of {headline.name}"
    return f"{headline.format_change(constant[f'{headline.key}_difference'])} {unit}, {_p_value(constant)}"


def _gap_line(report, split, gap, labels):
    metric = headline_of(report).name
    student, control, teacher = (labels[role] for role in ("student", "control", "teacher"))
    text = f"On {split}, {student} "
    if gap["retention"] is not None:
        text += f"keeps {100 * gap['retention']:.1f} % of the {metric} of {teacher} and "
    weak = {role: row for role, row in no_better_than_constant(report, split).items() if role != "control"}
    caveat = ""
    if weak:
        label = next(iter(weak.values()))["evaluation"][split]["constant"]["label"]
        names = listed([shown_name(row) for row in weak.values()])
        verb = "are" if len(weak) > 1 else "is"
        caveat = f" That says little: {names} {verb} not shown to be better than always answering `{label}`."
    if gap["gap_closed"] is None:
        return f"{text}has no gap to close: {control} is not below {teacher}.{caveat}"
    closed = f"{100 * gap['gap_closed']:.0f}".replace("-", "−")
    text += f"closes {closed} % of the gap between {control} and {teacher}"
    noise = ", a share that is noise: student and control are not shown to differ" if gap["noise"] else ""
    return f"{text}{noise}.{caveat}"
