"""Recipes make transfer sets of unlabelled, generated and rewritten texts, and pseudo-labels of what teachers say."""

import json
import sys
from pathlib import Path

import pytest
from datasets import Dataset, load_from_disk
from recipe_files import load_recipe
from transformers import BertForMaskedLM

from distil_trainer import DistillationArguments, TransferSetArguments, parse_arguments
from distil_trainer.transfer_set import _texts

sys.path.insert(0, str(Path(__file__).parent / "augmentation"))

from writing_models import word_tokenizer, writing_model  # noqa: E402

RECIPE = "sst2_electra_to_distilbert"


@pytest.fixture
def run_with(sst2_arguments, tmp_path):
    """A function that runs a recipe with more arguments, and returns its report and its transfer set."""

    def run(*words):
        # The texts of the splits are alike, so near ones would all go.
        words = ["--near_duplicate_threshold", "1.0", *map(str, words)]
        report = load_recipe(RECIPE).main([*sst2_arguments, *words])
        return report, load_from_disk(tmp_path / "out" / "work" / "transfer_set")

    return run


@pytest.fixture
def comments(tmp_path, reviews):
    """A file of 30 texts without labels, two of which are training texts."""
    train = Dataset.from_parquet(str(tmp_path / "train.parquet"), keep_in_memory=True)["sentence"]
    lines = [f"comment number {number} speaks of quite another thing" for number in range(28)] + train[:2]
    (tmp_path / "comments.txt").write_text("\n".join(lines) + "\n")
    return tmp_path / "comments.txt"


def test_unlabelled_texts_join_in_the_share_asked_for_and_are_rewritten_too(run_with, comments, tmp_path):
    report, transfer = run_with("--unlabelled_files", comments, "--unlabelled_share", "0.25")
    assert report["data"]["transfer"]["unlabelled"]["labelled_rows_left_out"] == 0
    facts = report["data"]["transfer"]
    assert facts["unlabelled"]["rows_in"] == 30 and facts["unlabelled"]["in_training_data"] == 2
    assert facts["unlabelled"]["rows_out"] == 28
    originals = transfer.filter(lambda row: row["operators"] == "original")
    sources = originals["source"][:]
    assert sources.count("unlabelled") * 3 == pytest.approx(sources.count("labelled"), abs=3)
    assert set(transfer.filter(lambda row: row["source"] == "unlabelled")["label"]) == {-1}
    assert len(transfer) > len(originals)
    assert set(facts["audit"]["groups"]["source"]) == {"labelled", "unlabelled"}
    assert facts["settings"]["unlabelled_files"] == ["comments.txt"]  # no folder of this machine
    card = (tmp_path / "out" / "README.md").read_text()
    assert "texts derived from the training split and texts without labels" in card
    assert "gpt2" not in card and "rewriting" not in card  # what was not used is not among the settings


def test_a_share_that_leaves_no_room_for_labelled_rows_is_warned_of(reviews, tmp_path, caplog):
    (tmp_path / "two.txt").write_text("quite another thing\nand one more\n")
    transfer = TransferSetArguments(unlabelled_files=[str(tmp_path / "two.txt")], unlabelled_share=0.5)
    training = DistillationArguments(str(tmp_path / "out"))
    texts, facts = _texts(reviews, [], transfer, training)
    assert len(texts) == 4 and facts["unlabelled"]["labelled_rows_left_out"] == len(reviews) - 2
    assert f"leave room for 2 of {len(reviews)} labelled rows" in caplog.text


def test_the_plot_of_the_transfer_set_lies_beside_the_card(run_with, tmp_path):
    run_with()
    assert (tmp_path / "out" / "transfer_set.png").stat().st_size > 1000


def test_a_language_model_writes_rows_and_learns_first(run_with, tmp_path):
    tokenizer = word_tokenizer()
    writing_model(tokenizer).save_pretrained(tmp_path / "writer")
    tokenizer.save_pretrained(tmp_path / "writer")
    words = ["--generated_rows", 12, "--language_model", tmp_path / "writer", "--language_model_max_steps", 1]
    report, transfer = run_with(*words, "--max_length", "20")
    generated = transfer.filter(lambda row: row["source"] == "generated")
    assert 0 < len(generated) <= 12 and set(generated["label"]) == {-1} and set(generated["parent"]) == {-1}
    assert report["data"]["transfer"]["operators"]["generated"] == len(generated)
    assert (tmp_path / "out" / "work" / "language_model" / "model.safetensors").is_file()


