import json
import sys

import numpy as np
import pytest
from datasets import Dataset, Features, Sequence, Value

from distil_trainer.audit_plot import plot_transfer_audit
from distil_trainer.audit_tables import audit_table
from distil_trainer.transfer_audit import audit_transfer_set
from distil_trainer.transfer_filter import filter_transfer_set

LONG = "the plot is thin but the actors make the most of it"
# text, parent, operators, share that the teacher gives to label 1
ROWS = [
    ("a good film", 0, "original", 0.9),
    ("a [MASK] film", 0, "mask", 0.5 - 1e-4),
    ("a good plot", 0, "replace", 0.75),
    (LONG, 1, "original", 0.1),
    (LONG.replace("thin", "[MASK]"), 1, "mask", 0.2),
    (LONG.replace("film", "plot"), 1, "replace", 0.25),  # a duplicate of the original
    ("what an actor", 7, "mask", 0.8),  # its original is not there
    ("generated text", -1, "generated", 0.99),
]
EVALUATION = ["A  good film", LONG.replace("make", "made"), "another"]


def with_logits(columns, shares):
    logits = [[0.0, float(np.log(share / (1 - share)))] for share in shares]
    dataset = Dataset.from_dict({**columns, "teacher_logits": logits})
    return dataset.cast(Features({**dataset.features, "teacher_logits": Sequence(Value("float32"), length=2)}))


@pytest.fixture
def rows():
    texts, parents, operators, shares = zip(*ROWS, strict=True)
    return with_logits({"sentence": texts, "parent": parents, "operators": operators}, shares)


def bits(*shares):
    shares = np.array(shares)
    return -shares * np.log2(shares) - (1 - shares) * np.log2(1 - shares)


def test_all_parts_of_an_audit_are_what_was_counted_by_hand(rows):
    audit = audit_transfer_set(rows, EVALUATION)
    everything = audit["all"]
    assert (everything["rows"], everything["share"], audit["evaluation_texts"]) == (8, 1.0, 3)
    # Rows 3 and 5 are near and equal to one another: as near rows they are no duplicates.
    assert [everything[key] for key in ("in_evaluation_data", "near_evaluation_data", "duplicates")] == [1, 3, 0]
    assert (everything["copies_compared"], everything["label_left_parent"]) == (4, 1)
    words = [3, 3, 3, 12, 12, 12, 3, 2]
    assert everything["words"]["mean"] == np.mean(words) and everything["words"]["p25"] == 3
    assert everything["words"]["min"] == 2 and everything["words"]["max"] == 12
    characters = [len(text) for text, *_ in ROWS]
    assert everything["characters"]["median"] == np.median(characters)
    entropies = bits(*(share for *_, share in ROWS))
    for name, expected in (("mean", entropies.mean()), ("p5", np.quantile(entropies, 0.05)), ("max", entropies.max())):
        assert everything["entropy_bits"][name] == pytest.approx(expected, abs=1e-6)
    assert list(audit["groups"]) == ["operators"]
    groups = audit["groups"]["operators"]
    assert {name: group["rows"] for name, group in groups.items()} == {
        "mask": 3, "original": 2, "replace": 2, "generated": 1,
    }  # fmt: skip
    assert list(groups) == ["mask", "original", "replace", "generated"]
    mask = groups["mask"]
    assert (mask["share"], mask["near_evaluation_data"], mask["copies_compared"], mask["label_left_parent"]) == (
        3 / 8, 1, 2, 1,
    )  # fmt: skip
    assert mask["entropy_bits"]["mean"] == pytest.approx(entropies[[1, 4, 6]].mean(), abs=1e-6)
    assert groups["original"]["copies_compared"] == 0
    assert [example["row"] for example in audit["near_examples"]] == [3, 4, 5]
    assert audit["near_examples"][0]["evaluation_text"] == EVALUATION[1]
    assert json.loads(json.dumps(audit, allow_nan=False)) == audit


def test_duplicates_are_counted_as_dropping_counts_them(rows):
    audit = audit_transfer_set(rows)
    assert [audit["all"][key] for key in ("in_evaluation_data", "near_evaluation_data", "duplicates")] == [0, 0, 1]
    assert audit["groups"]["operators"]["replace"]["duplicates"] == 1


