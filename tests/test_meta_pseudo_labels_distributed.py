"""Meta Pseudo Labels in two processes on CPU, started by torchrun: both the test and the program that they run."""

import gc
import sys
from pathlib import Path

import pytest
import torch
from datasets import load_from_disk
from learning_teachers import DESCENT, difference_of, logs_of, make_trainer, set_dropout, weights
from loss_terms import largest_difference, make_student
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from two_processes import run_in_two_processes

pytestmark = pytest.mark.slow  # some 15 seconds on two cores

PLAIN = {**DESCENT, "consistency_weight": 2.0, "augmented_text_column": "rewritten", "feedback_weight": 8.0}
# Five labelled rows for two processes, in batches of at most four.
PLAIN |= {"labelled_batch_size": 5, "max_steps": 3}
WAYS = {
    "difference": {},
    "soft_and_dot_product": {"student_targets": "soft", "feedback": "dot_product"},
    "accumulated": {"gradient_accumulation_steps": 2},
}
RESUMED = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2, "feedback_weight": 8.0, "labelled_batch_size": 5}


def run(folder, output, rows_per_process, dropout=0.0, resume=None, **given):
    """Train on what the test saved in `folder`; return the trainer."""
    teacher = AutoModelForSequenceClassification.from_pretrained(folder / "teacher", dtype=torch.float32)
    reviews = load_from_disk(str(folder / "rows"))
    rows = {"train_dataset": reviews.remove_columns("label")}
    tokenizer = AutoTokenizer.from_pretrained(folder / "teacher")
    trainer = make_trainer(
        output,
        set_dropout(teacher, dropout),
        tokenizer,
        reviews,
        make_student(dropout=dropout),
        rows,
        per_device_train_batch_size=rows_per_process,
        **given,
    )
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def _program(folder):
    gc.freeze()  # each training begins with a collection, which would take longer than the training
    found = {}
    for way, given in WAYS.items():
        rows = 4 // given.get("gradient_accumulation_steps", 1)
        trainer = run(folder, folder / f"{way}_run", rows, **PLAIN, **given)
        assert trainer.args.world_size == 2, trainer.args.world_size
        found[way] = (weights(trainer), logs_of(trainer))
    straight = run(folder, folder / "straight_run", 4, dropout=0.2, **RESUMED)
    checkpoint = str(folder / "straight_run" / "checkpoint-2")
    resumed = run(folder, folder / "resumed_run", 4, dropout=0.2, resume=checkpoint, **RESUMED)
    found["resumed"] = (weights(straight), weights(resumed))
    # Each process has its own weights; they must be the same.
    torch.save(found, folder / f"found_{trainer.args.process_index}.pt")


@pytest.fixture(scope="module")
def folder(tmp_path_factory, _families, tokenizer):
    """A folder with the teacher, the rows, and what two processes made of them."""
    from datasets import Dataset
    from vocabulary import WORDS

    folder = tmp_path_factory.mktemp("distributed_meta_pseudo_labels")
    teacher = AutoModelForSequenceClassification.from_config(_families["bert"].config)
    teacher.load_state_dict(_families["bert"].state_dict())
    with torch.no_grad():
        teacher.classifier.weight *= 50
    teacher.save_pretrained(folder / "teacher")
    tokenizer.save_pretrained(folder / "teacher")
    texts = [" ".join(WORDS[(7 * row + 3 * place) % len(WORDS)] for place in range(3 + row % 9)) for row in range(48)]
    rewritten = [f"the {text}" for text in texts]
    Dataset.from_dict(
        {"sentence": texts, "rewritten": rewritten, "label": [row % 2 for row in range(48)]}
    ).save_to_disk(folder / "rows")
    run_in_two_processes(__file__, folder)
    return folder


@pytest.mark.parametrize("way", list(WAYS))
def test_two_processes_teach_both_models_as_one_does(folder, tmp_path, way):
    one = run(folder, tmp_path, 8, **PLAIN, **{**WAYS[way], "gradient_accumulation_steps": 1})
    two, logs = torch.load(folder / "found_0.pt")[way]
    for whose in ("student", "teacher"):
        assert difference_of(whose, weights(one), two) < 1e-6
    for log, expected in zip(logs, logs_of(one), strict=True):
        compared = [name for name in expected if name not in ("epoch", "grad_norm")]
        assert [log[name] for name in compared] == pytest.approx([expected[name] for name in compared], abs=1e-5)


def test_both_processes_have_the_same_models(folder):
    first, second = (torch.load(folder / f"found_{index}.pt") for index in (0, 1))
    for way in WAYS:
        assert largest_difference(first[way][0], second[way][0]) == 0.0


def test_two_processes_resumed_equal_an_uninterrupted_run(folder):
    straight, resumed = torch.load(folder / "found_0.pt")["resumed"]
    assert largest_difference(straight, resumed) == 0.0


if __name__ == "__main__":
    _program(Path(sys.argv[1]))
    torch.distributed.destroy_process_group()  # left to the interpreter, it aborts now and then at exit