def test_the_recipe_of_generated_texts_goes_the_whole_road(sst2_arguments, tmp_path):
    tokenizer = word_tokenizer()
    writing_model(tokenizer).save_pretrained(tmp_path / "writer")
    tokenizer.save_pretrained(tmp_path / "writer")
    place = sst2_arguments.index("--student_layers")
    arguments = sst2_arguments[:place] + sst2_arguments[place + 3 :]
    words = ["--generated_rows", "12", "--language_model", str(tmp_path / "writer"), "--language_model_max_steps", "1"]
    small = ["--student_config", "{lstm_size: 16, classifier_size: 16, embedding_size: 16}", "--max_length", "20"]
    report = load_recipe("sst2_generated_transfer_set").main([*arguments, *words, *small, "--copies", "0"])
    assert report["data"]["transfer"]["operators"].keys() == {"original", "generated"}


@pytest.mark.slow
def test_a_language_model_from_scratch_needs_no_checkpoint(run_with):
    words = ["--generated_rows", 4, "--language_model", "scratch", "--language_model_num_train_epochs", 20]
    _, transfer = run_with(*words, "--max_length", "40")
    assert "generated" in transfer["source"][:]


def test_a_masked_language_model_rewrites(run_with, tmp_path, teacher, tokenizer):
    BertForMaskedLM(teacher.config).save_pretrained(tmp_path / "filler")
    tokenizer.save_pretrained(tmp_path / "filler")
    _, transfer = run_with("--rewriting_copies", 1, "--rewriting_model", tmp_path / "filler", "--copies", 0)
    assert "masked_lm" in transfer["operators"][:]


def test_a_rewriting_model_that_never_learned_to_guess_words_is_refused(run_with, tmp_path):
    words = ["--rewriting_copies", 1, "--rewriting_model", tmp_path / "teacher", "--copies", 0]
    with pytest.raises(ValueError, match="lacks the weights cls.predictions.* would write random ones in silence"):
        run_with(*words)


def test_hard_pseudo_labels_teach_without_logits(run_with, tmp_path):
    report, _ = run_with("--pseudo_labels", "hard")
    counts = report["data"]["transfer"]["chosen"]["pseudo_labels"]
    assert counts["pseudo_labels"] > 0 and counts["gold_labels"] > 0
    log = json.loads((tmp_path / "out" / "work" / "student" / "trainer_state.json").read_text())["log_history"]
    assert not any("logit_mse" in entry for entry in log)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "trained on gold labels, and where there are none the teacher's first choice, for texts" in card
    assert report["training"]["hard_label_weight"] == 1.0 and report["training"]["logit_loss_weight"] == 0.0


def test_copies_whose_label_left_their_original_can_be_dropped(run_with):
    report, transfer = run_with("--drop_disagreements", "True")
    counts = report["data"]["transfer"]["chosen"]["disagreements"]
    assert counts["rows_in"] == len(transfer) and counts["copies_compared"] > 0


def test_copies_of_a_masked_language_model_are_compared_with_their_originals(run_with, tmp_path, teacher, tokenizer):
    BertForMaskedLM(teacher.config).save_pretrained(tmp_path / "filler")
    tokenizer.save_pretrained(tmp_path / "filler")
    words = ["--rewriting_copies", 1, "--rewriting_model", tmp_path / "filler", "--copies", 0]
    report, _ = run_with(*words, "--drop_disagreements", "True")
    assert report["data"]["transfer"]["chosen"]["disagreements"]["copies_compared"] > 0


def test_texts_near_evaluation_texts_are_denied_to_all_before_they_are_rewritten(run_with, tmp_path):
    validation = Dataset.from_parquet(str(tmp_path / "validation.parquet"), keep_in_memory=True)
    rows = ["a rather long evaluation sentence that nobody may train on", *validation["sentence"][1:]]
    validation.remove_columns("sentence").add_column("sentence", rows).to_parquet(tmp_path / "validation.parquet")
    (tmp_path / "near.txt").write_text(f"{rows[0]}!\nquite another thing it is that is spoken of here\n")
    report, transfer = run_with(
        "--unlabelled_files", tmp_path / "near.txt", "--copies", 8, "--near_duplicate_threshold", 0.6
    )
    assert report["data"]["transfer"]["unlabelled"]["near_evaluation_data"] == 1
    assert not [text for text in transfer["sentence"] if "nobody" in text or "evaluation" in text]


