"""The stage of a recipe that makes a teacher where no checkpoint can be had."""

import shutil

from accelerate import PartialState
from datasets import Value, concatenate_datasets

from distil_trainer.augmentation import drop_leaks, texts_of
from distil_trainer.loading import load_classifier
from distil_trainer.scratch_teacher import teacher_from_scratch
from distil_trainer.unlabelled import load_unlabelled


def untrained_teacher(train, training, label_names):
    """Make a teacher of fresh weights that has read nothing yet; see `teacher_from_scratch`.

    Args:
        train (`Dataset`): the training split; gives the tokenizer.
        training (`DistillationArguments`): names the columns, the longest text and the seed.
        label_names (`list[str]`): the labels.

    Returns:
        `tuple[PreTrainedModel, PreTrainedTokenizerFast]`
    """
    return teacher_from_scratch(_all_texts([train], training), label_names, mlm_epochs=0, **_shape(training))


def make_fresh_teacher(run, models, transfer, training, train, evaluation_splits, label_names):
    """Make a teacher of fresh weights that has read the training texts and the unlabelled ones, once.

    Args:
        run (`RunFolder`): keeps checkpoints and the result.
        models (`ModelArguments`): how long it reads.
        transfer (`TransferSetArguments`): names the files of texts without labels.
        training (`DistillationArguments`): names the columns, the longest text and the seed.
        train (`Dataset`): the training split, without what stands in the evaluation splits.
        evaluation_splits (`list[Dataset]`): splits whose texts it must not read.
        label_names (`list[str]`): the labels.

    Returns:
        `tuple[PreTrainedModel, PreTrainedTokenizerFast]`: a model whose head is still to be fine-tuned.
    """
    checkpoints = run.path("fresh_teacher-checkpoints")
    if not run.is_finished("fresh_teacher"):
        parts, columns = [train], (training.text_column, training.text_pair_column)
        if transfer.unlabelled_files:
            unlabelled = load_unlabelled(transfer.unlabelled_files, *columns, max_rows=transfer.max_unlabelled_samples)
            known = texts_of(evaluation_splits, *columns)
            parts.append(drop_leaks(unlabelled, known, *columns, transfer.near_duplicate_threshold)[0])
        texts = _all_texts(parts, training)
        run.announce(f"Training: masked words of {len(texts):,} texts, for a teacher from scratch")
        teacher, tokenizer = teacher_from_scratch(
            texts,
            label_names,
            mlm_epochs=models.scratch_num_train_epochs,
            mlm_max_steps=models.scratch_max_steps,
            output_dir=checkpoints,
            **_shape(training),
        )

        def save(path):
            teacher.save_pretrained(path)
            tokenizer.save_pretrained(path)

        run.once("fresh_teacher", save)
    if PartialState().is_main_process:
        shutil.rmtree(checkpoints, ignore_errors=True)
    return load_classifier(run.path("fresh_teacher"))


def _all_texts(parts, training):
    """Return every text of the data sets as one column, which can be read more than once."""
    columns = [column for column in (training.text_column, training.text_pair_column) if column is not None]
    # `rename_column` refuses the name that a column has already.
    texts = [part.select_columns([column]).rename_columns({column: "text"}) for part in parts for column in columns]
    return concatenate_datasets([each.cast_column("text", Value("string")) for each in texts])["text"]


def _shape(training):
    return {
        "max_length": training.max_length,
        "pairs": training.text_pair_column is not None,
        "seed": training.seed,
        "use_cpu": training.use_cpu or training.device.type == "cpu",
        "bf16": training.bf16,
    }
