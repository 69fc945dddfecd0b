"""The recipe for Ray: the rows of the plain path, though a worker is killed; and what is refused."""

import json
import os
import signal
import subprocess
import sys
import time

import fsspec
import numpy as np
import psutil
import pytest
import torch
from datasets import Dataset, load_dataset
from recipe_files import RECIPES, load_recipe
from vocabulary import WORDS

from distil_trainer import RuleAugmenter, TeacherLabeler, load_classifier

needs_ray = pytest.mark.skipif("not __import__('importlib').util.find_spec('ray')", reason="needs the extra `ray`")


def test_an_augmenter_takes_the_arrays_of_ray_data_as_it_takes_lists(reviews):
    augmenter = RuleAugmenter.from_corpus(reviews["sentence"], copies=3, replace_probability=0.0)
    lists, arrays = reviews[:], reviews.with_format("numpy")[:]
    from_lists, from_arrays = augmenter(lists, list(range(48))), augmenter(arrays, np.arange(48))
    assert from_arrays["sentence"] == from_lists["sentence"]
    assert np.array(from_arrays["label"]).tolist() == from_lists["label"]


def test_without_ray_the_recipe_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r"needs Ray, which is not installed: pip install .distil_trainer\[ray\]"):
        load_recipe("label_with_ray")


@pytest.fixture
def many_reviews(tmp_path, reviews):
    """4,000 texts, no two alike, in four numbered files."""
    draw = np.random.default_rng(3)
    texts = [" ".join(draw.choice(WORDS, 40)) for _ in range(4000)]
    rows = Dataset.from_dict({"sentence": texts, "label": [i % 2 for i in range(4000)], "row": list(range(4000))})
    rows = rows.cast_column("label", reviews.features["label"])
    (tmp_path / "input").mkdir()
    for number in range(4):
        rows.select(range(1000 * number, 1000 * (number + 1))).to_parquet(tmp_path / "input" / f"{number}.parquet")
    return rows


@pytest.fixture
def ray_arguments(tmp_path, teacher, tokenizer):
    with torch.no_grad():
        teacher.classifier.weight.normal_()
    teacher.save_pretrained(tmp_path / "teacher")
    tokenizer.save_pretrained(tmp_path / "teacher")
    return [
        *("--input", str(tmp_path / "input"), "--output", str(tmp_path / "out")),
        *("--teacher_model_name_or_path", str(tmp_path / "teacher"), "--dtype", "float32"),
        *("--rows_per_block", "100", "--batch_size", "100", "--num_workers", "2", "--copies", "2", "--seed", "5"),
    ]


def workers_of(process):
    found = []
    for child in psutil.Process(process.pid).children(recursive=True):
        try:
            found += [child.pid] * child.cmdline()[0].startswith("ray::MapWorker")
        except (psutil.NoSuchProcess, IndexError):
            continue
    return found


@needs_ray
@pytest.mark.slow
def test_a_worker_that_is_killed_in_the_middle_changes_nothing(many_reviews, ray_arguments, tmp_path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, str(RECIPES / "label_with_ray.py"), *ray_arguments]
    out = tmp_path / "out"
    process = subprocess.Popen(command, env=environment, start_new_session=True)
    try:
        deadline = time.monotonic() + 300
        while not list(out.glob("*.parquet")):
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.05)
        workers = workers_of(process)
        assert len(workers) == 2
        os.kill(workers[0], signal.SIGKILL)
        written = len(list(out.glob("*.parquet")))
        assert process.wait(timeout=300) == 0
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert written < len(list(out.glob("*.parquet")))

    augmenter = RuleAugmenter.from_corpus(
        many_reviews["sentence"], copies=2, mask_probability=0.1, replace_probability=0.0, seed=5
    )
    plain = many_reviews.map(augmenter, batched=True, with_indices=True, remove_columns=many_reviews.column_names)
    plain = (
        TeacherLabeler(*load_classifier(tmp_path / "teacher"), dtype="float32").map(plain).sort(["parent", "sentence"])
    )
    found = load_dataset("parquet", data_files=str(out / "*.parquet"), split="train").sort(["parent", "sentence"])
    assert found.features == plain.features
    assert found.remove_columns("teacher_logits")[:] == plain.remove_columns("teacher_logits")[:]
    logits = [np.array(rows["teacher_logits"][:]) for rows in (found, plain)]
    np.testing.assert_allclose(*logits, atol=1e-5)
    assert json.loads((out / "label_with_ray.json").read_text())["rows"] == len(plain)


@needs_ray
@pytest.mark.parametrize("copies", ["0", "2"])
def test_rows_that_are_missing_or_double_are_refused(ray_arguments, reviews, tmp_path, copies):
    recipe = load_recipe("label_with_ray")
    (arguments,) = recipe.parse_arguments(recipe.RayArguments, [*ray_arguments, "--copies", copies])
    (tmp_path / "out").mkdir()
    kept = reviews.add_column("operators", ["original"] * 48)
    kept.to_parquet(tmp_path / "out" / "a.parquet")
    if copies == "2":
        reviews.add_column("operators", ["mask"] * 48).to_parquet(tmp_path / "out" / "b.parquet")
    place = fsspec.filesystem("file"), str(tmp_path / "out")
    assert recipe.count_labelled(arguments, 48, *place) == (96 if copies == "2" else 48)
    with pytest.raises(OSError, match="has 48 rows.*, --input 49 rows: rows are missing or double"):
        recipe.count_labelled(arguments, 49, *place)


@needs_ray
def test_bad_input_is_refused_before_ray_starts(ray_arguments, reviews, tmp_path, monkeypatch):
    recipe = load_recipe("label_with_ray")
    monkeypatch.setattr("ray.init", lambda **options: pytest.fail("Ray was started"))
    (tmp_path / "input").mkdir()
    reviews.to_parquet(tmp_path / "input" / "a.parquet")
    with pytest.raises(ValueError, match=r"--index_column row is not in --input.*\['sentence', 'label'\].*add_column"):
        recipe.main(ray_arguments)
    with pytest.raises(ValueError, match="--text_column text is not in --input, which has the columns"):
        recipe.main([*ray_arguments, "--text_column", "text"])
    with pytest.raises(ValueError, match="--text_pair_column second is not in --input"):
        recipe.main([*ray_arguments, "--text_pair_column", "second"])
    (tmp_path / "texts.txt").write_text("a film\n")
    for name in ("absent", "texts.txt"):
        with pytest.raises(ValueError, match=f"--input .*{name} could not be read as parquet: .*Give parquet files"):
            recipe.main([*ray_arguments, "--input", str(tmp_path / name)])
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old.parquet").touch()
    with pytest.raises(ValueError, match="--output .* is not empty: rows of two runs would be mixed"):
        recipe.main([*ray_arguments, "--copies", "0"])
    with pytest.raises(ValueError, match="num_workers=0 must be at least 1"):
        recipe.main([*ray_arguments, "--num_workers", "0"])
