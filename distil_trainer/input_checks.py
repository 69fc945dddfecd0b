"""Inputs that a model would misread: padding, pairs, end tokens. Each is refused before anything is computed."""

import numpy as np

from distil_trainer.states import head_token


def padding_side(config):
    """Say on which side a model's inputs must be padded, so that padding does not change its logits.

    XLNet reads the text at its last position, so that must not be padding; its positions are relative. All others
    count positions from the left, or look for the last token themselves. A tokenizer's own side may be set for
    generation, and is not followed.

    Args:
        config (`PretrainedConfig`): the model's configuration.

    Returns:
        `str`: `"left"` or `"right"`.
    """
    return "left" if config.model_type == "xlnet" else "right"


def check_padding(config, tokenizer):
    """Refuse a model that would read padding as text.

    Args:
        config (`PretrainedConfig`): the model's configuration.
        tokenizer (`PreTrainedTokenizerBase`): its tokenizer, which pads.

    Raises:
        ValueError: if a decoder (GPT-2) or a network over word vectors knows another padding token than its tokenizer,
            an encoder-decoder (BART, T5) is padded with the end token that its head looks for, or XLNet's head reads
            more than the last position.
    """
    if tokenizer.pad_token_id is None:
        return  # refused where rows are padded
    if _is_network(config) and config.pad_token_id != tokenizer.pad_token_id:
        raise ValueError(
            f"The {config.model_type}'s configuration has pad_token_id={config.pad_token_id}, its tokenizer has "
            f"{tokenizer.pad_token_id} ({tokenizer.pad_token!r}). The word vector of {config.pad_token_id} "
            f"({tokenizer.convert_ids_to_tokens(config.pad_token_id)!r}) stays zero and learns nothing: that token "
            "would be lost in silence. Make the network with pad_token_id=tokenizer.pad_token_id."
        )
    if config.is_encoder_decoder:
        if tokenizer.pad_token_id == config.eos_token_id:
            raise ValueError(
                f"The tokenizer pads with {tokenizer.pad_token!r}, the end token of {config.model_type}. Its "
                "classification head reads the last end token of a row, which would be padding. Set "
                "`tokenizer.pad_token` to the padding token the model was trained with."
            )
    elif config.model_type == "xlnet":
        if config.summary_type not in ("last", "cls_index"):
            raise ValueError(
                f"summary_type={config.summary_type!r} in the model's configuration: only 'last' can be padded, since "
                "XLNet's head counts padding in any other. Its logits would change with the other rows of a batch: "
                "choose a model with summary_type='last'."
            )
    # The convolutions of a Transformer-CNN read all tokens, whatever its encoder is.
    elif (
        config.model_type != "transformer_cnn"
        and head_token(config) == "last"
        and config.pad_token_id != tokenizer.pad_token_id
    ):
        raise ValueError(
            f"The model's configuration has pad_token_id={config.pad_token_id}, its tokenizer has "
            f"{tokenizer.pad_token_id} ({tokenizer.pad_token!r}). {config.model_type} reads its last token "
            "that is not padding, and would read padding. Set `model.config.pad_token_id = tokenizer.pad_token_id`."
        )


def check_pairs(config, tokenizer, text_pair_column):
    """Refuse pairs for a network of this package that reads single texts, and single texts for one that reads pairs.

    Transformers read both texts of a pair as one row, so all of them read either.

    Args:
        config (`PretrainedConfig`): the model's configuration.
        tokenizer (`PreTrainedTokenizerBase`): its tokenizer, which must tell the two texts apart.
        text_pair_column (`str`): the column of second texts; `None` for single texts.

    Raises:
        ValueError: if they do not fit.
    """
    if not _is_network(config):
        return
    if text_pair_column is not None and reads_single_texts(config):
        raise ValueError(
            f"text_pair_column={text_pair_column!r} with a {config.model_type} of type_vocab_size=1: it reads single "
            "texts, and would read both texts of a pair as one, in silence. Make it with type_vocab_size=2."
        )
    if text_pair_column is None and config.type_vocab_size == 2:
        raise ValueError(
            f"text_pair_column=None with a {config.model_type} of type_vocab_size=2: it compares the two texts of a "
            "pair. Name the column of the second texts, or make it with type_vocab_size=1."
        )
    if text_pair_column is not None and "token_type_ids" not in tokenizer.model_input_names:
        raise ValueError(
            f"The tokenizer of a {config.model_type} that reads pairs makes {tokenizer.model_input_names}, and no "
            "token_type_ids, which tell the texts apart. Make it with pairs=True."
        )


