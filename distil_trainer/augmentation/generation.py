"""Transfer sets that a language model writes: prefixes of the training texts, sampled texts, cleaned, without repeats.

Reference: Tang et al. 2019, "Natural Language Generation for Effective Knowledge Distillation",
https://aclanthology.org/D19-6122.
"""

import json
import logging
import math
from collections import Counter

import numpy as np
import xxhash
from tqdm.auto import tqdm

from distil_trainer.augmentation.audit import drop_duplicates_and_leaks, read_evaluation_texts
from distil_trainer.augmentation.decoding import sample_texts
from distil_trainer.augmentation.draws import uniform
from distil_trainer.augmentation.language_model import check_language_model, check_max_length, first_tokens
from distil_trainer.augmentation.near_duplicates import NEAR_THRESHOLD
from distil_trainer.augmentation.text_shards import TextShards
from distil_trainer.columns import check_columns_differ
from distil_trainer.processes import process_state
from distil_trainer.small_tokenizers.text_batches import text_batches
from distil_trainer.teacher_key import teacher_key

logger = logging.getLogger(__name__)

_SAMPLES_PER_SHARD = 2048
_LEAST_SHARE = 0.01
# Tokens are drawn at position 1 and later, so the draws of prefixes have this coordinate to themselves.
_PREFIX = 0


def first_token_counts(texts, tokenizer):
    """Count how often each token is the first one of a text: what generated texts begin with.

    Args:
        texts (`Iterable[str]`): the training texts; of pairs the first ones. Read once, in batches.
        tokenizer (`PreTrainedTokenizerFast`): the language model's tokenizer.

    Returns:
        `dict[int, int]`: count by token, in the tokens' order.

    Raises:
        TypeError: if something in `texts` is no string.
        ValueError: if no text has a token.
    """
    counts = Counter()
    for batch in text_batches(texts):
        encoded = tokenizer(batch, add_special_tokens=False, truncation=True, max_length=1)
        counts.update(tokens[0] for tokens in encoded.input_ids if tokens)
    if not counts:
        raise ValueError(
            "texts has no text with a token in it, so there is nothing that a new text could begin with: give the "
            "texts of the training split."
        )
    return dict(sorted(counts.items()))