def test_the_student_of_the_best_round_is_shipped(run_with, tmp_path):
    report, _ = run_with("--self_training_rounds", 1)
    (facts,) = report["data"]["transfer"]["self_training"]
    assert facts["round"] == 0 and facts["is_best"]
    assert (
        "In self-training each student taught the next: this is number 1 of 1"
        in (tmp_path / "out" / "README.md").read_text()
    )
    assert (tmp_path / "out" / "model.safetensors").is_file()


def test_a_teacher_from_scratch_reads_the_unlabelled_texts_and_is_fine_tuned(
    sst2_arguments, comments, tmp_path, capsys
):
    for split in ("train", "validation"):  # a name that is that of lines of text too
        rows = Dataset.from_parquet(str(tmp_path / f"{split}.parquet"), keep_in_memory=True)
        rows.rename_column("sentence", "text").to_parquet(tmp_path / f"{split}.parquet")
    words = ["--teacher_from_scratch", "--train_teacher", "--scratch_max_steps", "1", "--teacher_max_steps", "1"]
    words += ["--text_column", "text", "--prune_vocabulary"]
    report = load_recipe(RECIPE).main([*sst2_arguments, *words, "--unlabelled_files", str(comments)])
    assert report["teacher"]["name"] == "a small BERT, trained from scratch" and report["teacher"]["hub_id"] is None
    assert (tmp_path / "out" / "work" / "fresh_teacher" / "config.json").is_file()
    stages = [line.split(",")[0] for line in capsys.readouterr().err.splitlines() if line.startswith("Training: ")]
    assert stages[1:] == [f"Training: {name}" for name in ("teacher", "student", "control", "pruned")]
    assert stages[0].startswith("Training: masked words of ")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--copies", "-1"], "copies=-1 must be at least 0"),
        (["--max_unlabelled_samples", "0"], "max_unlabelled_samples=0 must be at least 1"),
        (["--unlabelled_share", "1.0"], "unlabelled_share=1.0 must be above 0 and below 1"),
        (["--unlabelled_share", "0.5"], "unlabelled_share=0.5 without --unlabelled_files"),
        (["--generation_top_k", "5"], "generation_top_k=5 without --generated_rows"),
        (["--rewriting_share", "0.5"], "rewriting_share=0.5 without --rewriting_copies"),
        (["--rewriting_copies", "2"], "rewriting_copies=2 without --rewriting_model"),
        (["--mask_probability", "2"], "mask_probability=2.0 is not a probability"),
        (["--near_duplicate_threshold", "7"], "near_duplicate_threshold=7.0 must be above 0 and at most 1"),
        (["--generated_rows", "1", "--generation_temperature", "0"], "generation_temperature=0.0 must be above 0"),
        (["--unlabelled_files", "nowhere.txt"], "'nowhere.txt', which is not a file"),
        (["--pseudo_labels", "harder"], "pseudo_labels='harder': choose soft or hard"),
    ],
)
def test_settings_out_of_range_or_without_effect_are_refused(words, message):
    with pytest.raises(ValueError, match=message):
        parse_arguments((TransferSetArguments,), words, {})


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--pseudo_labels", "hard", "--hidden_loss_weight", "1"],
            "pseudo_labels='hard' with losses on hidden states",
        ),
        (["--drop_disagreements", "True", "--copies", "0"], "drop_disagreements without copies"),
        (["--drop_disagreements", "True", "--self_training_rounds", "2"], "with self_training_rounds=2"),
        (["--teacher_from_scratch"], "teacher_from_scratch without train_teacher"),
        (["--scratch_max_steps", "3"], "scratch_max_steps=3 without --teacher_from_scratch"),
    ],
)
def test_pseudo_labels_that_cannot_be_are_refused_before_anything_is_trained(words, message, run_with, tmp_path):
    with pytest.raises(ValueError, match=message):
        run_with(*words)
    assert not (tmp_path / "out").exists()


def test_scores_have_no_pseudo_labels(run_with, tmp_path):
    for split in ("train", "validation"):
        file = str(tmp_path / f"{split}.parquet")
        rows = Dataset.from_parquet(file, keep_in_memory=True)
        scores = [float(number % 5) + 0.5 for number in range(len(rows))]
        rows.remove_columns("label").add_column("label", scores).to_parquet(file)
    with pytest.raises(ValueError, match="max_entropy_bits=0.5 for scores"):
        run_with("--max_entropy_bits", "0.5", "--train_teacher", "True", "--teacher_max_steps", "1")