def test_what_has_no_column_is_left_out():
    audit = audit_transfer_set(Dataset.from_dict({"text": ["a b", "c"]}), ["c"], text_column="text")
    assert audit["groups"] == {} and audit["num_labels"] is None
    assert set(audit["all"]) == {
        "rows", "share", "in_evaluation_data", "near_evaluation_data", "duplicates", "words", "characters",
    }  # fmt: skip
    score = Dataset.from_dict({"sentence": ["a"], "operators": ["original"], "parent": [0], "teacher_logits": [[2.5]]})
    assert "entropy_bits" not in audit_transfer_set(score)["all"]
    no_parent = with_logits({"sentence": ["a"], "operators": ["original"]}, [0.5])
    assert "label_left_parent" not in audit_transfer_set(no_parent)["all"]


def test_pairs_are_measured_together_and_grouped_by_the_side_that_was_rewritten():
    columns = {"first": ["a b", "a b c"], "second": ["d", "e f"], "rewritten": ["none", "both"]}
    columns |= {"operators": ["original", None], "parent": [0, 0]}
    audit = audit_transfer_set(with_logits(columns, [0.9, 0.2]), [("A b", "D")], "first", "second")
    assert audit["all"]["words"]["mean"] == 4 and audit["all"]["characters"]["max"] == 8
    assert audit["all"]["in_evaluation_data"] == 1 and audit["all"]["label_left_parent"] == 1
    assert list(audit["groups"]["rewritten"]) == ["none", "both"]
    assert list(audit["groups"]["operators"]) == ["original", "none"]  # null is none


def test_parents_of_different_sources_are_different(rows):
    columns = {
        "sentence": ["a", "b", "c", "d"],
        "parent": [0, 0, 0, 0],
        "operators": ["original", "mask", "original", "mask"],
    }
    shares = [0.9, 0.8, 0.1, 0.8]
    with pytest.raises(ValueError, match=r"Rows 0 and 2 are both the original with parent=0.*column 'source'"):
        audit_transfer_set(with_logits(columns, shares))
    named = with_logits({**columns, "source": ["gold", "gold", "more", "more"]}, shares)
    audit = audit_transfer_set(named)
    assert (audit["all"]["copies_compared"], audit["all"]["label_left_parent"]) == (2, 1)
    assert audit["groups"]["source"]["more"]["label_left_parent"] == 1


def test_rows_in_another_order_have_the_same_audit(rows):
    order = [6, 1, 4, 3, 0, 2, 7, 5]
    expected, audit = audit_transfer_set(rows, EVALUATION), audit_transfer_set(rows.select(order), EVALUATION)
    for part in ("near_evaluation_data", "copies_compared", "label_left_parent", "words"):
        assert audit["all"][part] == expected["all"][part]


def test_a_data_set_without_originals_has_no_copies_to_compare():
    dataset = with_logits({"sentence": ["a"], "operators": ["mask"], "parent": [3]}, [0.4])
    audit = audit_transfer_set(dataset)
    assert audit["all"]["copies_compared"] == 0
    assert " –  " in audit_table(audit).splitlines()[3]


def test_the_table_lines_up_and_says_what_was_compared(rows):
    lines = audit_table(audit_transfer_set(rows, EVALUATION)).splitlines()
    assert lines[1].split() == (
        "rows share eval. eval. cates bits p5–p95 parent's median p5–p95 median p5–p95".split()
    )
    cells = lines[3].split()
    assert cells[:8] == ["all", "8", "100.0", "%", "1", "3", "0", "0.636"]
    assert cells[8:12] == ["0.22–0.93", "25.0", "%", "3"]
    assert [line.split()[0] for line in lines[5:9]] == ["mask", "original", "replace", "generated"]
    assert len({len(line) for line in lines if set(line) == {"─"}}) == 1
    text = "\n".join(lines)
    assert "Compared with 3 evaluation texts" in text and "60 % of the trigrams" in text
    assert "1 of 4 copies" in text
    first = lines.index("Near rows, each above the evaluation text that it is near:") + 1
    assert lines[first].split(maxsplit=3)[1:] == ["row", "3", LONG]
    assert lines[first + 1].strip() == EVALUATION[1]


def test_leaks_that_were_not_looked_for_are_no_zeros(rows):
    table = audit_table(audit_transfer_set(rows))
    assert "No evaluation texts were given, so leaks were not looked for." in table
    assert [table.splitlines()[number].split()[4:7] for number in (3, 7)] == [["–", "–", "1"], ["–", "–", "1"]]
    table = audit_table(audit_transfer_set(rows, EVALUATION, near_threshold=None))
    assert "near ones were not looked for" in table
    assert table.splitlines()[3].split()[4:7] == ["1", "–", "1"]