def generate_transfer_set(
    model,
    tokenizer,
    token_counts,
    num_rows,
    folder,
    evaluation_texts=(),
    text_column="sentence",
    text_pair_column=None,
    max_length=128,
    temperature=1.0,
    top_k=None,
    top_p=1.0,
    batch_size=256,
    seed=0,
    near_threshold=NEAR_THRESHOLD,
):
    """Let a fine-tuned language model write a data set of new texts.

    Each text begins with a first token drawn as often as training texts have it, and the model writes on from there.
    A text is dropped, and counted, that

    - did not end within `max_length` tokens (`unfinished`);
    - is blank, holds a special token or broken characters, or is not two texts with one separator, where a pair is
      asked for (`malformed`);
    - stands in the evaluation data (`in_evaluation_data`, or as `drop_duplicates_and_leaks` names it), or was written
      before (`duplicates`).

    Texts are sampled in shards of 2,048, each written to `folder` when it is whole. The text with number `i` depends
    on the model, the settings and `(seed, i)` alone, and the first `num_rows` that are kept are the result: whatever
    the number of processes and wherever a run was cut off. A later call with the same settings and the same folder
    reads the shards that are there, also for more rows. (Another `batch_size` changes the last digits of the model's
    scores, and by that perhaps one text in 100,000.) Under `torchrun` or `accelerate launch` call it on every process
    with a folder that all of them see: they share the shards.

    Args:
        model (`PreTrainedModel`): a language model from `fine_tune_language_model`; put into evaluation mode, and onto
            the accelerator if there is one.
        tokenizer (`PreTrainedTokenizerFast`): its tokenizer.
        token_counts (`dict[int, int]`): from `first_token_counts`.
        num_rows (`int`): rows to be returned.
        folder (`str` or `Path`): keeps the shards; created when absent. The result is memory-mapped from it.
        evaluation_texts (`Iterable[str]`, *optional*): every text that models are selected or scored on, as
            `texts_of` reads them; tuples of two texts for pairs.
        text_column (`str`, *optional*, defaults to `"sentence"`): the column to write.
        text_pair_column (`str`, *optional*): the column of second texts; for a model fine-tuned on pairs.
        max_length (`int`, *optional*, defaults to 128): the most tokens of a text, its end token included.
        temperature (`float`, *optional*, defaults to 1.0): below 1 the texts are plainer, and repeat more often.
        top_k (`int`, *optional*): draw among the `k` likeliest tokens only. `None`, the paper's choice: among all.
        top_p (`float`, *optional*, defaults to 1.0): draw among the fewest tokens whose probabilities sum to this.
        batch_size (`int`, *optional*, defaults to 256): texts written at a time; an accelerator likes more.
        seed (`int`, *optional*, defaults to 0): the seed of all draws. The caller's random state is left as it was.
        near_threshold (`float`, *optional*, defaults to 0.6): as in `drop_duplicates_and_leaks`.

    Returns:
        `tuple[Dataset, dict[str, int]]`: `num_rows` rows with the text columns, `parent` (-1) and `operators`
        (`"generated"`), in the order of their numbers; and the counts `sampled`, `unfinished`, `malformed`, those of
        `drop_duplicates_and_leaks`, `surplus` (kept, and not needed) and `rows`, which sum up to `sampled`.

    Raises:
        OSError: if the folder cannot be written, or not all processes see it.
        TypeError: if the tokenizer is not a fast one, or the model cannot write texts.
        ValueError: if an argument is out of range, the tokenizer lacks an end token or a separator, the folder holds
            texts of another model or of other settings, or of a round of samples less than 1 % are new.

    Example:

    ```python
    counts = first_token_counts(train["sentence"], tokenizer)
    evaluation_texts = list(texts_of([validation], "sentence"))
    generated, facts = generate_transfer_set(model, tokenizer, counts, 100_000, "generated", evaluation_texts)
    transfer = concatenate_datasets([train.select_columns("sentence"), generated.select_columns("sentence")])
    ```

    Reference:
        As in the paper: prefixes, temperature 1, no top-k, no top-p. Departures: texts that did not end are dropped
        (its code writes them out, cut), and so are repeats and evaluation texts.
    """
    check_language_model(model, tokenizer)
    check_max_length(model, tokenizer, max_length)
    columns = [text_column] if text_pair_column is None else [text_column, text_pair_column]
    check_columns_differ(text_column=text_column, text_pair_column=text_pair_column)
    _check_separator(columns, tokenizer)
    _check_settings(token_counts, len(tokenizer), num_rows, temperature, top_k, top_p, batch_size)
    # Read now, so that what is wrong with them is found out before the first text is written.
    evaluation_texts = read_evaluation_texts(evaluation_texts, len(columns))
    evaluation_texts = list(zip(*(texts.to_pylist() for texts in evaluation_texts), strict=True))
    state = process_state()
    model.eval().to(state.device)
    sampling = {"max_length": max_length, "temperature": temperature, "top_k": top_k, "top_p": top_p, "seed": seed}
    settings = {
        "model": teacher_key(model, tokenizer, max_length=max_length, dtype=model.dtype, pairs=len(columns) == 2),
        "token_counts": xxhash.xxh3_64_hexdigest(json.dumps(sorted(token_counts.items())).encode()),
        "columns": columns,
        "samples_per_shard": _SAMPLES_PER_SHARD,
        **sampling,
    }
    shards = TextShards(folder, settings)

    first, end, kept_before = 0, 1, 0
    while True:
        mine = [shard for shard in range(first, end) if shard % state.num_processes == state.process_index]
        for shard in tqdm(mine, desc="Generating", unit=" shards", disable=not state.is_main_process):
            if not shards.has(shard):
                prefixes, rows = _draw_prefixes(tokenizer, token_counts, shard, seed)
                tokens = sample_texts(
                    model, prefixes, rows, end_token_id=tokenizer.eos_token_id, batch_size=batch_size, **sampling
                )
                shards.write(shard, *_clean(tokens, tokenizer, columns))
        state.wait_for_everyone()
        written, counts = shards.read(end)
        kept, audit = drop_duplicates_and_leaks(
            written, evaluation_texts, text_column, text_pair_column, near_threshold
        )
        dropped = {name: value for name, value in audit.items() if name not in ("rows_in", "rows_out")}
        counts |= dropped | {"surplus": max(0, len(kept) - num_rows), "rows": min(len(kept), num_rows)}
        if len(kept) >= num_rows:
            logger.info("Generated texts: %s", counts)
            return kept.select(range(num_rows)), counts
        new, sampled = len(kept) - kept_before, (end - first) * _SAMPLES_PER_SHARD
        if new < _LEAST_SHARE * sampled:
            raise ValueError(
                f"Of the last {sampled} sampled texts only {new} were kept, and {num_rows - len(kept)} of "
                f"num_rows={num_rows} rows are missing: the model would write for ever. All in all: {counts}. "
                "If most are unfinished, train the model longer, or raise max_length; if most are duplicates, it has "
                "written nearly all it can: ask for fewer rows, or raise temperature."
            )
        missing_shards = math.ceil((num_rows - len(kept)) / new * (end - first))
        first, end, kept_before = end, end + min(end, missing_shards), len(kept)


