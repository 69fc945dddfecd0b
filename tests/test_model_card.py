"""The card says what the report holds, invents nothing, and its code runs."""

import json
import re

import pytest
from huggingface_hub import ModelCard
from report_examples import comparison, example_parts, example_report, minimal_report, scores

from distil_trainer.model_card import render_model_card
from distil_trainer.report import make_report


def _code_blocks(card):
    return re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)


def _on_the_hub():
    """Parts of a run whose teacher, student and data all came from the Hub."""
    parts = example_parts()
    parts["teacher"].update(name="google/electra-large", hub_id="google/electra-large", revision="abc123")
    parts["student"].update(base="distilbert-base-uncased", hub_id="distilbert/distilbert-base-uncased")
    for split in ("train", "validation"):
        parts["data"][split].update(source="stanfordnlp/sst2", hub_id="stanfordnlp/sst2")
    return parts


def test_metadata_of_a_local_run_names_no_base_model_and_no_data_set():
    card = str(render_model_card(example_report()))
    assert (
        card.split("\n---\n")[0]
        == """---
language: en
library_name: transformers
license: apache-2.0
metrics:
- accuracy
- f1
pipeline_tag: text-classification
tags:
- distillation
- onnx
model-index:
- name: minilm-3-layers
  results:
  - task:
      type: text-classification
    dataset:
      name: validation.parquet
      type: parquet
      split: validation
    metrics:
    - type: accuracy
      value: 0.877
      name: Accuracy
    - type: f1
      value: 0.876
      name: Macro-F1"""
    )


def test_metadata_of_a_run_from_the_hub_names_teacher_checkpoint_and_data_set():
    metadata = render_model_card(make_report(**_on_the_hub())).data
    assert metadata.base_model == ["google/electra-large", "distilbert/distilbert-base-uncased"]
    assert metadata.datasets == ["stanfordnlp/sst2"]
    assert {result.dataset_type for result in metadata.eval_results} == {"stanfordnlp/sst2"}
    parts = _on_the_hub()
    del parts["student"]["hub_id"]
    assert render_model_card(make_report(**parts)).data.base_model == "google/electra-large"


def test_the_card_survives_the_way_to_disk_and_back(tmp_path):
    card = render_model_card(make_report(**_on_the_hub()))
    card.save(tmp_path / "README.md")
    assert str(ModelCard.load(tmp_path / "README.md")) == str(card)


def test_the_card_is_a_function_of_the_report_alone():
    report = example_report()
    card = str(render_model_card(report, model_id="me/student"))
    assert card == str(render_model_card(json.loads(json.dumps(report)), model_id="me/student"))
    assert report == example_report()  # rendering changes nothing in it


def test_the_models_id_comes_from_the_report_unless_given():
    assert 'model="me/student")' in str(render_model_card(example_report(model_id="me/student")))
    assert 'model="you/copy")' in str(render_model_card(example_report(model_id="me/student"), model_id="you/copy"))
    assert 'model="path/to/minilm-3-layers")' in str(render_model_card(example_report()))


def test_the_page_is_clean_markdown():
    for report in (example_report(), make_report(**_on_the_hub()), minimal_report()):
        card = str(render_model_card(report))
        assert "\n\n\n" not in card and "None" not in card and card.endswith(".\n")
        assert not re.search(r"[^\n]\n## |## .*\n[^\n]| +$", card, flags=re.MULTILINE)


def test_a_report_with_nothing_but_what_must_be_there_still_gives_a_card():
    card = str(render_model_card(minimal_report()))
    assert "it learned from the answers of a larger teacher, `teacher`, a local folder." in card
    assert 'model="path/to/student"' in card and "It was scored on nothing." in card
    for absent in ("license", "base_model", "model-index", "ONNX", "## Data", "Hyper-parameters", "Int8", "McNemar"):
        assert absent not in card