def test_near_examples_of_pairs_and_long_texts_fit_a_line():
    dataset = Dataset.from_dict({"first": [LONG + " and more of it\n" * 9], "second": ["yes"]})
    evaluation = [(LONG + " and more of it" * 9 + "!", "Yes")]
    lines = audit_table(audit_transfer_set(dataset, evaluation, "first", "second")).splitlines()
    assert lines[-2].endswith("and more of it | yes") and lines[-1].endswith("and more of it! | Yes")
    assert [len(line) for line in lines[-2:]] == [111, 112]


@pytest.mark.parametrize("place", [0, 30, 100, 180, 199])
def test_near_examples_show_where_they_differ(place):
    text = "".join(chr(ord("a") + number * number % 25) for number in range(200))
    other = f"{text[:place].upper()}Z{text[place + 1 :]} and more"
    example = {"row": 3, "text": text, "evaluation_text": other, "similarity": 0.9}
    audit = audit_transfer_set(Dataset.from_dict({"sentence": [text]})) | {"near_examples": [example]}
    shown = [line[22:] for line in audit_table(audit).splitlines()[-2:]]
    assert all(len(line) <= 90 for line in shown)
    at = shown[1].index("Z")  # the one capital letter that is not of the text
    assert shown[0][at] == text[place] and shown[0][:at].lower() == shown[1][:at].lower()
    assert [line.startswith("...") for line in shown] == [place > 43] * 2
    assert shown[0].endswith("...") == (place < 180)


def test_near_examples_of_which_one_goes_on_show_where_the_other_ends():
    example = {"row": 3, "text": "ab" * 60, "evaluation_text": "ab" * 60 + "cd" * 60, "similarity": 0.6}
    audit = audit_transfer_set(Dataset.from_dict({"sentence": ["a"]})) | {"near_examples": [example]}
    shown = [line[22:] for line in audit_table(audit).splitlines()[-2:]]
    assert shown == ["..." + "ab" * 20, "..." + "ab" * 20 + "cd" * 22 + "..."]


def test_the_plot_is_a_picture_with_a_panel_for_each_part(rows, tmp_path):
    audit = audit_transfer_set(rows, EVALUATION)
    small = audit_transfer_set(rows.select_columns(["sentence"]))
    paths = [plot_transfer_audit(each, tmp_path / f"{number}.png") for number, each in enumerate((audit, small))]
    sizes = [int.from_bytes(path.read_bytes()[16:20], "big") for path in paths]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths)
    assert sizes[0] > 1.5 * sizes[1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.png", "1.png"]


def test_the_plot_has_no_panel_for_labels_where_no_copy_can_be_compared(rows, tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda figure, *_, **__: figures.append(figure))
    plot_transfer_audit(audit_transfer_set(rows), tmp_path / "audit.png")
    plot_transfer_audit(audit_transfer_set(rows.select([6, 7])), tmp_path / "audit.png")
    titles = [[axes.get_title(loc="left") for axes in figure.axes] for figure in figures]
    assert [len(each) for each in titles] == [4, 3]
    assert "label left the parent's, % of copies" in titles[0]
    assert "label left the parent's, % of copies" not in titles[1]
    # No evaluation texts were given: nothing was looked for that brackets could count but duplicates.
    assert titles[0][0] == "rows (in brackets: duplicates)"


@pytest.mark.parametrize("num_labels", [2, 3])
def test_the_axis_of_the_entropy_ends_a_little_beyond_its_maximum(tmp_path, monkeypatch, num_labels):
    figures = []
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda figure, *_, **__: figures.append(figure))
    for share in (0.0, 3.0):  # a teacher that knows nothing, and one that knows something
        rows = Dataset.from_dict({"sentence": ["a", "b"], "teacher_logits": [[share] + [0.0] * (num_labels - 1)] * 2})
        plot_transfer_audit(audit_transfer_set(rows), tmp_path / "audit.png")
    for figure in figures:
        left, right = figure.axes[1].get_xlim()
        assert left == 0 and 1.02 < right / np.log2(num_labels) < 1.06