def check_network_inputs(config, inputs):
    """Refuse a batch of pairs for a network of this package that reads single texts, and the other way round.

    The network itself refuses them, but its graph cannot look at its inputs.

    Args:
        config (`PretrainedConfig`): the model's configuration; others than those networks are not checked.
        inputs (`dict[str, np.ndarray]`): what a runner is given.

    Raises:
        ValueError: if they do not fit, or a token's number is beyond the table.
    """
    if not _is_network(config):
        return
    input_ids = inputs["input_ids"]
    mask = inputs.get("attention_mask", np.ones_like(input_ids)) != 0
    has_seconds = bool((mask & (inputs.get("token_type_ids", np.zeros_like(input_ids)) == 1)).any())
    if has_seconds and reads_single_texts(config):
        raise ValueError(
            f"token_type_ids holds a 1, a token of a second text, but this {config.model_type} reads single texts "
            "(type_vocab_size=1) and would read the pair as one text, in silence. Make it with type_vocab_size=2."
        )
    if not has_seconds and not reads_single_texts(config) and mask.any():
        raise ValueError(
            f"This {config.model_type} compares the two texts of a pair (type_vocab_size=2), and no token of the "
            "batch is of a second text: each text would be compared with an empty one, in silence. Give pairs, and a "
            "tokenizer that makes token_type_ids."
        )
    if input_ids.max(initial=0) >= config.vocab_size:
        raise ValueError(
            f"A token has the number {input_ids.max()}, and the {config.model_type} has a table of "
            f"{config.vocab_size}. Either this is the tokenizer of another model, or one that was made for single "
            "texts was given a pair: make it with pairs=True."
        )


def check_end_tokens(config, input_ids, first_row=0):
    """Refuse rows that the classification head of an encoder-decoder (BART, T5) cannot read side by side.

    The head takes the rows of a batch apart by their end tokens, so that all must have the same number of them. A
    text that spells the end token has one more. `torch_runner` runs such rows apart; a batch in training cannot.

    Args:
        config (`PretrainedConfig`): the model's configuration; only encoder-decoders are checked.
        input_ids (`Iterable[Sequence[int]]`): token numbers of each row, padded or not; all rows that are trained on,
            because they are compared with one another.
        first_row (`int`, *optional*, defaults to 0): row number of the first, for the error.

    Raises:
        ValueError: if a row has no end token, or another number of them than the first row.
    """
    if not config.is_encoder_decoder:
        return
    counts = np.array([np.count_nonzero(np.asarray(row) == config.eos_token_id) for row in input_ids])
    check_any_end_token(config, counts)
    if (counts != counts[:1]).any():
        row = int(np.flatnonzero(counts != counts[0])[0])
        raise ValueError(
            f"Row {first_row + row} has {counts[row]} end tokens (number {config.eos_token_id}), row {first_row} has "
            f"{counts[0]}. The head of {config.model_type} needs the same number in all rows of a batch, and would "
            "fail in the middle of training. Texts that spell the end token out get one more: replace it in them, or "
            "label them ahead with TeacherLabeler, which runs such rows apart."
        )


def check_any_end_token(config, counts):
    """Refuse rows of an encoder-decoder without an end token, which its head reads.

    Args:
        config (`PretrainedConfig`): the model's configuration.
        counts (`np.ndarray` of shape `(n,)`): end tokens of each row.

    Raises:
        ValueError: if a row has none.
    """
    if not counts.all():
        raise ValueError(
            f"A row has no end token (number {config.eos_token_id}). The classification head of {config.model_type} "
            "reads the text there. This is the tokenizer of another model, or one that adds no special tokens: load "
            "the model's own."
        )


def reads_single_texts(config):
    """Tell whether a configuration is that of a network of this package that reads single texts only."""
    return _is_network(config) and config.type_vocab_size == 1


def _is_network(config):
    # By what it says, not by its class: one that was loaded with its own code has another.
    return getattr(config, "reads_pairs", None) is not None
