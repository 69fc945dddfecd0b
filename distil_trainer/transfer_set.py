"""The transfer set of a recipe: training texts, augmented, without duplicates and without evaluation data."""

import dataclasses
import json

from datasets import load_from_disk

from distil_trainer.augmentation import RuleAugmenter, drop_duplicates_and_leaks, operator_counts, texts_of
from distil_trainer.stages import short_name


def make_transfer_set(run, train, evaluation_splits, augmentation, training, *, analyzer=None):
    """Augment the training texts, and drop duplicates and whatever stands in the evaluation splits.

    Args:
        run (`RunFolder`): keeps the result.
        train (`Dataset`): the training split.
        evaluation_splits (`Iterable[Dataset]`): splits whose texts must not be trained on.
        augmentation (`AugmentationArguments`): how to augment.
        training (`DistillationArguments`): names the columns and the seed.
        analyzer (`Callable`, *optional*): tags words in place of `augmentation.analyzer`; see `RuleAugmenter`.

    Returns:
        `tuple[Dataset, dict]`: the transfer set, and the report's part `data.transfer`.
    """

    def build(path):
        transfer = train
        if augmentation.copies:
            processes = min(augmentation.augmentation_num_proc, max(1, len(train) // 10_000))
            augmenter = RuleAugmenter.from_corpus(
                train[training.text_column],
                analyzer=analyzer or augmentation.analyzer,
                text_column=training.text_column,
                label_column=training.label_column,
                copies=augmentation.copies,
                mask_probability=augmentation.mask_probability,
                replace_probability=augmentation.replace_probability,
                ngram_probability=augmentation.ngram_probability,
                ngram_rule=augmentation.ngram_rule,
                pool=augmentation.pool,
                lower=augmentation.lower,
                seed=training.seed,
                num_proc=processes if processes > 1 else None,
            )
            transfer = train.map(
                augmenter,
                batched=True,
                with_indices=True,
                remove_columns=train.column_names,
                num_proc=processes if processes > 1 else None,
                desc="Augmenting",
            )
        columns = training.text_column, training.text_pair_column
        transfer, counts = drop_duplicates_and_leaks(transfer, texts_of(evaluation_splits, *columns), *columns)
        transfer.save_to_disk(path)
        facts = {
            "rows": len(transfer),
            "operators": operator_counts(transfer) if augmentation.copies else {"original": len(transfer)},
            "duplicates": counts["duplicates"],
            "in_evaluation_data": counts["in_evaluation_data"],
            "settings": _augmentation_settings(augmentation, analyzer, training.seed),
        }
        (path / "facts.json").write_text(json.dumps(facts))

    folder = run.once("transfer_set", build)
    return load_from_disk(folder), json.loads((folder / "facts.json").read_text())


def _augmentation_settings(augmentation, analyzer, seed):
    settings = {**dataclasses.asdict(augmentation), "seed": seed}
    if analyzer is not None:
        settings["analyzer"] = getattr(analyzer, "__name__", type(analyzer).__name__)
    elif augmentation.analyzer is not None:
        settings["analyzer"] = short_name(augmentation.analyzer)
    del settings["augmentation_num_proc"]
    return settings
