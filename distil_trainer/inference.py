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

from distil_trainer.input_checks import check_any_end_token, reads_single_texts
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
    if reads_single_texts(model.config):
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


def _rows_by_end_tokens(config, input_ids):
    """Group rows that the head of an encoder-decoder can read in one batch; all others are one group."""
    if not config.is_encoder_decoder:
        return [np.arange(len(input_ids))]
    counts = np.count_nonzero(input_ids == config.eos_token_id, axis=1)
    check_any_end_token(config, counts)
    return [np.flatnonzero(counts == count) for count in np.unique(counts)]