def test_a_plot_without_matplotlib_names_the_extra(rows, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.backends.backend_agg", None)
    with pytest.raises(ImportError, match=r"distil_trainer\[recipes\]"):
        plot_transfer_audit(audit_transfer_set(rows), tmp_path / "audit.png")


def test_nothing_is_refused_to_be_audited():
    with pytest.raises(ValueError, match="no rows: there is nothing to audit"):
        audit_transfer_set(Dataset.from_dict({"sentence": []}))


@pytest.mark.parametrize(
    ("logits", "error"),
    [
        ([[0.0, float("nan")]], "row 0 has teacher_logits=.*not finite"),
        ([None], "row 0 has no teacher_logits"),
        ([[0.0, 1.0], [0.0, 1.0, 2.0]], "row 1 has 3 teacher_logits"),
    ],
)
def test_logits_that_say_nothing_are_refused(logits, error):
    dataset = Dataset.from_dict(
        {"sentence": ["a", "b"][: len(logits)], "teacher_logits": logits},
        features=Features({"sentence": Value("string"), "teacher_logits": Sequence(Value("float32"))}),
    )
    with pytest.raises(ValueError, match=error):
        audit_transfer_set(dataset)
    with pytest.raises(ValueError, match=error):
        filter_transfer_set(dataset, max_entropy_bits=0.5)


def test_the_filter_by_entropy_takes_originals_too(rows):
    kept, counts = filter_transfer_set(rows, max_entropy_bits=0.8, min_entropy_bits=0.1)
    assert kept["sentence"][:] == [ROWS[row][0] for row in (0, 3, 4, 6)]
    assert counts == {
        "rows_in": 8,
        "above_max_entropy": 3,
        "below_min_entropy": 1,
        "copies_compared": 0,
        "disagreements": 0,
        "rows_out": 4,
    }
    kept, counts = filter_transfer_set(rows, min_entropy_bits=0.5)
    assert counts["below_min_entropy"] == 3 and "original" not in kept["operators"][:]


def test_a_filter_that_can_compare_nothing_says_so(rows, caplog):
    copies = rows.filter(lambda row: row["operators"] != "original")
    kept, counts = filter_transfer_set(copies, keep_disagreements=False)
    assert len(kept) == len(copies) and counts["copies_compared"] == 0
    assert "keep_disagreements=False drops nothing: no copy has its original" in caplog.text


def test_the_filter_by_disagreement_takes_copies_that_left_their_original(rows):
    kept, counts = filter_transfer_set(rows, keep_disagreements=False)
    assert kept["sentence"][:] == [text for row, (text, *_) in enumerate(ROWS) if row != 1]
    assert (counts["copies_compared"], counts["disagreements"], counts["rows_out"]) == (4, 1, 7)
    # Its original goes by the bound, and still says that row 1 left it.
    kept, counts = filter_transfer_set(rows, min_entropy_bits=0.7, keep_disagreements=False)
    assert kept["sentence"][:] == [ROWS[row][0] for row in (2, 4, 5, 6)]
    assert (counts["below_min_entropy"], counts["disagreements"]) == (3, 1)


def test_a_filter_that_takes_nothing_returns_the_data_set_as_it_is(rows):
    kept, counts = filter_transfer_set(rows, min_entropy_bits=0.01)
    assert kept is rows and counts["rows_out"] == 8


def test_a_filter_without_a_bound_is_refused(rows):
    with pytest.raises(ValueError, match="No filter is given"):
        filter_transfer_set(rows)


@pytest.mark.parametrize(
    ("bounds", "error"),
    [
        ({"max_entropy_bits": 1.0}, "max_entropy_bits=1.0 with 2 labels: it must be above 0 and below 1"),
        ({"min_entropy_bits": 0}, "min_entropy_bits=0 with 2 labels"),
        ({"max_entropy_bits": float("nan")}, "max_entropy_bits=nan with 2 labels"),
        ({"max_entropy_bits": 0.2, "min_entropy_bits": 0.4}, "min_entropy_bits=0.4 is above max_entropy_bits=0.2"),
        ({"max_entropy_bits": 1e-9}, "leave none of 8 rows: entropies go from 0.08079 to 1 bits"),
    ],
)
def test_bounds_that_make_no_sense_are_refused(rows, bounds, error):
    with pytest.raises(ValueError, match=error):
        filter_transfer_set(rows, **bounds)


def test_a_filter_needs_a_teacher_of_several_labels(rows):
    score = Dataset.from_dict({"sentence": ["a"], "teacher_logits": [[2.5]]})
    for dataset in (rows.remove_columns("teacher_logits"), score):
        with pytest.raises(ValueError, match="needed are 'teacher_logits' of several labels"):
            filter_transfer_set(dataset, max_entropy_bits=0.5)


@pytest.mark.parametrize("column", ["parent", "operators"])
def test_disagreement_needs_parents_and_operators(rows, column):
    with pytest.raises(ValueError, match=f"dataset has no column '{column}'.*RuleAugmenter"):
        filter_transfer_set(rows.remove_columns(column), keep_disagreements=False)