def _check_separator(columns, tokenizer):
    if len(columns) == 2 and tokenizer.sep_token_id is None:
        raise ValueError(
            f"text_pair_column={columns[1]!r}, but the tokenizer has no separator (sep_token is None), so the model "
            "cannot have learned where the second text begins: fine-tune it with "
            "`fine_tune_language_model(..., text_pair_column=...)`, which gives it one."
        )


def _check_settings(token_counts, vocab_size, num_rows, temperature, top_k, top_p, batch_size):
    for name, value, is_legal, legal in (
        ("num_rows", num_rows, num_rows >= 1, "at least 1"),
        ("batch_size", batch_size, batch_size >= 1, "at least 1"),
        ("temperature", temperature, temperature > 0, "above 0"),
        ("top_k", top_k, top_k is None or top_k >= 1, "at least 1, or None for all tokens"),
        ("top_p", top_p, 0 < top_p <= 1, "above 0 and at most 1"),
    ):
        if not is_legal:
            raise ValueError(f"{name}={value} must be {legal}.")
    if not token_counts or not all(0 <= token < vocab_size for token in token_counts):
        raise ValueError(
            f"token_counts has {len(token_counts)} tokens, the highest {max(token_counts, default=None)}; needed are "
            f"counts of tokens below {vocab_size}. Make them by `first_token_counts(texts, tokenizer)` with the "
            "tokenizer of this model: with another one, texts would begin with arbitrary tokens."
        )


def _draw_prefixes(tokenizer, token_counts, shard, seed):
    """Return what each text of a shard begins with (`list[list[int]]`), and the texts' numbers."""
    rows = np.arange(shard * _SAMPLES_PER_SHARD, (shard + 1) * _SAMPLES_PER_SHARD)
    tokens, counts = (np.array(values, np.int64) for values in zip(*sorted(token_counts.items()), strict=True))
    ends = np.cumsum(counts)
    chosen = tokens[np.searchsorted(ends, uniform(seed, rows, _PREFIX) * ends[-1])]
    head = first_tokens(tokenizer)
    return [[*head, token] for token in chosen.tolist()], rows


def _clean(token_lists, tokenizer, columns):
    """Turn sampled tokens into columns of texts; return them and the counts of what was sampled and dropped."""
    num_first = len(first_tokens(tokenizer))
    ended = [tokens[num_first:] for tokens in token_lists if tokens is not None]
    parts = [_split_at(tokens, tokenizer.sep_token_id) if len(columns) == 2 else [tokens] for tokens in ended]
    special = set(tokenizer.all_special_ids)
    parts = [row for row in parts if len(row) == len(columns) and all(map(special.isdisjoint, row))]
    # Decoding must undo encoding: "it 's" stays two words where the training texts have two.
    texts = [
        [text.strip() for text in tokenizer.batch_decode(list(column), clean_up_tokenization_spaces=False)]
        for column in zip(*parts, strict=True)
    ]
    rows = [row for row in zip(*texts, strict=True) if all(row) and not any("\ufffd" in text for text in row)]
    counts = {
        "sampled": len(token_lists),
        "unfinished": len(token_lists) - len(ended),
        "malformed": len(ended) - len(rows),
    }
    return {column: [row[index] for row in rows] for index, column in enumerate(columns)}, counts


def _split_at(tokens, separator):
    borders = [-1, *(place for place, token in enumerate(tokens) if token == separator), len(tokens)]
    return [tokens[start + 1 : end] for start, end in zip(borders, borders[1:], strict=False)]
