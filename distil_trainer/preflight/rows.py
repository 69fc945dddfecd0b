"""Is the data what it should be? Each check yields pairs of a status and a message, or raises."""

import numpy as np

from distil_trainer.augmentation.audit import drop_leaks, texts_of
from distil_trainer.columns import check_column
from distil_trainer.input_checks import check_end_tokens, check_padding, check_pairs
from distil_trainer.label_columns import read_labels
from distil_trainer.labels import model_label_names
from distil_trainer.preflight.lengths import check_lengths, check_token_lengths, share_truncated
from distil_trainer.training_data import check_token_numbers, token_lengths

_NOTABLE_SHARE = 0.05
_TOKEN_COLUMNS = ("input_ids", "attention_mask", "token_type_ids", "word_ids")


def check_labels(run):
    """Check the gold labels that are read."""
    config = run.named_student.config
    for name, dataset in run.labelled_datasets.items():
        column = run.label_column(dataset)
        if column is None:
            check_column(dataset, run.args.label_column, name, "label_column")
        labels = dataset.with_format(None).select_columns([column])
        names = model_label_names(config)
        _, num_labelled = read_labels(labels, column, names, config.num_labels, name, problem_type=run.task)
        rows = f"{name}: {num_labelled} of {len(dataset)} rows are labelled"
        if name == "train_dataset" and run.args.uses_hard_labels and not num_labelled:
            yield "refused", f"{rows}, so hard_label_weight would act on nothing. Set it to 0, or give gold labels."
        elif name != "train_dataset" and 0 < num_labelled < len(dataset):
            yield "refused", f"{rows}, and metrics would count the others as mistakes. Filter those out."
        else:
            yield "fine", f"{rows}."


def check_columns(run):
    """Say which columns of the training set are read, and which are not."""
    if run.train_dataset is None:
        return
    columns = run.train_dataset.column_names
    read = {*run.text_columns, *_TOKEN_COLUMNS, *(f"teacher_{column}" for column in _TOKEN_COLUMNS)}
    if "train_dataset" in run.labelled_datasets:
        read.add(run.label_column(run.train_dataset))
    if run.args.distils_logits and not run.teachers:
        read |= {"teacher_logits", "teacher_label"}
    dropped = [column for column in columns if column not in read]
    message = f"Read of train_dataset: {', '.join(column for column in columns if column in read) or 'nothing'}."
    yield "fine", message + (f" Not read, and dropped: {', '.join(dropped)}." if dropped else "")


def check_text_lengths(run):
    """Check that texts fit the positions of the models, and how many of a sample are cut."""
    for name, dataset in run.datasets.items():
        if "input_ids" in dataset.column_names:
            for what, model, _ in run.readers if name == "train_dataset" else run.readers[:1]:
                if f"{run.prefix(what)}input_ids" in dataset.column_names:
                    longest = check_token_lengths(dataset, run.prefix(what), model.config, what, name)
                    yield "fine", f"{name} holds the {what}'s tokens already, at most {longest} a row."
    dataset = run.train_dataset
    if dataset is None or "input_ids" in dataset.column_names or not run.has_texts(dataset) or run.tokenizer is None:
        return
    for what, model, tokenizer in run.readers:
        check_lengths(model.config, tokenizer, run.args, what)
        max_length = min(run.args.max_length, tokenizer.model_max_length)
        if max_length < run.args.max_length:
            yield "fixed", f"max_length={run.args.max_length} is cut to the {max_length} of the {what}'s tokenizer."
        sample = run.sample()
        share = share_truncated(tokenizer, [sample[column][:] for column in run.text_columns], max_length)
        message = f"{share:.1%} of {len(sample)} sample rows have more than the {max_length} tokens the {what} reads"
        if share > _NOTABLE_SHARE:
            yield "warning", f"{message}, and lose their end. Raise max_length if the models allow it."
        else:
            yield "fine", f"{message}."


def check_tokens(run):
    """Check that a sample can be read by the tokenizers, and padded for the models."""
    if run.train_dataset is None or run.tokenizer is None:
        return
    for _, model, tokenizer in run.readers:
        check_padding(model.config, tokenizer)
        if "input_ids" not in run.train_dataset.column_names:
            check_pairs(model.config, tokenizer, run.args.text_pair_column)
    tokens = run.tokens()
    for what, model, _ in run.readers:
        check_token_numbers(tokens, run.prefix(what), model.config, f"the {what}", "train_dataset")
        check_end_tokens(model.config, tokens[f"{run.prefix(what)}input_ids"][:])
    length = np.mean(token_lengths(tokens))
    yield "fine", f"{len(tokens)} sample rows have {length:.0f} tokens on average, padding left out."


def check_leaks(run):
    """Count the rows of the whole training set that stand in evaluation data."""
    if run.train_dataset is None or not run.eval_datasets:
        return
    comparable = [dataset for dataset in run.eval_datasets.values() if run.has_texts(dataset)]
    if not run.has_texts(run.train_dataset) or not comparable:
        yield "fine", "Not checked: training and evaluation data do not both have texts."
        return
    columns, total = (run.args.text_column, run.args.text_pair_column), len(run.train_dataset)
    kept, dropped = drop_leaks(run.train_dataset.with_format(None), texts_of(comparable, *columns), *columns)
    found = f"{dropped} of {total} training rows stand in the evaluation data too"
    if not dropped:
        yield "fine", f"None of the {total} training rows stands in the evaluation data."
    elif not run.args.drop_evaluation_rows:
        yield "warning", f"{found}: the student is scored on what it has seen. Set drop_evaluation_rows=True."
    elif len(kept):
        yield "fixed", f"{found}: dropped from the transfer set."
    else:
        yield "refused", f"{found}: nothing is left to train on. Give other evaluation data."
