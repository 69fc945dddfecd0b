"""Many texts at once from a causal language model, each of them the same in whatever batch it is written."""

import contextlib

import numpy as np
import torch
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from distil_trainer.augmentation.draws import TokenDraws


def sample_texts(
    model, prefixes, rows, *, end_token_id, max_length, temperature=1.0, top_k=None, top_p=1.0, seed=0, batch_size=256
):
    """Let a model write on from each prefix until it writes its end token.

    Rows end at different lengths. A batch is left as soon as half of its rows have ended, and the others go on later
    together with rows of other batches that have come as far, so that few places of a batch are idle.

    The draw for a token is a function of `(seed, row number, position)`. So a row's text does not depend on the batch,
    but for the last digits of the model's scores: see `TokenDraws`. The random state of torch is not used.

    Args:
        model (`PreTrainedModel`): a causal language model, in evaluation mode.
        prefixes (`list[list[int]]` of length `n`): tokens to begin with, at least one.
        rows (`np.ndarray` of shape `(n,)`): row numbers, the key of the random draws; 0 or above.
        end_token_id (`int`): the token that ends a text.
        max_length (`int`): the most tokens of a row, prefix and end token included; more than any prefix has.
        temperature (`float`, *optional*, defaults to 1.0): what scores are divided by.
        top_k (`int`, *optional*): draw among the `k` likeliest tokens only. `None`: among all.
        top_p (`float`, *optional*, defaults to 1.0): draw among the fewest tokens whose probabilities sum to this.
        seed (`int`, *optional*, defaults to 0): the seed of all draws.
        batch_size (`int`, *optional*, defaults to 256): rows written at a time.

    Returns:
        `list[list[int] | None]` of length `n`: prefix and what follows, without the end token; `None` for a row that
        had not ended after `max_length` tokens.

    Raises:
        ValueError: if the model gives NaN scores.
    """
    warpers = LogitsProcessorList()
    if temperature != 1.0:
        warpers.append(TemperatureLogitsWarper(temperature))
    if top_k is not None:
        warpers.append(TopKLogitsWarper(top_k))
    if top_p < 1.0:
        warpers.append(TopPLogitsWarper(top_p))
    draws = TokenDraws(seed, model.get_output_embeddings().weight.shape[0], model.device)
    texts = [list(prefix) for prefix in prefixes]
    waiting, finished = list(range(len(texts))), set()
    with _neutral_generation_config(model, end_token_id) as config:
        while waiting:
            waiting.sort(key=lambda index: len(texts[index]))  # stable: the order of rows otherwise
            later = []
            for start in range(0, len(waiting), batch_size):
                batch = waiting[start : start + batch_size]
                written = _write(
                    model, [texts[index] for index in batch], rows[batch], config, warpers, draws, max_length
                )
                for index, tokens in zip(batch, written, strict=True):
                    texts[index].extend(tokens)
                    if texts[index][-1] == end_token_id:
                        finished.add(index)
                    elif len(texts[index]) < max_length:
                        later.append(index)
            waiting = later
    return [text[:-1] if index in finished else None for index, text in enumerate(texts)]


def _write(model, texts, rows, config, warpers, draws, max_length):
    """Return the tokens that follow each text (`list[list[int]]`): until its end, or the end of the batch."""
    lengths = np.array([len(text) for text in texts])
    width = lengths.max()
    padding = width - lengths
    input_ids = torch.full((len(texts), width), config.pad_token_id)
    for row, text in enumerate(texts):
        input_ids[row, padding[row] :] = torch.tensor(text)
    is_token = torch.arange(width) >= torch.from_numpy(padding)[:, None]
    config.max_new_tokens = int(max_length - width)
    output = model.generate(
        input_ids.to(model.device),
        attention_mask=is_token.long().to(model.device),
        generation_config=config,
        logits_processor=LogitsProcessorList([*warpers, _AddNoise(draws, rows, padding)]),
        stopping_criteria=StoppingCriteriaList([_HalfHaveEnded(width, config.eos_token_id)]),
    )
    new = output[:, width:].cpu().numpy()
    is_end = new == config.eos_token_id
    counts = np.where(is_end.any(axis=1), is_end.argmax(axis=1) + 1, new.shape[1])
    return [tokens[:count].tolist() for tokens, count in zip(new, counts, strict=True)]


class _AddNoise(LogitsProcessor):
    """Make the highest score a draw of the row's own.

    `generate(do_sample=True)` would draw all rows from one stream of random numbers, and no row would keep its text in
    another batch.
    """

    def __init__(self, draws, rows, padding):
        self._draws, self._rows, self._padding = draws, rows, padding

    def __call__(self, input_ids, scores):
        return self._draws.add_noise(scores, self._rows, input_ids.shape[1] - self._padding)


class _HalfHaveEnded(StoppingCriteria):
    def __init__(self, width, end_token_id):
        self._width, self._end_token_id = width, end_token_id

    def __call__(self, input_ids, scores, **kwargs):
        ended = (input_ids[:, self._width :] == self._end_token_id).any(dim=1)
        return torch.full_like(ended, bool(ended.sum() * 2 >= len(ended)))


@contextlib.contextmanager
def _neutral_generation_config(model, end_token_id):
    """Give the model a configuration that changes no score, in place of its own, which may punish repetition, say.

    `generate` takes from the model's own what the given one leaves open.
    """
    own = model.generation_config
    model.generation_config = GenerationConfig(
        do_sample=False, num_beams=1, use_cache=True, eos_token_id=end_token_id, pad_token_id=end_token_id
    )
    try:
        yield model.generation_config
    finally:
        model.generation_config = own
