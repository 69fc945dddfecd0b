"""The transfer set of a recipe: training texts and unlabelled ones, rewritten, with generated texts, without leaks."""

import dataclasses
import json
import logging
import os
from itertools import chain

import pyarrow.compute as pc
import torch
from datasets import load_from_disk
from transformers import AutoModelForMaskedLM, AutoTokenizer

from distil_trainer.augmentation import (
    RuleAugmenter,
    drop_duplicates_and_leaks,
    drop_leaks,
    operator_counts,
    texts_of,
)
from distil_trainer.augmentation.masked_rewriting import MaskedRewriter
from distil_trainer.columns import column_batches
from distil_trainer.generated_rows import generate_rows
from distil_trainer.mixing import inherit_column, mix
from distil_trainer.stages import short_name
from distil_trainer.transfer_arguments import READ_WITH
from distil_trainer.unlabelled import load_unlabelled

logger = logging.getLogger(__name__)

# What is read only where copies are made by rules.
_OF_RULES = (
    "analyzer", "mask_probability", "replace_probability", "ngram_probability", "ngram_rule", "pool",
)  # fmt: skip


def make_transfer_set(run, train, evaluation_splits, transfer, training, *, analyzer=None):
    """Put together the texts that the teacher will label, without duplicates and without evaluation data.

    They are the training texts; texts without labels, in the share asked for; copies of both, rewritten by rules and
    by a masked language model; and what a language model writes that was fine-tuned on the training texts.

    Args:
        run (`RunFolder`): keeps the result.
        train (`Dataset`): the training split.
        evaluation_splits (`Iterable[Dataset]`): splits whose texts must not be trained on.
        transfer (`TransferSetArguments`): what it is made of.
        training (`DistillationArguments`): names the columns and the seed.
        analyzer (`Callable`, *optional*): tags words in place of `transfer.analyzer`; see `RuleAugmenter`.

    Returns:
        `tuple[Dataset, dict]`: the transfer set, and the report's part `data.transfer`.
    """
    evaluation_splits = list(evaluation_splits)
    generated, written = None, {}
    if transfer.generated_rows:
        generated, written = generate_rows(run, train, evaluation_splits, transfer, training)

    def build(path):
        columns = training.text_column, training.text_pair_column
        texts, facts = _texts(train, evaluation_splits, transfer, training)
        parts = {}
        if transfer.copies:
            parts["labelled"] = _rewrite(texts, _rule_augmenter(texts, transfer, training, analyzer), transfer)
        elif not transfer.rewriting_copies:  # rewriting brings the originals too
            parts["labelled"] = texts
        if transfer.rewriting_copies:
            parts["rewritten"] = _rewrite(texts, _masked_rewriter(transfer, training), transfer)
        if generated is not None:
            parts["generated"] = generated
        # Rows that have a source keep it; the names of the parts are for the others.
        together = next(iter(parts.values()))
        if len(parts) > 1:
            together = mix(parts, text_column=columns[0], text_pair_column=columns[1])
        kept, counts = drop_duplicates_and_leaks(
            together,
            texts_of(evaluation_splits, *columns),
            *columns,
            near_threshold=transfer.near_duplicate_threshold,
        )
        kept.save_to_disk(path)
        facts |= {"generated": written} if written else {}
        facts |= {
            "rows": len(kept),
            "operators": operator_counts(kept) if "operators" in kept.column_names else {"original": len(kept)},
            **{name: counts[name] for name in ("duplicates", "in_evaluation_data", "near_evaluation_data")},
            "settings": _settings(transfer, analyzer, training.seed),
        }
        (path / "facts.json").write_text(json.dumps(facts))

    folder = run.once("transfer_set", build)
    return load_from_disk(folder), json.loads((folder / "facts.json").read_text())


def _texts(train, evaluation_splits, transfer, training):
    """Return the texts to be rewritten, and facts on those of them that have no label."""
    columns = training.text_column, training.text_pair_column
    sources, shares, facts = {"labelled": train}, None, {}
    if transfer.unlabelled_files:
        unlabelled = load_unlabelled(
            transfer.unlabelled_files,
            *columns,
            label_column=training.label_column,
            label_feature=train.features[training.label_column],
            max_rows=transfer.max_unlabelled_samples,
        )
        # Before they are rewritten: copies of a text that is near evaluation data may be less near, and would stay.
        unlabelled, counts = drop_duplicates_and_leaks(
            unlabelled,
            texts_of(evaluation_splits, *columns),
            *columns,
            near_threshold=transfer.near_duplicate_threshold,
        )
        # What stands in the training split goes too, so that the shares are those of different texts.
        sources["unlabelled"], known = drop_leaks(unlabelled, texts_of([train], *columns), *columns)
        if not len(sources["unlabelled"]):
            raise ValueError(
                f"unlabelled_files={transfer.unlabelled_files}: of {counts['rows_in']} texts none is left that is not "
                "in the training split or the evaluation splits, or near these. Give other texts."
            )
        facts = {"unlabelled": {**counts, "in_training_data": known, "rows_out": len(sources["unlabelled"])}}
        if transfer.unlabelled_share is not None:
            shares = {"labelled": 1 - transfer.unlabelled_share, "unlabelled": transfer.unlabelled_share}
    elif not (transfer.generated_rows or transfer.rewriting_copies):
        return train, facts
    mixed = mix(sources, shares, seed=training.seed, text_column=columns[0], text_pair_column=columns[1])
    if shares is not None:
        facts["unlabelled"]["labelled_rows_left_out"] = _rows_left_out(mixed, train, transfer.unlabelled_share)
    return mixed, facts


