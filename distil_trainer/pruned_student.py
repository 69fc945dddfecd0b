"""The stage of a recipe in which the trained student is pruned, and learns its answers again from the unpruned one."""

import json

import numpy as np
from datasets import concatenate_datasets

from distil_trainer.fine_tuning import gold_label_arguments
from distil_trainer.loading import load_classifier, name_tokenizer_class
from distil_trainer.pruning import prune, prune_vocabulary
from distil_trainer.pruning.checks import check_can_be_pruned, check_size
from distil_trainer.pruning.gates import LayerUnits, layer_sizes
from distil_trainer.pruning.selection import keep_within_budget
from distil_trainer.pruning.vocabulary import check_vocabulary_can_be_pruned
from distil_trainer.stages import train_once
from distil_trainer.students.encoder_layers import head_size

# FastFormers measures importance on a part of the data too; more rows hardly change the order.
_IMPORTANCE_ROWS = 1000


def check_pruning(pruning, student, max_length):
    """Refuse sizes that do not fit the student, before anything is trained.

    Args:
        pruning (`PruningArguments`): what is to be cut.
        student (`PreTrainedModel`): the untrained student.
        max_length (`int`): tokens of the longest text, for counting FLOPs.

    Raises:
        ValueError: if its family cannot be pruned, it has not so many heads, neurons or layers, or the share of the
            FLOPs is too small for one head and one neuron in each layer.
    """
    if pruning.prune_vocabulary:
        check_vocabulary_can_be_pruned(student)
    if not pruning.cuts_layers:
        return
    check_can_be_pruned(student)
    sizes = layer_sizes(student)
    check_size("prune_heads", pruning.prune_heads, min(size.heads for size in sizes))
    check_size("prune_intermediate_size", pruning.prune_intermediate_size, min(size.neurons for size in sizes))
    check_size("prune_layers", pruning.prune_layers, len(sizes))
    if pruning.prune_keep is not None:
        alike = [LayerUnits(np.ones(size.heads), np.ones(size.neurons)) for size in sizes]
        shape = {"hidden_size": student.config.hidden_size, "head_size": head_size(student.config)}
        keep_within_budget(alike, pruning.prune_keep, **shape, sequence_length=max_length)


def prune_student(run, student, tokenizer, train, rows, validation, training, pruning, steps):
    """Prune the trained student as asked, and distil the unpruned one into it; each once per run.

    Importance is measured on some rows with gold labels. Recovery sees the rows that the student learned from, asks
    the unpruned student for its logits in every step, and compares nothing else.

    Args:
        run (`RunFolder`): keeps checkpoints and results, `pruned` the last.
        student (`PreTrainedModel`): the trained student.
        tokenizer (`PreTrainedTokenizerFast`): its tokenizer.
        train (`Dataset`): the training split, with gold labels.
        rows (`Dataset`): the transfer set, without a teacher's logits.
        validation (`Dataset`): the validation split.
        training (`DistillationArguments`): how the student was trained.
        pruning (`PruningArguments`): what is cut, and how long recovery takes.
        steps (`int`): optimizer steps of the student.

    Returns:
        `tuple[PreTrainedModel, PreTrainedTokenizerFast, dict]`: the pruned student, its tokenizer, and the report's
        part `student.pruned`.
    """

    def cut(path):
        pruned, its_tokenizer = _cut(student, tokenizer, train, rows, training, pruning)
        pruned.save_pretrained(path)
        its_tokenizer.save_pretrained(path)
        name_tokenizer_class(path)

    folder = run.once("pruned-not-recovered", cut)
    pruned, pruned_tokenizer = load_classifier(folder)
    arguments = _recovery_arguments(training, pruning, steps)
    pruned, recovery_steps = train_once(
        run,
        "pruned",
        pruned,
        pruned_tokenizer,
        rows,
        validation,
        arguments,
        teacher=student,
        teacher_tokenizer=tokenizer,
    )
    facts = {
        "num_heads": pruning.prune_heads,
        "intermediate_size": pruning.prune_intermediate_size,
        "num_layers": pruning.prune_layers,
        "keep": pruning.prune_keep,
        "tokens": len(pruned_tokenizer) if pruning.prune_vocabulary else None,
        "recovery_steps": recovery_steps,
        "recovery_learning_rate": arguments.learning_rate,
    }
    return pruned, pruned_tokenizer, {name: value for name, value in facts.items() if value is not None}


def brings_its_class(folder):
    """Return whether a saved model names a class of its own, which `AutoModel` needs in some version or always.

    Args:
        folder (`Path`): holds its `config.json`.

    Returns:
        `bool`
    """
    return "auto_map" in json.loads((folder / "config.json").read_text(encoding="utf-8"))


def _cut(student, tokenizer, train, rows, training, pruning):
    columns = {"text_column": training.text_column, "text_pair_column": training.text_pair_column}
    if pruning.cuts_layers:
        sample = train.shuffle(seed=training.seed).select(range(min(_IMPORTANCE_ROWS, len(train))))
        student = prune(
            student,
            tokenizer,
            sample,
            num_heads=pruning.prune_heads,
            intermediate_size=pruning.prune_intermediate_size,
            num_layers=pruning.prune_layers,
            keep=pruning.prune_keep,
            **columns,
            label_column=training.label_column,
            max_length=training.max_length,
            sequence_length=training.max_length,
        )
    if pruning.prune_vocabulary:
        texts = [
            rows.select_columns(name).rename_columns({name: "text"}) for name in columns.values() if name is not None
        ]
        student, tokenizer = prune_vocabulary(student, tokenizer, concatenate_datasets(texts)["text"])
    return student, tokenizer


def _recovery_arguments(training, pruning, steps):
    """Return the student's arguments for logits alone: how it was taught may fit its teacher's layers only."""
    return gold_label_arguments(
        training,
        logit_loss=training.logit_loss,
        temperature=training.temperature,
        logit_loss_weight=1.0,
        hard_label_weight=0.0,
        max_steps=pruning.recovery_max_steps or max(1, steps // 2),
        learning_rate=pruning.recovery_learning_rate or training.learning_rate,
    )
