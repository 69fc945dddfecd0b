"""Splits are read from every format alike, and what cannot be read is refused with its reason."""

import pytest
from datasets import ClassLabel, Dataset, Features, Value

from distil_trainer.data import DataArguments, load_file, load_splits
from distil_trainer.recipe_task import recipe_task

ROWS = [("good , a film", 1), ('he said "bad', 0), ("NA", 1), ("1999", 0)]


def _write(folder, name, rows=ROWS):
    path = folder / name
    table = Dataset.from_list([{"sentence": sentence, "label": label} for sentence, label in rows])
    if path.suffix == ".csv":
        table.to_csv(path)
    elif path.suffix == ".tsv":
        path.write_text("sentence\tlabel\n" + "".join(f"{sentence}\t{label}\n" for sentence, label in rows))
    elif path.suffix == ".jsonl":
        table.to_json(path)
    else:
        table.to_parquet(path)
    return str(path)


@pytest.mark.parametrize("name", ["rows.csv", "rows.tsv", "rows.jsonl", "rows.parquet"])
def test_every_format_gives_the_same_rows_with_quotes_and_na_kept_as_text(tmp_path, name):
    dataset = load_file(_write(tmp_path, name))
    assert list(zip(dataset["sentence"], dataset["label"], strict=True)) == ROWS


def test_integer_labels_take_the_given_names_and_every_split_has_them(tmp_path):
    arguments = DataArguments(train_file=_write(tmp_path, "a.tsv"), validation_file=_write(tmp_path, "b.csv"))
    splits = load_splits(arguments, label_names=["negative", "positive"])
    assert splits["train"].features["label"].names == ["negative", "positive"]
    assert splits["validation"].features["label"].names == ["negative", "positive"]
    assert splits["train"]["label"] == [1, 0, 1, 0]


def test_string_labels_become_classes_with_the_train_splits_order(tmp_path):
    train = _write(tmp_path, "a.jsonl", [("x", "spam"), ("y", "ham")])
    validation = _write(tmp_path, "b.jsonl", [("z", "spam"), ("w", "spam")])
    splits = load_splits(DataArguments(train_file=train, validation_file=validation))
    assert splits["train"].features["label"].names == ["ham", "spam"]
    assert splits["validation"]["label"] == [1, 1]


def test_a_validation_split_with_the_names_in_another_order_is_brought_to_the_train_splits_order(tmp_path):
    paths = []
    for index, names in enumerate((["negative", "positive"], ["positive", "negative"])):
        features = Features({"sentence": Value("string"), "label": ClassLabel(names=names)})
        rows = [{"sentence": "good", "label": "positive"}, {"sentence": "bad", "label": "negative"}]
        paths.append(str(tmp_path / f"{index}.parquet"))
        Dataset.from_list(rows, features=features).to_parquet(paths[-1])
    splits = load_splits(DataArguments(train_file=paths[0], validation_file=paths[1]))
    assert splits["train"]["label"] == splits["validation"]["label"] == [1, 0]


def test_rows_without_a_label_are_kept_for_training_and_refused_for_scoring(tmp_path):
    rows = [{"sentence": f"text {index}", "label": label} for index, label in enumerate([0, 1, None, -100, -1])]
    Dataset.from_list(rows).to_parquet(tmp_path / "train.parquet")
    labelled = _write(tmp_path, "b.tsv")
    train = str(tmp_path / "train.parquet")
    splits = load_splits(DataArguments(train_file=train, validation_file=labelled))
    assert splits["train"]["label"] == [0, 1, -1, -1, -1]
    for split in ("validation_file", "test_file"):
        files = {"train_file": labelled, "validation_file": labelled, split: train}
        with pytest.raises(ValueError, match=r"3 of 5 rows have no label \(the first is row 2\)"):
            load_splits(DataArguments(**files))


