"""The card and the table say which rows taught the student, by which filters, and in which round."""

import pytest
from report_examples import example_parts, example_report, scores

from distil_trainer.model_card import render_model_card
from distil_trainer.report import make_report
from distil_trainer.tables import closing_table
from distil_trainer.transfer_words import round_lines, transfer_in_words


def _counts(rows_in, rows_out, gold_labels=500):
    """Figures as `hard_pseudo_labels` returns them."""
    uncertain = rows_in - rows_out
    return {
        "rows_in": rows_in,
        "gold_labels": gold_labels,
        "pseudo_labels": rows_out - gold_labels,
        "uncertain": uncertain,
        "rows_out": rows_out,
    }


def _in_rounds(best=0):
    """A report of two rounds of self-training."""
    parts = example_parts()
    parts["data"]["transfer"] |= {
        "rows": 1642,
        "operators": {"original": 1000, "mask": 642},
        "settings": {"max_entropy_bits": 0.5, "pseudo_labels": "hard"},
        "self_training": [
            {"round": number, "is_best": number == best, "rows": _counts(1642, rows), "student": scores(accuracy)}
            for number, (rows, accuracy) in enumerate([(1502, 0.677), (506, 0.61)])
        ],
    }
    return make_report(**parts)


@pytest.mark.parametrize(("best", "rows"), [(0, "1,502"), (1, "506")])
def test_after_self_training_the_rows_are_those_of_the_round_that_was_kept(best, rows):
    words = transfer_in_words(_in_rounds(best)["data"]["transfer"])
    assert f": {rows} rows, chosen from 1,642 (by operator: original 1,000, mask 642), after dropping" in words
    assert (
        f"; {rows} of 1,642 rows were kept, those for which the entropy of the teacher's answer is at most 0.5 bits, "
        f"and those with a gold label. In self-training each student taught the next: this is number {best + 1} of 2."
    ) in words


def test_each_round_has_a_line_in_the_card_and_under_the_table():
    report = _in_rounds()
    lines = [
        "Self-training, round 1 of 2: trained on 1,502 of 1,642 rows, accuracy 67.7 ± 2.0 % on validation; its "
        "student was kept.",
        "Self-training, round 2 of 2: trained on 506 of 1,642 rows, accuracy 61.0 ± 2.0 % on validation.",
    ]
    assert round_lines(report) == lines
    assert " ".join(closing_table(report).split()).endswith(" ".join(lines))
    card = str(render_model_card(report))
    assert all(f"\n- {line}\n" in card for line in lines)
    assert ": 1,502 rows, chosen from 1,642 (" in card


def test_rounds_go_by_the_headline_metric():
    report = _in_rounds()
    report["task"]["metric"] = "macro_f1"
    assert round_lines(report)[1].endswith("506 of 1,642 rows, macro-F1 60.9 ± 2.0 % on validation.")


def test_rounds_of_an_old_report_have_no_rows():
    report = _in_rounds()
    for facts in report["data"]["transfer"]["self_training"]:
        facts["rows"] = {}
    assert round_lines(report)[1] == "Self-training, round 2 of 2: accuracy 61.0 ± 2.0 % on validation."
    assert ": 1,642 rows (by operator" in transfer_in_words(report["data"]["transfer"])
    assert round_lines(example_report()) == []


@pytest.mark.parametrize(("filter_name", "gold"), [("pseudo_labels", 500), ("confident", 0)])
def test_each_filter_is_said_in_words_of_its_own(filter_name, gold):
    transfer = {
        "rows": 2439,
        "settings": {"max_entropy_bits": 0.25},
        "chosen": {
            "disagreements": {"rows_in": 2439, "rows_out": 2351},
            filter_name: _counts(2351, 2186, gold_labels=gold),
        },
    }
    assert transfer_in_words(transfer).split("; ") == [
        "The student was trained on the teacher's answers to texts derived from the training split: 2,186 rows, "
        "chosen from 2,439",
        "2,351 of 2,439 rows were kept, without the rewritten ones to which the teacher gives another label than to "
        "their original",
        "2,186 of 2,351 rows were kept, those for which the entropy of the teacher's answer is at most 0.25 bits"
        f"{', and those with a gold label' * bool(gold)}. Settings: `max_entropy_bits=0.25`.",
    ]
    del transfer["settings"]
    assert transfer_in_words(transfer).split(" answer is ")[1].startswith("within max_entropy_bits")


def test_a_filter_that_dropped_nothing_is_not_mentioned():
    transfer = {"rows": 100, "chosen": {"disagreements": {"rows_in": 100, "rows_out": 100}}}
    assert transfer_in_words(transfer).endswith("derived from the training split: 100 rows.")
    assert transfer_in_words(None) == transfer_in_words({}) == ""


def test_labelled_rows_that_the_share_left_out_are_counted_in_words():
    transfer = {
        "rows": 9,
        "settings": {"unlabelled_share": 0.5},
        "unlabelled": {"rows_out": 3, "labelled_rows_left_out": 1297},
    }
    words = transfer_in_words(transfer)
    assert "; 1,297 labelled rows were left out, so that texts without labels have their share of 0.5." in words