def test_figures_counts_and_origins_are_in_the_text():
    card = str(render_model_card(example_report(), model_id="me/student"))
    for present in (
        "It started from layers 2, 4, 6 of the teacher. Its labels: `negative`, `positive`.",
        "It is right on 87.7 ± 2.0 % of the validation rows (teacher: 88.0 ± 2.0 %).",
        "It has 17.4M parameters (teacher: 22.7M).",
        "Its int8 ONNX file takes 17.6 MB and answers in 2.00 ms, 6.0 times as fast as the teacher.",
        "- student against teacher (validation, n = 872): −0.3 points, p = 0.62: not distinguishable",
        "Example CPU 1000; tokenization, at most 0.21 ms",
        "measure again on yours",
        "of which this is one run (seed 13)",
        "The control is the same student",
        "On unseen shapes with padding, the float file's logits differ from PyTorch's by at most 3e-07. A file passes "
        "that loses at most 0.5 points of accuracy on the 872 validation rows. Int8 was made for avx2 processors.",
        "| model.onnx | fp32 | 69.7 MB | 87.7 | 0.0 | 100.0 | passed |",
        "| model_quantized.onnx | int8 dynamic | 17.6 MB | 87.5 | −0.2 | 99.4 | passed, chosen |",
        "| train | `train.parquet` | 67,349 | `aaaa` |",
        "190,000 rows (by operator: original 67,000, mask 123,000), after dropping 1,203 that stood there already, "
        "12 that stand in evaluation data and 5 that are near evaluation data. Settings: `copies=2`, `seed=13`.",
        "| `learning_rate` | 8e-05 |",
        "```bash\naccelerate launch recipes/sst2_electra_to_distilbert.py --num_train_epochs 1\n```",
        "Teacher: minilm-sst2, weights' fingerprint `0123456789abcdef`. Run of 2026-11-21T09:00:00+00:00. Trained on "
        "cpu (Example CPU 1000), 1 process. It took 11.0 minutes. With torch 2.13.0, transformers 4.57.6.",
        "It was scored on 872 validation rows (validation.parquet) and on nothing else.",
        "at most 128 tokens",
    ):
        assert present in card, present


def test_a_teacher_on_the_hub_is_linked_with_its_revision():
    card = str(render_model_card(make_report(**_on_the_hub())))
    assert "a larger teacher, [google/electra-large](https://huggingface.co/google/electra-large)." in card
    assert "Teacher: google/electra-large, revision `abc123`, weights' fingerprint `0123456789abcdef`." in card
    assert "| train | [stanfordnlp/sst2](https://huggingface.co/datasets/stanfordnlp/sst2) |" in card


def test_a_teacher_that_the_run_made_is_no_folder():
    parts = example_parts()
    parts["teacher"] |= {"name": "a BERT of 2 layers", "trained_here": True, "made_here": True}
    assert "a larger teacher, a BERT of 2 layers (trained in this run)." in str(
        render_model_card(make_report(**parts))
    )


def test_a_model_that_is_right_on_all_rows_set_aside_is_not_called_calibrated():
    parts = example_parts()
    ece = {"n": 872, "cross_entropy": 0.3, "calibration_error": 0.05}
    parts["export"]["confidence"] = {"temperature": 1.0, "rows": 30, "before": ece, "after": ece, "cascade": None}
    card = str(render_model_card(make_report(**parts)))
    assert "- Its scores are not calibrated: it is right on all 30 rows set aside" in card


def test_a_teacher_trained_in_the_run_is_said_to_be():
    parts = example_parts()
    parts["teacher"]["trained_here"] = True
    assert "`minilm-sst2`, a local folder (fine-tuned in this run)." in str(render_model_card(make_report(**parts)))


@pytest.mark.parametrize(
    ("used_for", "words"),
    [
        (
            ["the best checkpoint", "the int8 file"],
            "used to choose the best checkpoint and the int8 file, so figures on it",
        ),
        ([], "Nothing was chosen by its figures on validation. No test split"),
        (None, "\n\nNo test split was given.\n"),
    ],
)
def test_what_validation_was_used_for_is_said(used_for, words):
    parts = example_parts()
    parts["data"]["validation"]["used_for"] = used_for
    assert words in str(render_model_card(make_report(**parts)))