def test_second_texts_are_read_and_checked_like_first_ones(tmp_path):
    (tmp_path / "a.tsv").write_text("sentence\tother\tlabel\ngood\t12\t0\nbad\t34\t1\n")
    arguments = DataArguments(train_file=str(tmp_path / "a.tsv"), validation_file=str(tmp_path / "a.tsv"))
    assert load_splits(arguments, text_pair_column="other")["train"]["other"] == ["12", "34"]
    with pytest.raises(ValueError, match="no column text_pair_column='third'"):
        load_splits(arguments, text_pair_column="third")


def test_a_blank_label_is_refused(tmp_path):
    file = _write(tmp_path, "a.jsonl", [("x", "ham"), ("y", ""), ("z", "spam")])
    with pytest.raises(ValueError, match=r"holds \[''\]"):
        load_splits(DataArguments(train_file=file, validation_file=file))


def test_kept_rows_are_drawn_by_seed(tmp_path):
    rows = [(f"text {index}", index % 2) for index in range(50)]
    files = {"train_file": _write(tmp_path, "a.parquet", rows), "validation_file": _write(tmp_path, "b.parquet", rows)}
    first, again, other = (
        load_splits(DataArguments(**files, max_train_samples=10), seed=seed)["train"]["sentence"] for seed in (1, 1, 2)
    )
    assert first == again != other
    assert len(first) == 10


def test_a_test_file_is_loaded_only_where_it_is_given(tmp_path):
    file = _write(tmp_path, "a.tsv")
    assert set(load_splits(DataArguments(train_file=file, validation_file=file))) == {"train", "validation"}
    with_test = load_splits(DataArguments(train_file=file, validation_file=file, test_file=file))
    assert len(with_test["test"]) == 4


