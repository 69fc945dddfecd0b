"""Logits for many texts, fast: batches sorted by length under a token budget, whatever engine runs the model.

A *runner* is any callable from named NumPy inputs (`input_ids`, `attention_mask`, ...) of shape `(batch_size, length)`
to logits of shape `(batch_size, num_labels)`. `torch_runner` makes one from a PyTorch model, `export.onnx_runner` one
from an ONNX file, so that everything measured of a model is measured by the same code.
"""

import inspect
from itertools import chain

import numpy as np
import torch
from tqdm.auto import tqdm

from distil_trainer.states import head_token
from distil_trainer.text import write_mask_token

# Rows tokenized and sorted at a time. Token lists take about 100 bytes a token, so all rows at once would not fit.
_ROWS_PER_WINDOW = 16_384


def torch_runner(model, dtype=None):
    """Make a runner from a PyTorch classifier: evaluation mode, no gradients, only the inputs its `forward` names.

    Args:
        model (`PreTrainedModel`): a sequence classifier; put into evaluation mode, left on its device.
        dtype (`torch.dtype`, *optional*): run under autocast in this type. Logits are always returned as float32.

    Returns:
        `Callable[[dict[str, np.ndarray]], np.ndarray]`
    """
    names = forward_names(model)
    if _reads_single_texts(model.config):
        names.add("token_type_ids")  # by which the network knows a pair, and refuses it
    model.eval()

    def forward(inputs):
        tensors = {name: torch.from_numpy(array).to(model.device) for name, array in inputs.items() if name in names}
        with torch.inference_mode(), torch.autocast(model.device.type, dtype=dtype, enabled=dtype is not None):
            return model(**tensors).logits.float().cpu().numpy()

    def run(inputs):
        groups = _rows_by_end_tokens(model.config, inputs["input_ids"])
        if len(groups) == 1:
            return forward(inputs)
        logits = [forward({name: array[rows] for name, array in inputs.items()}) for rows in groups]
        return np.concatenate(logits)[np.argsort(np.concatenate(groups))]

    return run


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
    if text_pair_column is not None and _reads_single_texts(config):
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
    if has_seconds and _reads_single_texts(config):
        raise ValueError(
            f"token_type_ids holds a 1, a token of a second text, but this {config.model_type} reads single texts "
            "(type_vocab_size=1) and would read the pair as one text, in silence. Make it with type_vocab_size=2."
        )
    if not has_seconds and not _reads_single_texts(config) and mask.any():
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
    _check_any_end_token(config, counts)
    if (counts != counts[:1]).any():
        row = int(np.flatnonzero(counts != counts[0])[0])
        raise ValueError(
            f"Row {first_row + row} has {counts[row]} end tokens (number {config.eos_token_id}), row {first_row} has "
            f"{counts[0]}. The head of {config.model_type} needs the same number in all rows of a batch, and would "
            "fail in the middle of training. Texts that spell the end token out get one more: replace it in them, or "
            "label them ahead with TeacherLabeler, which runs such rows apart."
        )


def forward_names(model):
    """Return the names of the inputs that a model reads: those that its `forward` takes, labels left out.

    Token types are left out too where they would do harm: GPT-2 and its like look them up among their words, and
    models with one type alone (RoBERTa) have no second one.

    Args:
        model (`PreTrainedModel`): any model.

    Returns:
        `set[str]`
    """
    names = set(inspect.signature(model.forward).parameters) - {"labels", "kwargs"}
    # XLNet asks only whether two tokens are of the same type; its configuration does not say how many types there are.
    has_token_types = model.config.model_type == "xlnet" or getattr(model.config, "type_vocab_size", 0) > 1
    return names if has_token_types else names - {"token_type_ids"}