def test_test_figures_come_first_and_into_the_model_index():
    parts = example_parts()
    parts["data"]["test"] = {"source": "test.tsv", "rows": 1821}
    for row in parts["models"]:
        row["evaluation"]["test"] = scores(0.86, n=1821)
    card = render_model_card(make_report(**parts))
    assert "It is right on 86.0 ± 2.0 % of the test rows" in str(card)
    assert "The test split was scored once, at the end, and decided nothing." in str(card)
    assert "872 validation rows (validation.parquet) and 1,821 test rows (test.tsv)" in str(card)
    found = {(result.dataset_split, result.dataset_type, result.metric_value) for result in card.data.eval_results}
    assert ("test", "tsv", 0.86) in found and ("validation", "parquet", 0.877) in found


def test_a_refused_int8_model_leaves_the_float_file_to_use():
    parts = example_parts()
    parts["export"]["chosen"] = "model.onnx"
    parts["export"]["rungs"][1].update(passed=False, file=None)
    del parts["models"][4]
    card = str(render_model_card(make_report(**parts)))
    assert 'file_name="model.onnx")' in card and "The ONNX file `onnx/model.onnx`" in card
    assert "| – | int8 dynamic | 17.6 MB | 87.5 | −0.2 | 99.4 | refused |" in card
    assert "Its int8" not in card and "Int8 activations" not in card


def test_a_gap_that_is_noise_is_called_noise_on_the_card():
    comparisons = [comparison("student", "control", 0.017, 0.3)]
    card = str(render_model_card(example_report(comparisons=comparisons)))
    assert "a share that is noise: student and control are not shown to differ." in card


@pytest.mark.parametrize("text_pair", [False, True])
def test_the_pipeline_block_runs(text_pair, teacher, tokenizer, tmp_path, capsys):
    teacher.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    parts = example_parts(export=None)
    parts["task"].update(text_pair=text_pair, max_length=32)
    [block] = _code_blocks(str(render_model_card(make_report(**parts), model_id=str(tmp_path / "model"))))
    exec(block, {})
    assert re.search(r"'label': '(negative|positive)'", capsys.readouterr().out)


@pytest.mark.onnx
def test_the_onnx_block_runs(teacher, tokenizer, tmp_path, capsys):
    pytest.importorskip("optimum.onnxruntime.modeling", exc_type=ImportError)
    from distil_trainer.export import export_onnx

    export_onnx(teacher, tokenizer, tmp_path / "onnx", max_length=32)
    teacher.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    parts = example_parts()
    parts["export"]["chosen"] = "model.onnx"
    block = _code_blocks(str(render_model_card(make_report(**parts), model_id=str(tmp_path))))[1]
    exec(block, {})
    assert re.search(r"'label': '(negative|positive)'", capsys.readouterr().out)


def test_static_int8_is_not_said_to_depend_on_the_batch():
    report = example_report()
    assert "scaled over a whole batch" in str(render_model_card(report))
    report["export"]["quantization"]["calibration"] = {"method": "minmax", "rows": 512}
    assert "scaled over a whole batch" not in str(render_model_card(report))


def test_a_student_of_our_own_architecture_is_loaded_with_its_code():
    report = example_report()
    assert "trust_remote_code" not in str(render_model_card(report))
    report["student"]["needs_remote_code"] = True
    card = str(render_model_card(report))
    assert card.count(", trust_remote_code=True)") == 3 and "runs the Python files of this repository" in card


def test_a_chosen_file_that_is_not_int8_is_the_one_described():
    parts = example_parts()
    (int8,) = [row for row in parts["models"] if row["role"] == "onnx int8"]
    parts["models"].append({**int8, "role": "onnx optimized", "size_bytes": 51_000_000})
    parts["export"] |= {"chosen": "model_optimized.onnx", "serving": {"labels": ["negative", "positive"]}}
    parts["export"]["rungs"] = [{"name": "int8 static", "file": None, "size_bytes": None, "passed": False}]
    card = str(render_model_card(make_report(**parts)))
    assert "Its optimized ONNX file takes 51.0 MB" in card and "Its int8 ONNX file" not in card
    assert 'file_name="model_optimized.onnx"' in card and "python classifier.py < texts > labels" in card
    assert "| not made |" in card