def test_a_column_of_texts_named_as_labels_is_refused_in_few_words(tmp_path):
    for split in ("train", "validation"):
        texts = [f"{split} text number {number} " + "x" * 200 for number in range(500)]
        Dataset.from_dict({"sentence": texts, "summary": texts}).to_parquet(tmp_path / f"{split}.parquet")
    arguments = DataArguments(
        **{f"{split}_file": str(tmp_path / f"{split}.parquet") for split in ("train", "validation")}
    )
    with pytest.raises(ValueError, match="which are none of the labels .* and 495 more") as caught:
        load_splits(arguments, label_column="summary")
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    ("content", "name", "message"),
    [
        (None, "absent.csv", "is not a file"),
        ("x", "rows.xlsx", r"ends in '.xlsx'.*\.csv, \.tsv"),
        ("not parquet at all", "rows.parquet", "could not be read as parquet"),
        ('{"sentence": "a"\n{"broken', "rows.jsonl", "could not be read as jsonl"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_by_name(tmp_path, content, name, message):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        load_file(tmp_path / name)


def test_a_missing_column_is_named_with_those_that_are_there(tmp_path):
    file = _write(tmp_path, "a.tsv")
    arguments = DataArguments(train_file=file, validation_file=file)
    with pytest.raises(ValueError, match=r"text_column='text'.*\['sentence', 'label'\].*--text_column"):
        load_splits(arguments, text_column="text")
    with pytest.raises(ValueError, match=r"label_column='gold'.*\['sentence', 'label'\].*--label_column"):
        load_splits(arguments, label_column="gold")


def test_texts_that_are_numbers_are_refused(tmp_path):
    Dataset.from_dict({"sentence": [1.5, 2.5], "label": [0, 1]}).to_parquet(tmp_path / "a.parquet")
    file = str(tmp_path / "a.parquet")
    with pytest.raises(TypeError, match="column 'sentence' holds double, but texts must be strings"):
        load_splits(DataArguments(train_file=file, validation_file=file))


def test_an_empty_text_is_refused_with_its_row(tmp_path):
    file = _write(tmp_path, "a.tsv", [("good", 1), ("  ", 0)])
    with pytest.raises(ValueError, match="row 1 has sentence='  ', a missing or empty text"):
        load_splits(DataArguments(train_file=file, validation_file=file))


@pytest.mark.parametrize(("labels", "kind"), [([True, False], "bool"), ([{"x": 1}, {"x": 2}], "{'x': Value")])
def test_labels_that_are_neither_integers_nor_names_nor_scores_are_refused(tmp_path, labels, kind):
    file = _save(tmp_path / "a.parquet", labels)
    with pytest.raises(ValueError, match=f"holds .*{kind}.*labels must be integers or names, and scores decimal"):
        load_splits(DataArguments(train_file=file, validation_file=file))


def _save(path, labels):
    Dataset.from_dict({"sentence": [f"text {row}" for row in range(len(labels))], "label": labels}).to_parquet(path)
    return str(path)


@pytest.mark.parametrize("name", ["rows.csv", "rows.tsv", "rows.jsonl", "rows.parquet"])
def test_decimal_numbers_are_scores_in_every_format(tmp_path, name):
    file = _write(tmp_path, name, [("a", 3.8), ("b", -1.0), ("c", 0.25)])
    splits = load_splits(DataArguments(train_file=file, validation_file=file))
    for split in splits.values():
        assert split.features["label"] == Value("float32")
        assert split["label"][:] == [pytest.approx(3.8), -1.0, 0.25]
        assert recipe_task(split, "label") == "regression"
    assert recipe_task(Dataset.from_dict({"label": [0, 1]}), "label") == "single_label_classification"


def test_whole_numbers_are_scores_where_those_of_the_training_split_are_decimal(tmp_path):
    train, whole = _save(tmp_path / "a.parquet", [0.5, 4.0, None]), _save(tmp_path / "b.parquet", [4, 2])
    splits = load_splits(DataArguments(train_file=train, validation_file=whole))
    assert splits["train"]["label"][:] == [0.5, 4.0, None] and splits["validation"]["label"][:] == [4.0, 2.0]


@pytest.mark.parametrize(
    ("train", "validation", "message"),
    [
        ([0.5, float("nan")], [0.5, 1.0], "a.parquet: row 1 has label=nan; a score must be a finite number"),
        ([0.5, float("inf")], [0.5, 1.0], "row 1 has label=inf"),
        ([0.5, 1e39], [0.5, 1.0], r"row 1 has label=1e\+39"),
        ([2.5, None, 2.5], [0.5, 1.0], "every row has the score 2.5 in label_column='label'"),
        ([0.5, 1.0], [2.5, 2.5], "b.parquet: every row has the score 2.5"),
        ([0.5, 1.0], [0.5, None, 1.0], r"b.parquet: 1 of 3 rows have no score \(the first is row 1\)"),
        ([0.5, 1.0], ["x", "y"], r"holds Value\('string'\), in the training split Value\('float32'\)"),
        ([0, 1], [0.5, 1.0], r"holds Value\('float64'\), in the training split ClassLabel"),
        ([[0], [1, 2]], [[0], [1]], "holds lists .*recipes distil tasks of one label or one score a row"),
        ([[0.5, 1.0]], [[0.5, 1.0]], "holds lists"),
    ],
)
def test_scores_that_cannot_be_learned_or_judged_are_refused(tmp_path, train, validation, message):
    files = {
        "train_file": _save(tmp_path / "a.parquet", train),
        "validation_file": _save(tmp_path / "b.parquet", validation),
    }
    with pytest.raises(ValueError, match=message):
        load_splits(DataArguments(**files))


def test_a_training_split_without_any_score_is_refused(tmp_path):
    features = Features({"sentence": Value("string"), "label": Value("float64")})
    rows = Dataset.from_dict({"sentence": ["a", "b"], "label": [None, None]}, features=features)
    rows.to_parquet(tmp_path / "a.parquet")
    file = str(tmp_path / "a.parquet")
    with pytest.raises(ValueError, match="no row has a score in label_column='label'"):
        load_splits(DataArguments(train_file=file, validation_file=file))


@pytest.mark.parametrize(("labels", "warned"), [([0.0, 1.0, None, 1.0], True), ([0.0, 1.0, 0.5], False)])
def test_class_numbers_written_as_decimals_are_warned_of(tmp_path, caplog, labels, warned):
    file, decimal = _save(tmp_path / "a.parquet", labels), _save(tmp_path / "b.parquet", [0.0, 1.0])
    load_splits(DataArguments(train_file=file, validation_file=decimal))
    assert ("decimal numbers that are all whole" in caplog.text) == warned


def test_labels_that_the_train_split_does_not_have_are_refused(tmp_path):
    train = _write(tmp_path, "a.jsonl", [("x", "spam"), ("y", "ham")])
    other = _write(tmp_path, "b.jsonl", [("z", "eggs"), ("w", "ham")])
    with pytest.raises(ValueError, match=r"holds \['eggs'\].*none of the labels \['ham', 'spam'\]"):
        load_splits(DataArguments(train_file=train, validation_file=other))
    numbers = _write(tmp_path, "c.tsv", [("x", 0), ("y", 3)])
    with pytest.raises(ValueError, match=r"holds \[3\]"):
        load_splits(DataArguments(train_file=numbers, validation_file=numbers), label_names=["no", "yes"])


def test_a_split_with_one_class_or_no_rows_or_no_source_is_refused(tmp_path):
    one_class = _write(tmp_path, "a.jsonl", [("x", "ham"), ("y", "ham")])
    with pytest.raises(ValueError, match=r"every row has the label \['ham'\]"):
        load_splits(DataArguments(train_file=one_class, validation_file=one_class))
    (tmp_path / "empty.tsv").write_text("sentence\tlabel\n")
    with pytest.raises(ValueError, match="empty.tsv' could not be read as tsv.*no data"):
        load_splits(DataArguments(train_file=str(tmp_path / "empty.tsv"), validation_file=one_class))
    with pytest.raises(ValueError, match="no validation split: give --validation_file"):
        load_splits(DataArguments(train_file=_write(tmp_path, "b.tsv")))


def test_a_hub_id_without_network_names_the_local_option():
    with pytest.raises(ValueError, match="--train_file"):
        load_splits(DataArguments(dataset_name="nobody/nothing"))


def test_keeping_no_rows_is_refused():
    with pytest.raises(ValueError, match="max_train_samples=0 must be at least 1"):
        DataArguments(max_train_samples=0)


def test_rows_for_calibration_come_from_a_file_or_are_set_aside_from_training(tmp_path):
    file = _write(tmp_path, "a.jsonl", [(f"film {index}", index % 2) for index in range(10)])
    files = {"train_file": file, "validation_file": file}
    splits = load_splits(DataArguments(**files, calibration_file=file))
    assert len(splits["train"]) == len(splits["calibration"]) == 10
    splits = load_splits(DataArguments(**files, calibration_rows=3), seed=1)
    texts = splits["train"]["sentence"][:], splits["calibration"]["sentence"][:]
    assert (len(texts[0]), len(texts[1])) == (7, 3) and not set(texts[0]) & set(texts[1])
    assert load_splits(DataArguments(**files, calibration_rows=3), seed=1)["calibration"]["sentence"][:] == texts[1]


def test_rows_for_calibration_that_cannot_be_had_are_refused(tmp_path):
    with pytest.raises(ValueError, match="calibration_rows=0 must be at least 1"):
        DataArguments(calibration_rows=0)
    with pytest.raises(ValueError, match="calibration_file='a' and calibration_rows=3: the rows come from the one"):
        DataArguments(calibration_rows=3, calibration_file="a")
    file = _write(tmp_path, "a.jsonl")
    with pytest.raises(ValueError, match="calibration_rows=4 of 4 training rows would leave none"):
        load_splits(DataArguments(train_file=file, validation_file=file, calibration_rows=4))
    file = _write(tmp_path, "b.jsonl", [("a", 0.5), ("b", 1.5)])
    with pytest.raises(ValueError, match="'label' holds scores: a temperature"):
        load_splits(DataArguments(train_file=file, validation_file=file, calibration_rows=1))
    with pytest.raises(ValueError, match="'label' holds scores: a temperature"):
        load_splits(DataArguments(train_file=file, validation_file=file, calibration_file=file))
