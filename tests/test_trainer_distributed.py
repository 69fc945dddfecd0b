"""Two processes on CPU, started by torchrun: the file is both the test and the program that the processes run."""

import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import load_from_disk
from loss_terms import FREE_OF_WIDTH, PROJECTED, TERMS, largest_difference, make_student, trained_weights
from loss_terms import PLAIN_DESCENT as THREE_STEPS
from transformers import AutoModelForSequenceClassification, AutoTokenizer, set_seed
from two_processes import run_in_two_processes

from distil_trainer.arguments import DistillationArguments
from distil_trainer.loading import load_classifier
from distil_trainer.pruning import GradualPruning
from distil_trainer.pruning.gates import layer_sizes
from distil_trainer.trainer import DistillationTrainer

PLAIN_DESCENT = {"max_steps": 8, "optim": "sgd", "learning_rate": 0.1, "max_grad_norm": 0.0}
RESUMED = {"num_train_epochs": 2, "learning_rate": 1e-3, "save_strategy": "steps", "save_steps": 9}


SIZES = {"num_heads": 2, "intermediate_size": 16, "num_cuts": 3}
WITH_STATES = {
    **RESUMED,
    "hidden_loss_weight": 1.0,
    "final_temperature": 1.0,
    "epochs_per_cycle": 1.0,
    "hard_label_weight": 0.5,
}
WIDTHS = [(term, 32) for term in TERMS] + [(term, 16) for term in PROJECTED + FREE_OF_WIDTH]
# One of each kind; the others are tried by the slow tests.
FEW_WIDTHS = [("kl", 32), ("gold_labels", 32), ("attention_kl", 32), ("short_forms", 32), ("hidden_mse", 16)]


def run(
    folder,
    output,
    rows_per_process,
    dropout=None,
    resume=None,
    student=None,
    online=False,
    head=50.0,
    prune=None,
    **given,
):
    """Train on what the test saved in `folder`; return the trainer."""
    args = DistillationArguments(
        str(output),
        per_device_train_batch_size=rows_per_process,
        use_cpu=True,
        disable_tqdm=True,
        drop_evaluation_rows=False,  # the rows are both
        logging_steps=4,
        **{"hard_label_weight": 0.5, **given},
    )
    set_seed(0)
    dropout = {} if dropout is None else {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    model = AutoModelForSequenceClassification.from_pretrained(folder / "model", dtype=torch.float32, **dropout)
    teacher = None
    if online:
        teacher = AutoModelForSequenceClassification.from_pretrained(folder / "model", dtype=torch.float32)
        with torch.no_grad():
            teacher.classifier.weight *= head
    rows = load_from_disk(str(folder / "rows"))
    trainer = DistillationTrainer(
        model if student is None else student,
        args,
        train_dataset=rows.remove_columns(["teacher_logits", "teacher_label"]) if online else rows,
        eval_dataset=load_from_disk(str(folder / "rows")),
        processing_class=AutoTokenizer.from_pretrained(folder / "model"),
        teacher=teacher,
    )
    if prune is not None:
        trainer.add_callback(GradualPruning(**prune))
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def _program(folder):
    for name in ("random", "grouped"):
        trainer = run(
            folder,
            folder / f"{name}_run",
            4,
            save_strategy="no",
            length_grouped_batches=name == "grouped",
            **PLAIN_DESCENT,
        )
        assert trainer.args.world_size == 2, trainer.args.world_size
        trainer.save_model(str(folder / f"{name}_two"))
        if trainer.is_world_process_zero():
            torch.save(trainer.state.log_history, folder / f"{name}_two_log.pt")
        predictions = trainer.predict(load_from_disk(str(folder / "rows")).remove_columns("label")).predictions
        assert predictions.shape == (48, 2), predictions.shape
    run(folder, folder / "pruned_run", 4, save_strategy="no", prune=SIZES, **PLAIN_DESCENT).save_model(
        str(folder / "pruned_two")
    )
    straight = run(folder, folder / "straight_run", 4, dropout=0.2, **RESUMED)
    straight.save_model(str(folder / "straight"))
    # Step 9 of 12: in the middle of the second epoch.
    checkpoint = str(folder / "straight_run" / "checkpoint-9")
    run(folder, folder / "resumed_run", 4, dropout=0.2, resume=checkpoint, **RESUMED).save_model(
        str(folder / "resumed")
    )

    trainer = train_terms(folder, FEW_WIDTHS)
    straight = run(folder, folder / "states_run", 4, student=make_student(16, dropout=0.2), online=True, **WITH_STATES)
    checkpoint = str(folder / "states_run" / "checkpoint-9")
    resumed = run(
        folder,
        folder / "resumed_states_run",
        4,
        student=make_student(16, dropout=0.2, seed=2),
        online=True,
        resume=checkpoint,
        **WITH_STATES,
    )
    # One process looks at the teacher before the first step, and both stop.
    with pytest.raises(ValueError, match="Refused before the first step"):
        run(folder, folder / "refused_run", 4, student=make_student(), online=True, head=math.nan, save_strategy="no")
    if trainer.is_world_process_zero():
        torch.save([trained_weights(straight), trained_weights(resumed)], folder / "states_two.pt")


def train_terms(folder, widths):
    """Train with each term in two processes, and save the weights by term and width; return the last trainer."""
    weights = {}
    for term, width in widths:
        trainer = run_term(folder, folder / "terms_run", 4, term, width)
        weights[f"{term}-{width}"] = trained_weights(trainer)
    if trainer.is_world_process_zero():
        torch.save(weights, folder / "terms_two.pt")
    return trainer


def run_term(folder, output, rows_per_process, term, width):
    """Train a student of a width with one term for three steps of eight rows."""
    online = TERMS[term].get("logit_loss_weight", 1.0) > 0 or "matches" in TERMS[term]
    return run(
        folder,
        output,
        rows_per_process,
        student=make_student(width),
        online=online,
        save_strategy="no",
        **{"hard_label_weight": 0.0, **THREE_STEPS, **TERMS[term]},
    )


def _weights(folder):
    return AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).state_dict()


