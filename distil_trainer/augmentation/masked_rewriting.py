"""Rewriting by a masked language model: some words of a text masked, and all of them sampled at once.

Reference: Tang et al. 2019, "Natural Language Generation for Effective Knowledge Distillation",
https://aclanthology.org/D19-6122, whose code has it as "cbert"; Wu et al. 2018, "Conditional BERT Contextual
Augmentation", https://arxiv.org/abs/1812.06705.
"""

from typing import NamedTuple

import numpy as np
import pyarrow as pa
import torch
from datasets.utils._dill import pklregister
from torch.nn.utils.rnn import pad_sequence

from distil_trainer.augmentation.draws import TokenDraws, uniform
from distil_trainer.augmentation.maskable_words import find_words, read_vocabulary
from distil_trainer.columns import check_columns_differ
from distil_trainer.inference import forward_names
from distil_trainer.teacher_key import teacher_key
from distil_trainer.text import MASK_WORD, check_texts, write_mask_token

# Part of every fingerprint: raise it when the same settings give other rows, or `datasets` serves the old ones.
_VERSION = 1
_WORD_CHOICE, _TOKEN_DRAW = range(2)


class MaskedRewriter:
    """A callable for `Dataset.map` that follows each text with copies in which a masked language model chose words.

    Of each copy `share` of the words are masked, at least one, and each gets one token of the model's vocabulary that
    can stand in its place: one that begins a word where it did. The tokens are sampled at once, at temperature 1, from
    what the model expects at each mask. All else, white space included, stays as it was; so does what lies behind
    `max_length` tokens, and a `[MASK]` that is in the text.

    Each row gets the text columns; `parent` (`int64`), the row index of the text in the source; `operators`,
    `"original"` or `"masked_lm"`; and the label column if the data set has one: the gold label on originals, -1 on
    copies (a null where labels are not integers). The original comes first. Copies equal to it or to one another are
    left out, as the model often finds the word that was there.

    The draws are functions of `(seed, row index, copy, word)`. So a row's copies depend on the other rows of a batch
    only as its scores do, in their last digits, by way of padding: about one word in millions is another one.

    The model runs where it is. Leave `num_proc` out: on a CPU the model uses all cores by itself, and a process that
    is forked after torch has used several threads hangs.

    Args:
        model (`PreTrainedModel`): a masked language model; put into evaluation mode.
        tokenizer (`PreTrainedTokenizerFast`): its tokenizer.
        share (`float`, *optional*, defaults to 0.2): share of a text's words that are masked; of a pair, of the words
            of both texts together. Words are what the tokenizer begins with, before it cuts them into pieces.
        text_column (`str`, *optional*, defaults to `"sentence"`): the column to rewrite.
        text_pair_column (`str`, *optional*): the column of second texts, rewritten too. The model sees both at once.
        label_column (`str`, *optional*, defaults to `"label"`): the column of gold labels. May be absent.
        copies (`int`, *optional*, defaults to 1): how often each text is rewritten.
        max_length (`int`, *optional*, defaults to 128): tokens that the model reads of a row.
        tokens_per_batch (`int`, *optional*, defaults to 1024): tokens in a batch, padding counted. Each takes 4 bytes
            for each token of the vocabulary.
        seed (`int`, *optional*, defaults to 0): the seed of all draws. The caller's random state is left as it was.

    Raises:
        TypeError: if the tokenizer is not a fast one, or the model has no language modelling head.
        ValueError: if the tokenizer has no mask token, or belongs to another model, or an argument is out of range.

    Example:

    ```python
    model = AutoModelForMaskedLM.from_pretrained("bert-base-uncased", dtype=torch.float32)
    rewriter = MaskedRewriter(model, AutoTokenizer.from_pretrained("bert-base-uncased"), copies=4, seed=13)
    transfer = train.map(rewriter, batched=True, with_indices=True, remove_columns=train.column_names)
    ```
    """

    def __init__(
        self,
        model,
        tokenizer,
        share=0.2,
        text_column="sentence",
        text_pair_column=None,
        label_column="label",
        copies=1,
        max_length=128,
        tokens_per_batch=1024,
        seed=0,
    ):
        _check_model(model, tokenizer)
        if not 0 < share <= 1:
            raise ValueError(f"share={share} must be above 0 and at most 1: it is the share of words to rewrite.")
        for name, value in (("copies", copies), ("max_length", max_length), ("tokens_per_batch", tokens_per_batch)):
            if value < 1:
                raise ValueError(f"{name}={value} must be at least 1.")
        check_columns_differ(text_column=text_column, text_pair_column=text_pair_column)
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.share = share
        self.text_columns = [text_column] if text_pair_column is None else [text_column, text_pair_column]
        self.label_column = label_column
        self.copies = copies
        self.max_length = min(max_length, tokenizer.model_max_length)
        self.tokens_per_batch = tokens_per_batch
        self.seed = seed
        self._input_names = forward_names(model) & set(tokenizer.model_input_names)
        self._vocabulary = read_vocabulary(tokenizer, model.get_output_embeddings().weight.shape[0])

    def __call__(self, batch, indices=None):
        """Rewrite a batch.

        Args:
            batch (`dict[str, list]`): columns of `b` rows.
            indices (`list[int]` of length `b`): the row indices; `map` passes them with `with_indices=True`.

        Returns:
            `dict[str, list]` of the columns that the class describes, each row followed by its copies.

        Raises:
            TypeError: if `indices` is missing, or a column does not hold strings.
            ValueError: if a column is missing, a text is blank, or the model gives NaN scores.
        """
        if indices is None:
            raise TypeError(
                "MaskedRewriter was called without row indices, on which its random draws depend: use "
                "dataset.map(rewriter, batched=True, with_indices=True, remove_columns=dataset.column_names)."
            )
        texts = self._texts(batch, indices)
        rewritings = self._mask(texts, np.asarray(indices, np.int64))
        self._sample(rewritings)
        rows, parents, operators = [], [], []
        copies_of = [[] for _ in indices]
        for rewriting in rewritings:
            copies_of[rewriting.parent].append(self._write(texts, rewriting))
        for parent, originals in enumerate(zip(*(batch[column] for column in self.text_columns), strict=True)):
            distinct = dict.fromkeys([originals, *copies_of[parent]])
            rows += distinct
            parents += [parent] * len(distinct)
            operators += ["original"] + ["masked_lm"] * (len(distinct) - 1)
        columns = {column: [row[side] for row in rows] for side, column in enumerate(self.text_columns)}
        columns["parent"] = [indices[parent] for parent in parents]
        columns["operators"] = operators
        if self.label_column in batch:
            labels = list(batch[self.label_column])
            given = [label for label in labels if label is not None]
            none = -1 if given and all(isinstance(label, int | np.integer) for label in given) else None
            columns[self.label_column] = [
                labels[parent] if operator == "original" else none
                for parent, operator in zip(parents, operators, strict=True)
            ]
        return columns

    def _texts(self, batch, indices):
        texts = []
        for column in self.text_columns:
            if column not in batch:
                raise ValueError(
                    f"the data set has no column {column!r}; it has {sorted(batch)}. Give the right one as "
                    "text_column or text_pair_column."
                )
            check_texts(pa.array(batch[column]), source="dataset", column=column, first_row=indices[0])
            texts.append(write_mask_token(list(batch[column]), self.tokenizer))
        return texts

    def _mask(self, texts, indices):
        """Choose the words of each copy; return the copies with a mask for each of these words."""
        encoded = self.tokenizer(*texts, truncation=True, max_length=self.max_length, return_offsets_mapping=True)
        rewritings = []
        for parent, index in enumerate(indices.tolist()):
            inputs = {name: encoded[name][parent] for name in self._input_names}
            words = find_words(encoded, parent, [column[parent] for column in texts], self.tokenizer.mask_token_id)
            num_masked = max(1, round(self.share * len(words)))
            for copy in range(1, self.copies + 1 if words else 1):
                order = uniform(self.seed, index, copy, np.arange(len(words)), _WORD_CHOICE).argsort()
                chosen = np.sort(order[:num_masked])
                rewritings.append(
                    self._with_masks(inputs, parent, [words[word] for word in chosen], chosen, index, copy)
                )
        return rewritings

    def _with_masks(self, inputs, parent, words, word_numbers, index, copy):
        tokens = inputs["input_ids"]
        kept = np.ones(len(tokens), bool)
        for word in words:
            kept[word.first_token + 1 : word.last_token + 1] = False
        masks = [word.first_token for word in words]
        continues = [self._vocabulary.continues[tokens[mask]] for mask in masks]
        inputs = {name: np.array(values) for name, values in inputs.items()}
        inputs["input_ids"][masks] = self.tokenizer.mask_token_id
        return _Rewriting(
            parent=parent,
            words=words,
            inputs={name: values[kept] for name, values in inputs.items()},
            masks=(np.cumsum(kept) - 1)[masks],
            continues=np.array(continues),
            draws=(index, copy, word_numbers),
            tokens=[],
        )

    def _sample(self, rewritings):
        """Fill in the tokens of each copy, copies of similar length together."""
        draws = TokenDraws(self.seed, len(self._vocabulary.continues), self.model.device)
        forbidden = torch.from_numpy(self._vocabulary.forbidden).to(self.model.device)
        batch, width = [], 0
        for rewriting in [*sorted(rewritings, key=lambda rewriting: len(rewriting.inputs["input_ids"])), None]:
            if rewriting is not None:
                width = max(width, len(rewriting.inputs["input_ids"]))
            if batch and (rewriting is None or (len(batch) + 1) * width > self.tokens_per_batch):
                self._sample_batch(batch, draws, forbidden)
                batch = []
            batch.append(rewriting)

    @torch.inference_mode()
    def _sample_batch(self, batch, draws, forbidden):
        device, pad_token_id = self.model.device, self.tokenizer.pad_token_id or 0
        inputs = {
            name: pad_sequence(
                [torch.from_numpy(rewriting.inputs[name]) for rewriting in batch],
                batch_first=True,
                padding_value=pad_token_id if name == "input_ids" else 0,
            ).to(device)
            for name in batch[0].inputs
        }
        counts = [len(rewriting.masks) for rewriting in batch]
        rows = torch.arange(len(batch)).repeat_interleave(torch.tensor(counts))
        masks = torch.from_numpy(np.concatenate([rewriting.masks for rewriting in batch]))
        scores = self.model(**inputs).logits[rows.to(device), masks.to(device)].float()
        continues = torch.from_numpy(np.concatenate([rewriting.continues for rewriting in batch])).long().to(device)
        scores = scores.masked_fill(forbidden[continues], -torch.inf)
        index, copy, word = (np.concatenate(parts) for parts in zip(*map(_coordinates, batch), strict=True))
        tokens = draws.add_noise(scores, index, copy, word, _TOKEN_DRAW).argmax(dim=1).tolist()
        for rewriting, count in zip(batch, counts, strict=True):
            rewriting.tokens.extend(tokens[:count])
            del tokens[:count]

    def _write(self, texts, rewriting):
        """Return the copy's text, or texts, as a tuple."""
        written = []
        for side in range(len(texts)):
            text, pieces, end = texts[side][rewriting.parent], [], 0
            for word, token in zip(rewriting.words, rewriting.tokens, strict=True):
                if word.side == side:
                    pieces += [text[end : word.start], self._vocabulary.surfaces[token]]
                    end = word.end
            written.append("".join([*pieces, text[end:]]).replace(self.tokenizer.mask_token, MASK_WORD))
        return tuple(written)


