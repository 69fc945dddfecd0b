"""A recipe reads by Hub id and pushes model, tokenizer, ONNX, card and labelled data set, with the real client."""

import json
from pathlib import Path

from hub_server import HubServer, hub_fixture  # noqa: F401

RECIPES = Path(__file__).resolve().parents[1] / "recipes"
PROGRAM = """
import sys
sys.path.insert(0, {recipes!r})
import sst2_electra_to_distilbert
sst2_electra_to_distilbert.main({arguments!r})

from datasets import load_dataset
labelled = load_dataset("me/student-logits", split="train")
print(len(labelled), labelled.features["teacher_label"].names, len(labelled[0]["teacher_logits"]))
"""


def test_everything_a_recipe_makes_is_pushed_byte_by_byte(hub, tmp_path, teacher, tokenizer, reviews):
    (tmp_path / "reviews/data").mkdir(parents=True)
    reviews.to_parquet(tmp_path / "reviews/data/train-00000-of-00001.parquet")
    validation = reviews.map(lambda row: {"sentence": f"{row['sentence']} really"})
    validation.to_parquet(tmp_path / "reviews/data/validation-00000-of-00001.parquet")
    hub.add_repo("dataset", "me/reviews", tmp_path / "reviews")
    teacher.save_pretrained(tmp_path / "teacher")
    tokenizer.save_pretrained(tmp_path / "teacher")
    hub.add_repo("model", "me/teacher", tmp_path / "teacher")
    out = tmp_path / "out"
    arguments = [
        *("--dataset_name", "me/reviews", "--teacher_model_name_or_path", "me/teacher", "--student_layers", "2", "4"),
        *("--copies", "2", "--max_steps", "2", "--per_device_train_batch_size", "8", "--latency_texts", "4"),
        *("--max_accuracy_drop", "0.9", "--output_dir", str(out), "--license", "apache-2.0"),
        *("--push_to_hub", "--hub_model_id", "me/student", "--hub_dataset_id", "me/student-logits"),
        *("--hub_card", str(tmp_path / "cards/student.md")),
    ]
    result = hub.run(PROGRAM.format(recipes=str(RECIPES), arguments=arguments), tmp_path)
    assert result.returncode == 0, result.stderr[-3000:]

    pushed = hub.files("model", "me/student")
    assert {"README.md", "report.json", "config.json", "model.safetensors", "tokenizer.json"} <= set(pushed)
    assert {"onnx/model.onnx", "onnx/model_quantized.onnx", "accuracy_latency.png"} <= set(pushed)
    for name, content in pushed.items():
        if name != ".gitattributes":
            assert content == (out / name).read_bytes(), name
    assert not any(name.startswith("work") for name in pushed)

    report = json.loads(pushed["report.json"])
    card = pushed["README.md"].decode()
    assert "base_model:\n- me/teacher" in card or "base_model: me/teacher" in card
    assert report["teacher"]["hub_id"] == "me/teacher" and len(report["teacher"]["revision"]) == 40
    assert report["data"]["train"]["hub_id"] == "me/reviews"
    assert (tmp_path / "cards/student.md").read_bytes() == pushed["README.md"]
    assert (tmp_path / "cards/student.report.json").read_bytes() == pushed["report.json"]

    assert f"{report['data']['transfer']['rows']} ['negative', 'positive'] 2" in result.stdout
    data_card = hub.files("dataset", "me/student-logits")["README.md"].decode()
    assert "teacher: me/teacher at revision" in data_card