def _difference(first, second):
    assert first.keys() == second.keys()
    return max((first[name] - second[name]).abs().max().item() for name in first)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, _families, tokenizer):
    """A folder with the model, the rows, and what two processes made of them."""
    folder = save_model_and_rows(tmp_path_factory.mktemp("distributed"), _families["bert"], tokenizer)
    run_in_two_processes(__file__, folder)
    return folder


def save_model_and_rows(folder, model, tokenizer):
    """Save what the processes read, a model without dropout, its tokenizer and labelled rows; return the folder."""
    from datasets import ClassLabel, Dataset, Features, List, Value
    from vocabulary import LABELS, WORDS

    model.save_pretrained(folder / "model")
    config = model.config
    config_dropout = (config.hidden_dropout_prob, config.attention_probs_dropout_prob)
    config.hidden_dropout_prob = config.attention_probs_dropout_prob = 0.0
    config.save_pretrained(folder / "model")
    config.hidden_dropout_prob, config.attention_probs_dropout_prob = config_dropout
    tokenizer.save_pretrained(folder / "model")
    generator = np.random.default_rng(3)
    rows = {"sentence": [], "label": [], "teacher_logits": [], "teacher_label": []}
    for index in range(48):
        rows["sentence"].append(" ".join(generator.choice(WORDS, size=3 + index % 9)))
        rows["label"].append(index % 2)
        score = generator.normal()
        rows["teacher_logits"].append([-score, score])
        rows["teacher_label"].append(int(score > 0))
    names = ClassLabel(names=LABELS)
    features = {"label": names, "teacher_label": names, "teacher_logits": List(Value("float32"), length=2)}
    Dataset.from_dict(rows, features=Features({"sentence": Value("string"), **features})).save_to_disk(folder / "rows")
    return folder


@pytest.mark.parametrize("order", ["random", "grouped"])
def test_two_processes_of_four_rows_equal_one_of_eight(folder, tmp_path, order):
    one = run(folder, tmp_path, 8, save_strategy="no", length_grouped_batches=order == "grouped", **PLAIN_DESCENT)
    assert one.args.world_size == 1
    weights = {name: value.detach() for name, value in one.model.state_dict().items()}
    assert _difference(weights, _weights(folder / "model")) > 1e-3
    assert _difference(weights, _weights(folder / f"{order}_two")) < 1e-6
    logs = torch.load(folder / f"{order}_two_log.pt")
    for log, expected in zip(logs[:2], one.state.log_history[:2], strict=True):
        for name in ("soft_target_kl", "hard_label_cross_entropy"):
            assert log[name] == pytest.approx(expected[name], abs=1e-5)


def test_two_processes_prune_the_same_heads_and_neurons_as_one(folder, tmp_path):
    one = run(folder, tmp_path, 8, save_strategy="no", prune=SIZES, **PLAIN_DESCENT)
    two, _ = load_classifier(folder / "pruned_two")
    assert layer_sizes(two)[0] == (2, 16)
    assert largest_difference(dict(one.model.state_dict()), dict(two.state_dict())) < 1e-6


def test_two_processes_resumed_in_the_middle_of_the_second_epoch_equal_an_uninterrupted_run(folder):
    assert _difference(_weights(folder / "straight"), _weights(folder / "model")) > 1e-3
    assert _difference(_weights(folder / "straight"), _weights(folder / "resumed")) == 0.0


@pytest.mark.parametrize(("term", "width"), FEW_WIDTHS)
def test_a_term_of_each_kind_gives_two_processes_the_gradients_of_one(folder, tmp_path, term, width):
    one = trained_weights(run_term(folder, tmp_path, 8, term, width))
    assert largest_difference(one, torch.load(folder / "terms_two.pt")[f"{term}-{width}"]) < 1e-6


def test_two_processes_resume_with_projections_schedules_and_an_online_teacher(folder):
    straight, resumed = torch.load(folder / "states_two.pt")
    start = make_student(16, dropout=0.2).state_dict()
    assert largest_difference(start, {name: straight[name] for name in start}) > 1e-3
    assert any(name.startswith("projections.") for name in straight)
    assert largest_difference(straight, resumed) == 0.0


if __name__ == "__main__":
    _program(Path(sys.argv[1]))
    torch.distributed.destroy_process_group()  # left to the interpreter, it aborts now and then at exit
