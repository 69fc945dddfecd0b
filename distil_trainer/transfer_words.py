"""What the student of a report was trained on, in words: rows, filters and rounds of self-training."""

from distil_trainer.headline import headline_of
from distil_trainer.wording import listed

# What the column `source` of a transfer set calls where its texts are from.
_ORIGINS = {
    "labelled": "the training split",
    "unlabelled": "texts without labels",
    "generated": "what a language model wrote",
}


def transfer_in_words(transfer):
    """Say what the student was trained on, with the counts that the report has.

    Args:
        transfer (`dict`, *optional*): a report's part `data`, `transfer`.

    Returns:
        `str`: one paragraph; empty where there is nothing to say.
    """
    if not transfer:
        return ""
    settings = transfer.get("settings") or {}
    if settings.get("meta_pseudo_labels") is not None:
        # Not its own settings again: they stand among the hyper-parameters.
        settings = {name: value for name, value in settings.items() if not name.endswith("pseudo_labels")}
        taught = (
            "labels by a teacher that learned from what they did to the student (Meta Pseudo Labels), and then on the "
            "gold labels of the training split; the teacher's labels were for"
        )
    elif settings.get("pseudo_labels") == "hard":
        taught = "gold labels, and where there are none the teacher's first choice, for"
    else:
        taught = "the teacher's answers to"
    sources = ((transfer.get("audit") or {}).get("groups") or {}).get("source") or {"labelled": None}
    origins = [_ORIGINS[name] for name in _ORIGINS if name in sources]
    words = f"The student was trained on {taught} texts derived from {' and '.join(origins)}"
    if transfer.get("rows") is not None:
        rows = _rows_that_taught(transfer)
        words = f"{words}: {rows:,} rows"
        if rows < transfer["rows"]:
            words = f"{words}, chosen from {transfer['rows']:,}"
    if transfer.get("operators"):
        counts = ", ".join(f"{operator} {count:,}" for operator, count in transfer["operators"].items())
        words = f"{words} (by operator: {counts})"
    dropped = [
        f"{transfer[key]:,} {reason}"
        for key, reason in (
            ("duplicates", "that stood there already"),
            ("in_evaluation_data", "that stand in evaluation data"),
            ("near_evaluation_data", "that are near evaluation data"),
        )
        if transfer.get(key) is not None
    ]
    if dropped:
        words = f"{words}, after dropping {listed(dropped)}"
    words += "".join(f"; {sentence}" for sentence in _filters(transfer))
    best = _best_round(transfer)
    if best:
        count = len(transfer["self_training"])
        words = (
            f"{words}. In self-training each student taught the next: this is number {best['round'] + 1} of {count}"
        )
    settings = {name: value for name, value in settings.items() if value is not None}
    if settings:
        words = f"{words}. Settings: {', '.join(f'`{name}={value}`' for name, value in settings.items())}"
    return f"{words}."


def round_lines(report):
    """Say in words what each round of self-training was taught on, what its student scores, and which one was kept.

    Args:
        report (`dict`): result of `make_report`.

    Returns:
        `list[str]`: one sentence a round; empty where there were none.
    """
    headline = headline_of(report)
    rounds = ((report.get("data") or {}).get("transfer") or {}).get("self_training") or []
    lines = []
    for facts in rounds:
        rows, score = facts.get("rows") or {}, facts["student"]
        taught = f"trained on {rows['rows_out']:,} of {rows['rows_in']:,} rows, " if rows else ""
        lines.append(
            f"Self-training, round {facts['round'] + 1} of {len(rounds)}: {taught}{headline.name} "
            f"{headline.format_with_interval(score)}{headline.unit} on validation"
            f"{'; its student was kept' if facts['is_best'] else ''}."
        )
    return lines


def _rows_that_taught(transfer):
    """Return how many rows the published student saw, of those that the transfer set has."""
    counts = [(_best_round(transfer) or {}).get("rows") or {}, *reversed((transfer.get("chosen") or {}).values())]
    return next((count["rows_out"] for count in counts if count), transfer["rows"])


def _best_round(transfer):
    return next((facts for facts in transfer.get("self_training") or [] if facts["is_best"]), None)


def _filters(transfer):
    """Say of each filter which rows it kept, where it dropped some."""
    left_out = (transfer.get("unlabelled") or {}).get("labelled_rows_left_out")
    if left_out:
        share = transfer["settings"]["unlabelled_share"]
        yield f"{left_out:,} labelled rows were left out, so that texts without labels have their share of {share:g}"
    steps = dict(transfer.get("chosen") or {})
    best = _best_round(transfer)
    if best and best.get("rows"):
        steps["self_training"] = best["rows"]
    bits = (transfer.get("settings") or {}).get("max_entropy_bits")
    for name, counts in steps.items():
        if counts["rows_out"] == counts["rows_in"]:
            continue
        if name == "disagreements":
            reason = "without the rewritten ones to which the teacher gives another label than to their original"
        else:
            bound = "within max_entropy_bits" if bits is None else f"at most {bits:g} bits"
            reason = f"those for which the entropy of the teacher's answer is {bound}"
            reason += ", and those with a gold label" if counts.get("gold_labels") else ""
        yield f"{counts['rows_out']:,} of {counts['rows_in']:,} rows were kept, {reason}"
