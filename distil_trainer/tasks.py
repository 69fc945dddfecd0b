"""The kinds of task a classifier can have, by the names that `config.problem_type` gives them."""

SINGLE_LABEL, MULTI_LABEL, REGRESSION = PROBLEM_TYPES = (
    "single_label_classification",
    "multi_label_classification",
    "regression",
)


def problem_type(config):
    """Return the kind of task of a classifier (`str`, one of `PROBLEM_TYPES`).

    It is the configuration's `problem_type`; where that is `None`, one output means regression and more mean one label
    a row, as transformers reads it. Multi-label models must say so.

    Args:
        config (`PretrainedConfig`): the configuration of a sequence classifier.

    Raises:
        ValueError: if the configuration names no kind of task that transformers knows.
    """
    if config.problem_type is None:
        return REGRESSION if config.num_labels == 1 else SINGLE_LABEL
    if config.problem_type not in PROBLEM_TYPES:
        raise ValueError(
            f"config.problem_type={config.problem_type!r}: choose one of {', '.join(PROBLEM_TYPES)}, or None."
        )
    return config.problem_type