def predict_logits(
    runner,
    tokenizer,
    texts,
    text_pairs=None,
    *,
    max_length=128,
    tokens_per_batch=2048,
    progress=None,
    padding_side=None,
):
    """Compute logits for many texts, in their order.

    Args:
        runner (`Callable`): see the module's description.
        tokenizer (`PreTrainedTokenizerBase`): the model's tokenizer.
        texts (`list[str]` of length `n`): the mask word in them becomes the tokenizer's mask token.
        text_pairs (`list[str]` of length `n`, *optional*): second sentences.
        max_length (`int`, *optional*, defaults to 128): tokens kept, special tokens included; never more than
            `tokenizer.model_max_length`.
        tokens_per_batch (`int`, *optional*, defaults to 2048): at most this many tokens, padding counted, in a batch.
            The default measured best on CPUs, where a batch should fit the cache; an accelerator likes ten times more.
        progress (`str`, *optional*): show a progress bar with this description.
        padding_side (`str`, *optional*): `"left"` or `"right"`, as `padding_side(model.config)` says. Default: the
            tokenizer's own.

    Returns:
        `np.ndarray` of shape `(n, num_labels)`, float32.

    Raises:
        ValueError: if `texts` is empty, the tokenizer has no padding token, or makes no token of a text.
    """
    if not len(texts):
        raise ValueError("texts is empty: there is nothing to compute logits for.")
    if tokenizer.pad_token_id is None:
        raise ValueError(
            f"tokenizer={type(tokenizer).__name__} has no padding token, so texts of different lengths cannot share a "
            "batch. Set one the model knows, e.g. `tokenizer.pad_token = tokenizer.eos_token`, and "
            "`model.config.pad_token_id` with it."
        )
    max_length = min(max_length, tokenizer.model_max_length)
    pad_left = (padding_side or tokenizer.padding_side) == "left"
    logits = None
    with tqdm(total=len(texts), desc=progress, unit=" texts", disable=progress is None) as bar:
        for start in range(0, len(texts), _ROWS_PER_WINDOW):
            window = write_mask_token(list(texts[start : start + _ROWS_PER_WINDOW]), tokenizer)
            pairs = None
            if text_pairs is not None:
                pairs = write_mask_token(list(text_pairs[start : start + _ROWS_PER_WINDOW]), tokenizer)
            encoded = tokenizer(window, pairs, truncation=True, max_length=max_length)
            lengths = np.fromiter(map(len, encoded["input_ids"]), dtype=np.int64, count=len(window))
            if not lengths.all():
                row = int(np.flatnonzero(lengths == 0)[0])
                raise ValueError(
                    f"texts[{start + row}]={window[row][:60]!r} has no tokens, and this tokenizer adds none of its "
                    "own: the logits would be those of padding. Remove the text."
                )
            for rows in length_sorted_batches(lengths, tokens_per_batch):
                batch_logits = runner(_padded(encoded, rows, lengths[rows], tokenizer, pad_left))
                if logits is None:
                    logits = np.empty((len(texts), batch_logits.shape[1]), dtype=np.float32)
                logits[start + rows] = batch_logits
                bar.update(len(rows))
    return logits


def length_sorted_batches(lengths, tokens_per_batch):
    """Cut rows into batches of similar length, the longest first (so that memory runs out at once or never).

    Args:
        lengths (`np.ndarray` of shape `(n,)`): tokens in each row.
        tokens_per_batch (`int`): at most this many tokens in a batch, padding counted; a longer row stands alone.

    Returns:
        `list[np.ndarray]`: row numbers of each batch; together they are a permutation of `range(n)`.
    """
    order = np.argsort(-lengths, kind="stable")
    batches, start = [], 0
    while start < len(order):
        rows = max(1, tokens_per_batch // max(1, int(lengths[order[start]])))
        batches.append(order[start : start + rows])
        start += rows
    return batches


def _padded(encoded, rows, lengths, tokenizer, pad_left):
    # By hand, because `tokenizer.pad` takes half as long as a small model and warns that it was called.
    width = int(lengths.max())
    position = np.arange(width)
    first = width - lengths[:, None]
    filled = position >= first if pad_left else position < lengths[:, None]
    padding = {"input_ids": tokenizer.pad_token_id, "token_type_ids": tokenizer.pad_token_type_id}
    batch = {}
    for name, values in encoded.items():
        batch[name] = np.full((len(rows), width), padding.get(name, 0), dtype=np.int64)
        batch[name][filled] = np.fromiter(chain.from_iterable(values[row] for row in rows), dtype=np.int64)
    return batch


def _is_network(config):
    # By what it says, not by its class: one that was loaded with its own code has another.
    return getattr(config, "reads_pairs", None) is not None


def _reads_single_texts(config):
    return _is_network(config) and config.type_vocab_size == 1


def _rows_by_end_tokens(config, input_ids):
    """Group rows that the head of an encoder-decoder can read in one batch; all others are one group."""
    if not config.is_encoder_decoder:
        return [np.arange(len(input_ids))]
    counts = np.count_nonzero(input_ids == config.eos_token_id, axis=1)
    _check_any_end_token(config, counts)
    return [np.flatnonzero(counts == count) for count in np.unique(counts)]


def _check_any_end_token(config, counts):
    if not counts.all():
        raise ValueError(
            f"A row has no end token (number {config.eos_token_id}). The classification head of {config.model_type} "
            "reads the text there. This is the tokenizer of another model, or one that adds no special tokens: load "
            "the model's own."
        )
