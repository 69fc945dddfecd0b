"""How many tokens fit: the least of what the arguments, a tokenizer and a model's positions allow."""

import numpy as np

from distil_trainer.students.encoder_layers import PRUNED_PREFIX
from distil_trainer.text import write_mask_token
from distil_trainer.training_data import token_lengths

# Their first position comes after the number of the padding token, and those before it are never used.
_POSITIONS_AFTER_PADDING = (
    "camembert", "data2vec-text", "esm", "ibert", "lilt", "longformer", "luke", "mpnet", "roberta",
    "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "xmod",
)  # fmt: skip


def most_tokens(config):
    """Return how many tokens a model has positions for, special tokens included; `None` where nothing limits them.

    Args:
        config (`PretrainedConfig`): the model's configuration.
    """
    if config.model_type == "transformer_cnn":
        config = config.encoder_config
    # T5 counts distances and has no such entry; XLNet gives -1.
    positions = getattr(config, "max_position_embeddings", None)
    if positions is None or positions <= 0:
        return None
    family = config.model_type.removeprefix(PRUNED_PREFIX)
    return positions - config.pad_token_id - 1 if family in _POSITIONS_AFTER_PADDING else positions


def check_lengths(config, tokenizer, args, what):
    """Refuse texts longer than a model has positions for, which would fail in the middle of training.

    Args:
        config (`PretrainedConfig`): the model's configuration.
        tokenizer (`PreTrainedTokenizerBase`): cuts the texts that the model reads.
        args (`DistillationArguments`): their `max_length`.
        what (`str`): what the model is, for the error: "student", "teacher".

    Raises:
        ValueError: if the texts may be longer.
    """
    limit, longest = most_tokens(config), min(args.max_length, tokenizer.model_max_length)
    if limit is not None and longest > limit:
        raise ValueError(
            f"max_length={args.max_length}: the {what} has positions for {limit} tokens, and its tokenizer cuts texts "
            f"at {tokenizer.model_max_length} only, so the first longer text would end the training with an index "
            f"error. Set max_length={limit} or less."
        )


def check_token_lengths(dataset, prefix, config, reader, what):
    """Refuse rows with more tokens than a model has positions for.

    Args:
        dataset (`Dataset`): tokenized rows.
        prefix (`str`): of the columns that the model reads: `""` or `"teacher_"`.
        config (`PretrainedConfig`): of the model that reads them.
        reader (`str`): what that model is, for the error: "student", "teacher".
        what (`str`): the data set's name, for the error.

    Returns:
        `int`: tokens of the longest row.

    Raises:
        ValueError: with the number of the first row that is too long.
    """
    lengths, limit = token_lengths(dataset, f"{prefix}input_ids"), most_tokens(config)
    if limit is not None and (lengths > limit).any():
        row = int((lengths > limit).argmax())
        raise ValueError(
            f"{what}: row {row} has {lengths[row]} tokens ({prefix}input_ids), and the {reader} has positions for "
            f"{limit}: it would end the training with an index error. Tokenize with max_length={limit} or less."
        )
    return int(lengths.max())


def share_truncated(tokenizer, texts, max_length):
    """Return the share of texts that have more tokens than fit.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): the tokenizer that cuts them.
        texts (`list[list[str]]`): one list, or for pairs two of equal length.
        max_length (`int`): tokens that fit, special tokens included.

    Returns:
        `float` in [0, 1].
    """
    texts = [write_mask_token(column, tokenizer) for column in texts]
    # Without `verbose=False` it warns that there are too many tokens for the model, which does not read these.
    encoded = tokenizer(*texts, truncation=False, return_attention_mask=False, verbose=False)
    return float(np.mean([len(row) > max_length for row in encoded["input_ids"]]))
