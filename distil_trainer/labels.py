"""Label names: where they come from, and how logits in one order are read in another."""

import re

from datasets import ClassLabel, LargeList, Sequence, Value

# `List`, or before datasets 4 `Sequence` itself.
_LIST_TYPES = (type(Sequence(Value("int64"))), LargeList)

# What data sets write where a row has no label.
UNLABELLED = (None, -1, -100)


def model_label_names(config):
    """Return a model's label names in logit order, or `None` where they are only the placeholders `LABEL_0`, ...

    Args:
        config (`PretrainedConfig`): the configuration of a classifier.

    Returns:
        `list[str]` of length `num_labels`, or `None`.
    """
    names = [config.id2label[index] for index in range(config.num_labels)]
    return None if all(re.fullmatch(r"LABEL_\d+", name) for name in names) else names


def dataset_label_names(dataset, label_column="label"):
    """Return the names of a `ClassLabel` column, or `None` where the column is absent or holds bare integers.

    A column of lists of `ClassLabel`, for rows with several labels, has names too.
    """
    feature = dataset.features.get(label_column)
    if isinstance(feature, _LIST_TYPES):
        feature = feature.feature
    return list(feature.names) if isinstance(feature, ClassLabel) else None


def gold_label_column(dataset, label_column):
    """Return the column that gold labels are read from: `label_column`, or `labels` where only that is there."""
    columns = dataset.column_names
    return "labels" if label_column not in columns and "labels" in columns else label_column


def reads_gold_labels(args, dataset):
    """Return whether the losses read the gold labels of a training set.

    The decoupled loss takes them where there are some, and else the teacher's answers.
    """
    has_labels = gold_label_column(dataset, args.label_column) in dataset.column_names
    return args.uses_hard_labels or (args.logit_loss == "decoupled" and has_labels)


def label_permutation(given_names, wanted_names, *, given, wanted):
    """Find the order in which logits over `given_names` must be read to be logits over `wanted_names`.

    Names are compared without regard to case. `logits[:, permutation]` is in the wanted order.

    Args:
        given_names (`list[str]`): label names in the order of the logits at hand.
        wanted_names (`list[str]`): label names in the order needed.
        given (`str`): what has `given_names`, for the error ("the teacher ./electra").
        wanted (`str`): what has `wanted_names`, for the error ("the student").

    Returns:
        `list[int]`, or `None` where the two orders already agree.

    Raises:
        ValueError: if the numbers of labels differ, or the same number of labels has other names.
    """
    given_keys, wanted_keys = ([name.casefold() for name in names] for names in (given_names, wanted_names))
    if len(given_keys) != len(wanted_keys):
        raise ValueError(
            f"{given} has {len(given_names)} labels {given_names}, {wanted} has {len(wanted_names)} labels "
            f"{wanted_names}. Distillation compares logits label by label, so both need the same labels: choose "
            "another teacher, or build the student with the teacher's labels."
        )
    if sorted(given_keys) != sorted(wanted_keys) or len(set(given_keys)) != len(given_keys):
        raise ValueError(
            f"{given} names its labels {given_names}, {wanted} names them {wanted_names}. The orders "
            "cannot be matched by name, and matching them by position would teach the wrong label in silence: set "
            "`config.id2label` of one of them so that the names agree."
        )
    permutation = [given_keys.index(key) for key in wanted_keys]
    return None if permutation == list(range(len(permutation))) else permutation


def renumber(labels, number_of, unlabelled):
    """Translate labels to numbers, and every sign of "no label" (see `UNLABELLED`) to one.

    Args:
        labels (`Iterable`): labels as they stand in a data set.
        number_of (`Mapping`): the number of each label.
        unlabelled (`int`): the number for rows without a label.

    Returns:
        `list[int]`
    """
    return [unlabelled if label in UNLABELLED else number_of[label] for label in labels]
