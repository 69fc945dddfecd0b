"""`prune_vocabulary`: a tokenizer and a model with the tokens that texts are made of, and no others.

TextPruner (Yang et al. 2022, https://arxiv.org/abs/2203.15996), section 3.1, prunes vocabularies so; here texts must
come out as the same tokens, which is checked on each of them.
"""

from itertools import compress

import numpy as np
import torch
from datasets import Dataset
from torch import nn
from tqdm.auto import tqdm

from distil_trainer.pruning.checks import check_tokenizer
from distil_trainer.pruning.kept_tokens import tokens_that_stay, words_of
from distil_trainer.pruning.smaller_tokenizer import make_smaller_tokenizer, tokenizer_json
from distil_trainer.pruning.surgery import plain_copy
from distil_trainer.students.encoder_layers import FAMILIES, PRUNED_PREFIX
from distil_trainer.text import write_mask_token

# Encoders whose configuration and weights know a vocabulary in one place only.
_MODEL_TYPES = (*FAMILIES, "xlm-roberta")
_TOKEN_NUMBERS = ("pad_token_id", "bos_token_id", "eos_token_id", "sep_token_id", "cls_token_id", "mask_token_id")
_TEXTS_PER_BATCH = 4096


def prune_vocabulary(model, tokenizer, texts):
    """Make a tokenizer and a model of the tokens in `texts`, the special and the added ones.

    The texts become the same tokens as before, so that the logits are the same too; other texts become shorter pieces,
    or unknown, where a token of theirs is gone. Give all texts at hand: training, transfer set, unlabelled.

    What stays besides keeps words as they were. In WordPiece the pieces that a word begins with before it turns out
    to be unknown; in BPE the pieces that a token is merged from, and all single bytes or characters where no unknown
    token stands for them; in unigram single bytes, and the token of the lowest score, which the cost of an unknown
    character is counted from.

    Args:
        model (`PreTrainedModel`): a classifier of the BERT, RoBERTa, XLM-RoBERTa, ELECTRA or DistilBERT family, pruned
            before or not; left as it is.
        tokenizer (`PreTrainedTokenizerFast`): its tokenizer: WordPiece, BPE, unigram or whole words; left as it is.
        texts (`Sequence[str]`): texts, such as a column of a `Dataset`; read twice, in batches. Of pairs both columns,
            one after the other.

    Returns:
        `tuple[PreTrainedModel, PreTrainedTokenizerFast]`: both new; token numbers keep their order. The model is in
        evaluation mode, on the same device.

    Raises:
        TypeError: if `texts` is one text, a `Dataset`, or holds something else than strings.
        ValueError: if the architecture or the kind of tokenizer is another, there are no texts, or the tokenizer is
            that of another model.
        RuntimeError: if a text would become other tokens than before; nothing is returned then.

    Example:

    ```python
    small_model, small_tokenizer = prune_vocabulary(model, tokenizer, train["sentence"])
    ```
    """
    check_vocabulary_can_be_pruned(model)
    _check_is_column(texts)
    described = tokenizer_json(tokenizer)
    _check_belongs(model, tokenizer)
    if not len(texts):
        raise ValueError("texts is empty: all tokens but the special ones would be cut, and every word unknown.")
    in_use, words = np.zeros(len(tokenizer), dtype=bool), set()
    for batch in _batches(texts, "Tokens in use"):
        ids = tokenizer(write_mask_token(batch, tokenizer), verbose=False)["input_ids"]
        in_use[np.unique(np.concatenate([np.asarray(row, dtype=np.int64) for row in ids]))] = True
        has_unknown = [tokenizer.unk_token_id in row for row in ids]
        words |= words_of(tokenizer.backend_tokenizer, compress(batch, has_unknown))
    if model.config.model_type.endswith("roberta"):  # counts positions from the number of its padding token
        in_use[: tokenizer.pad_token_id + 1] = True
    stay = tokens_that_stay(described, in_use, words)
    smaller = make_smaller_tokenizer(tokenizer, described, stay)
    _check_same_tokens(texts, tokenizer, smaller, stay)
    return _smaller_model(model, stay, smaller), smaller


