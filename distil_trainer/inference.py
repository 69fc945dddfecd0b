"""Logits for many texts, fast: batches sorted by length under a token budget, whatever engine runs the model.

A *runner* is any callable from named NumPy inputs (`input_ids`, `attention_mask`, ...) of shape `(batch_size, length)`
to logits of shape `(batch_size, num_labels)`. `torch_runner` makes one from a PyTorch model, `export.onnx_runner` one
from an ONNX file, so that everything measured of a model is measured by the same code.
"""

import inspect

import numpy as np
import torch
from tqdm.auto import tqdm

from distil_trainer.text import write_mask_token


def torch_runner(model, dtype=None):
    """Make a runner from a PyTorch classifier: evaluation mode, no gradients, only the inputs its `forward` names.

    Args:
        model (`PreTrainedModel`): a sequence classifier; put into evaluation mode, left on its device.
        dtype (`torch.dtype`, *optional*): run under autocast in this type. Logits are always returned as float32.

    Returns:
        `Callable[[dict[str, np.ndarray]], np.ndarray]`
    """
    names = set(inspect.signature(model.forward).parameters)
    model.eval()

    def run(inputs):
        tensors = {name: torch.from_numpy(array).to(model.device) for name, array in inputs.items() if name in names}
        with torch.inference_mode(), torch.autocast(model.device.type, dtype=dtype, enabled=dtype is not None):
            return model(**tensors).logits.float().cpu().numpy()

    return run


def predict_logits(
    runner, tokenizer, texts, text_pairs=None, *, max_length=128, tokens_per_batch=4096, progress=None
):
    """Compute logits for many texts, in their order.

    Args:
        runner (`Callable`): see the module's description.
        tokenizer (`PreTrainedTokenizerFast`): the model's tokenizer.
        texts (`list[str]` of length `n`): the mask word in them becomes the tokenizer's mask token.
        text_pairs (`list[str]` of length `n`, *optional*): second sentences.
        max_length (`int`, *optional*, defaults to 128): tokens kept, special tokens included.
        tokens_per_batch (`int`, *optional*, defaults to 4096): at most this many tokens, padding counted, in a batch.
        progress (`str`, *optional*): show a progress bar with this description.

    Returns:
        `np.ndarray` of shape `(n, num_labels)`, float32.

    Raises:
        ValueError: if `texts` is empty.
    """
    if not len(texts):
        raise ValueError("texts is empty: there is nothing to compute logits for.")
    texts = write_mask_token(list(texts), tokenizer)
    pairs = None if text_pairs is None else write_mask_token(list(text_pairs), tokenizer)
    encoded = tokenizer(texts, pairs, truncation=True, max_length=max_length)
    lengths = np.fromiter(map(len, encoded["input_ids"]), dtype=np.int64, count=len(texts))
    logits = None
    with tqdm(total=len(texts), desc=progress, unit=" texts", disable=progress is None) as bar:
        for rows in length_sorted_batches(lengths, tokens_per_batch):
            batch = tokenizer.pad({name: [values[row] for row in rows] for name, values in encoded.items()})
            batch_logits = runner({name: np.asarray(values, dtype=np.int64) for name, values in batch.items()})
            if logits is None:
                logits = np.empty((len(texts), batch_logits.shape[1]), dtype=np.float32)
            logits[rows] = batch_logits
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