def _rows_left_out(mixed, train, unlabelled_share):
    """Return how many labelled rows the shares left no room for, and warn of them."""
    kept = sum(pc.sum(pc.equal(names, "labelled")).as_py() for _, names in column_batches(mixed, "source"))
    if kept < len(train):
        logger.warning(
            "unlabelled_share=%s and %d rows without a label leave room for %d of %d labelled rows; the student does "
            "not see the others, as the control does. Give more texts, a smaller share, or none: then every row of "
            "both is kept.",
            unlabelled_share,
            len(mixed) - kept,
            kept,
            len(train),
        )
    return len(train) - kept


def _rule_augmenter(texts, transfer, training, analyzer):
    columns = [column for column in (training.text_column, training.text_pair_column) if column is not None]
    return RuleAugmenter.from_corpus(
        chain.from_iterable(texts[column] for column in columns),
        analyzer=analyzer or transfer.analyzer,
        text_column=training.text_column,
        text_pair_column=training.text_pair_column,
        label_column=training.label_column,
        copies=transfer.copies,
        mask_probability=transfer.mask_probability,
        replace_probability=transfer.replace_probability,
        ngram_probability=transfer.ngram_probability,
        ngram_rule=transfer.ngram_rule,
        pool=transfer.pool,
        lower=transfer.lower,
        seed=training.seed,
        num_proc=_processes(transfer, texts),
    )


def _masked_rewriter(transfer, training):
    return MaskedRewriter(
        _masked_language_model(transfer.rewriting_model).to(training.device),
        AutoTokenizer.from_pretrained(transfer.rewriting_model),
        share=transfer.rewriting_share,
        text_column=training.text_column,
        text_pair_column=training.text_pair_column,
        label_column=training.label_column,
        copies=transfer.rewriting_copies,
        max_length=training.max_length,
        seed=training.seed,
    )


def _masked_language_model(name):
    model, loading = AutoModelForMaskedLM.from_pretrained(name, dtype=torch.float32, output_loading_info=True)
    missing = sorted(loading["missing_keys"])
    if missing:
        raise ValueError(
            f"rewriting_model={name!r} lacks the weights {', '.join(missing[:3])}, so it has not learned to guess "
            "masked words, and would write random ones in silence. Give a model that was trained to, such as the "
            "checkpoint that a classifier was fine-tuned from."
        )
    return model


def _rewrite(texts, augmenter, transfer):
    # A language model uses all threads by itself, and processes would each hold one.
    processes = _processes(transfer, texts) if isinstance(augmenter, RuleAugmenter) else None
    rewritten = texts.map(
        augmenter,
        batched=True,
        with_indices=True,
        remove_columns=texts.column_names,
        num_proc=processes,
        desc="Augmenting",
    )
    return inherit_column(rewritten, texts) if "source" in texts.column_names else rewritten


def _processes(transfer, texts):
    """Return how many processes the texts are worth, `None` for this one alone."""
    processes = min(transfer.augmentation_num_proc, max(1, len(texts) // 10_000))
    return processes if processes > 1 else None


def _settings(transfer, analyzer, seed):
    """Return what the transfer set was made with, without what was not read, for the report."""
    settings = {**dataclasses.asdict(transfer), "seed": seed}
    if analyzer is not None:
        settings["analyzer"] = getattr(analyzer, "__name__", type(analyzer).__name__)
    for name in ("analyzer", "language_model", "rewriting_model"):
        if settings[name] is not None:
            settings[name] = short_name(settings[name])
    settings["unlabelled_files"] = [os.path.basename(file) for file in transfer.unlabelled_files or []]
    unread = {"augmentation_num_proc"}
    for needed, names in {**READ_WITH, "copies": _OF_RULES}.items():
        if not getattr(transfer, needed):
            unread |= {needed, *names}
    return {name: value for name, value in settings.items() if name not in unread}