class _Rewriting(NamedTuple):
    """A copy that is to be sampled.

    Attributes:
        parent (`int`): its row in the batch.
        words (`list[Word]`): the masked words.
        inputs (`dict[str, np.ndarray]`): what the model reads.
        masks (`np.ndarray`): the position of each word's mask.
        continues (`np.ndarray` of bool): whether the word stood right after something, without a space.
        draws (`tuple`): row index, copy, and the number of each word: the key of the draws.
        tokens (`list[int]`): a token for each word, filled in by sampling.
    """

    parent: int
    words: list
    inputs: dict
    masks: np.ndarray
    continues: np.ndarray
    draws: tuple
    tokens: list


def _check_model(model, tokenizer):
    if not tokenizer.is_fast:
        raise TypeError(
            f"tokenizer={type(tokenizer).__name__} is a slow one, which does not say where in a text a token stands: "
            "load it with `AutoTokenizer.from_pretrained`."
        )
    if model.get_output_embeddings() is None:
        raise TypeError(
            f"model is a {type(model).__name__}, which has no head that predicts words: load the checkpoint with "
            "`AutoModelForMaskedLM.from_pretrained`."
        )
    if tokenizer.mask_token_id is None:
        raise ValueError(
            "The tokenizer has no mask token (mask_token is None), so its model was not trained to fill in words: "
            'take a masked language model, such as "bert-base-uncased" or "roberta-base".'
        )
    rows = model.get_output_embeddings().weight.shape[0]
    if len(tokenizer) > rows:
        raise ValueError(
            f"The tokenizer has {len(tokenizer)} tokens, the model predicts {rows}: this is the tokenizer of another "
            "model, and words would be read as arbitrary others. Load both from one checkpoint."
        )


def _coordinates(rewriting):
    index, copy, words = rewriting.draws
    return np.full(len(words), index), np.full(len(words), copy), words


@pklregister(MaskedRewriter)
def _hash_by_fingerprint(pickler, rewriter):
    # `datasets` names cache files by pickling the mapped callable with this pickler, which would write out all
    # weights. Workers get the rewriter through another pickler, whole.
    model = teacher_key(
        rewriter.model,
        rewriter.tokenizer,
        max_length=rewriter.max_length,
        dtype=rewriter.model.dtype,
        pairs=len(rewriter.text_columns) == 2,
    )
    facts = [
        _VERSION,
        model,
        rewriter.share,
        rewriter.text_columns,
        rewriter.label_column,
        rewriter.copies,
        rewriter.seed,
    ]
    pickler.save_reduce(str, (repr(facts),), obj=rewriter)
