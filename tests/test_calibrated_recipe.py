"""A recipe sets rows aside that make the probabilities of its ONNX files honest, and says so in its card."""

from datasets import Dataset
from recipe_files import load_recipe

from distil_trainer.model_card import render_model_card

RECIPE = "sst2_electra_to_distilbert"


def test_rows_set_aside_decide_the_temperature_and_teach_nothing(sst2_arguments, tmp_path):
    rows = Dataset.from_parquet(str(tmp_path / "train.parquet"), keep_in_memory=True)
    words = ["--calibration_rows", "12", "--near_duplicate_threshold", "1.0"]
    report = load_recipe(RECIPE).main([*sst2_arguments, *words])
    assert report["data"]["calibration"]["rows"] == 12
    assert report["data"]["calibration"]["used_for"] == ["the temperature"]
    assert report["data"]["train"]["rows"] <= len(rows) - 12
    assert set(report["models"][0]["evaluation"]) == {"validation"}
    confidence = report["export"]["confidence"]
    assert confidence["rows"] == 12 and len(confidence["cascade"]) == 3
    transfer_texts = set(Dataset.load_from_disk(str(tmp_path / "out" / "work" / "transfer_set"))["sentence"][:])
    held_out = rows.train_test_split(test_size=12, seed=13)["test"]["sentence"][:]
    assert held_out and not transfer_texts & set(held_out)
    card = str(render_model_card(report))
    assert f"divided by a temperature of {confidence['temperature']:.2f}, fitted on 12 rows set aside" in card
    assert "Its scores are not calibrated" not in card and "| calibration |" in card