def _check_is_column(texts):
    # A `Dataset` would be read as the names of its columns, and one text as its letters.
    if isinstance(texts, str | Dataset):
        raise TypeError(
            f"texts is a {type(texts).__name__}, where a list of texts or a column is needed, such as "
            "dataset['sentence']: the vocabulary would be cut to the letters of one text, or to the names of columns."
        )


def _check_are_strings(batch, first_row):
    if not all(issubclass(kind, str) for kind in set(map(type, batch))):
        row = next(row for row, text in enumerate(batch) if not isinstance(text, str))
        raise TypeError(
            f"texts[{first_row + row}] is {str(batch[row])[:60]!r}, a {type(batch[row]).__name__}: each must be a "
            "string, or the tokenizer reads it as something else (a tuple as a pair). Of pairs give both columns, one "
            "after the other, and leave missing texts out."
        )


def check_vocabulary_can_be_pruned(model):
    """Refuse a model of which it is not known where its vocabulary is used.

    Raises:
        ValueError: naming the families of which it is.
    """
    model_type = getattr(getattr(model, "config", None), "model_type", "")
    if model_type.removeprefix(PRUNED_PREFIX) not in _MODEL_TYPES:
        raise ValueError(
            f"model has model_type={model_type!r}. Where a vocabulary is used is known for {', '.join(_MODEL_TYPES)}: "
            "elsewhere it may be tied to an output layer or to other numbers, which would then mean other words."
        )


def _check_belongs(model, tokenizer):
    check_tokenizer(model, tokenizer)
    if model.config.pad_token_id is not None and model.config.pad_token_id != tokenizer.pad_token_id:
        raise ValueError(
            f"model.config.pad_token_id={model.config.pad_token_id}, tokenizer.pad_token_id={tokenizer.pad_token_id}: "
            "this is the tokenizer of another model, and the rows that are kept would be those of other words. Load "
            "both from one place (`load_classifier`)."
        )


def _batches(texts, description):
    with tqdm(total=len(texts), desc=description, unit=" texts") as bar:
        for start in range(0, len(texts), _TEXTS_PER_BATCH):
            batch = list(texts[start : start + _TEXTS_PER_BATCH])
            _check_are_strings(batch, start)
            yield batch
            bar.update(len(batch))


def _check_same_tokens(texts, tokenizer, smaller, stay):
    new_number = np.cumsum(stay) - 1
    for batch in _batches(texts, "Checking the tokens"):
        before = tokenizer(write_mask_token(batch, tokenizer), verbose=False)["input_ids"]
        after = smaller(write_mask_token(batch, smaller), verbose=False)["input_ids"]
        for text, old, new in zip(batch, before, after, strict=True):
            if len(old) != len(new) or not np.array_equal(new_number[old], new):
                raise RuntimeError(
                    f"The smaller tokenizer reads {text[:80]!r} as {smaller.convert_ids_to_tokens(new)[:20]}, where "
                    f"it was {tokenizer.convert_ids_to_tokens(old)[:20]}. Nothing was pruned, since the model would "
                    "answer otherwise: this kind of tokenizer does more than is known here. Please report it."
                )


def _smaller_model(model, stay, smaller):
    table = model.get_input_embeddings()
    copied = plain_copy(model, without=table)
    new_number = np.where(stay, np.cumsum(stay) - 1, -1)
    config = copied.config
    config.vocab_size = int(stay.sum())
    for name in _TOKEN_NUMBERS:
        number = getattr(config, name, None)
        if isinstance(number, int):
            renumbered = int(new_number[number]) if number < len(stay) else -1
            setattr(config, name, None if renumbered < 0 else renumbered)
    rows = nn.Embedding(config.vocab_size, table.embedding_dim, padding_idx=smaller.pad_token_id)
    kept = torch.from_numpy(np.flatnonzero(stay)).to(table.weight.device)
    rows.weight = nn.Parameter(table.weight.detach()[kept].to(torch.float32))
    copied.set_input_embeddings(rows)
    return copied.eval().requires_grad_(True)
