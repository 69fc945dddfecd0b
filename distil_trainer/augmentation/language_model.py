"""A causal language model, loaded and fine-tuned on the training texts, so that it writes more of their kind.

Reference: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners" (GPT-2); generated transfer sets
as in Tang et al. 2019, "Natural Language Generation for Effective Knowledge Distillation", aclanthology.org/D19-6122.
"""

import logging

import numpy as np
import pyarrow.compute as pc
import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    Trainer,
    TrainerCallback,
    set_seed,
)

from distil_trainer.columns import check_column, check_columns_differ, column_batches
from distil_trainer.sampler import EpochSampler
from distil_trainer.text import check_texts

logger = logging.getLogger(__name__)

_SEPARATOR = "<|sep|>"


def load_language_model(name_or_path="openai-community/gpt2", revision=None):
    """Load a causal language model, in float32, and its fast tokenizer.

    Args:
        name_or_path (`str` or `os.PathLike`, *optional*, defaults to `"openai-community/gpt2"`): a Hub id or a folder.
        revision (`str`, *optional*): branch, tag or commit on the Hub.

    Returns:
        `tuple[PreTrainedModel, PreTrainedTokenizerFast]`: the model in evaluation mode.

    Raises:
        OSError: if nothing can be loaded from `name_or_path`.
        TypeError, ValueError: if the model cannot write texts; see `check_language_model`.
    """
    tokenizer = AutoTokenizer.from_pretrained(name_or_path, revision=revision)
    model = AutoModelForCausalLM.from_pretrained(name_or_path, revision=revision, dtype=torch.float32)
    check_language_model(model, tokenizer)
    return model.eval(), tokenizer


def fine_tune_language_model(
    model,
    tokenizer,
    train_dataset,
    arguments,
    text_column="sentence",
    text_pair_column=None,
    max_length=128,
    eval_dataset=None,
    resume_from_checkpoint=None,
):
    """Fine-tune a causal language model on texts, so that it writes texts like them.

    A row is what the tokenizer begins every text with (nothing, for GPT-2), the text, and the end token. Of a pair it
    is the first text, the separator, the second text, the end token; the separator is the tokenizer's `sep_token`, and
    one that has none is given `<|sep|>` (the model a row of embeddings for it). A row longer than `max_length` is cut
    and has no end token: the model is not taught to end in the middle of a sentence.

    The loss is over all tokens, the end token included, and over no padding. The rows of a step are random ones,
    sorted by length: 4 accumulated batches of 16 have far less padding than one of 64 (set
    `gradient_accumulation_steps`).

    Args:
        model (`PreTrainedModel`): any causal language model of `transformers`; trained in place.
        tokenizer (`PreTrainedTokenizerFast`): its tokenizer; changed only where a separator is added.
        train_dataset (`Dataset`): texts. What will be evaluated on must not stand in them.
        arguments (`TrainingArguments`): how to train. For a pretrained GPT-2 the paper has `learning_rate=5e-5`,
            `weight_decay=1e-3`, batches of 48, 3 epochs, a tenth of the steps for warm-up.
        text_column (`str`, *optional*, defaults to `"sentence"`): the column of texts.
        text_pair_column (`str`, *optional*): the column of second texts.
        max_length (`int`, *optional*, defaults to 128): tokens kept of a row.
        eval_dataset (`Dataset`, *optional*): texts that the loss is measured on, with `eval_strategy` during training
            and always at its end.
        resume_from_checkpoint (`str` or `bool`, *optional*): as in `Trainer.train`.

    Returns:
        `tuple[PreTrainedModel, dict[str, float]]`: the model in evaluation mode, and `Trainer`'s metrics: `train_loss`
        and, with `eval_dataset`, `eval_loss`, in nats a token.

    Raises:
        TypeError: if the tokenizer is not a fast one, or a column does not hold strings.
        ValueError: if the tokenizer has no end token, a column is missing, a text is blank or holds the end token or
            the separator itself, or `max_length` is more than the model reads.

    Example:

    ```python
    model, tokenizer = load_language_model("openai-community/gpt2")
    arguments = TrainingArguments("language_model", learning_rate=5e-5, num_train_epochs=3)
    model, metrics = fine_tune_language_model(model, tokenizer, train, arguments)
    ```

    Reference:
        The paper's code cuts each text at a random place and tokenizes the halves apart; here texts are tokenized
        as they are, since generation begins with a whole token. It steps its schedule before the optimizer;
        `Trainer` does not.
    """
    check_language_model(model, tokenizer)
    check_max_length(model, tokenizer, max_length)
    columns = [text_column] if text_pair_column is None else [text_column, text_pair_column]
    for name, dataset in (("train_dataset", train_dataset), ("eval_dataset", eval_dataset)):
        if dataset is not None:
            _check_rows(dataset, columns, name, tokenizer)
    if text_pair_column is not None:
        _add_separator(model, tokenizer, arguments.seed)
    train_rows = _encode(train_dataset, tokenizer, columns, max_length)
    trainer = _LanguageModelTrainer(
        model,
        arguments,
        data_collator=_Collator(tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id),
        train_dataset=train_rows,
        eval_dataset=None if eval_dataset is None else _encode(eval_dataset, tokenizer, columns, max_length),
        processing_class=tokenizer,
    )
    trainer.add_callback(_TellEpoch(trainer))
    metrics = trainer.train(resume_from_checkpoint=resume_from_checkpoint).metrics
    if eval_dataset is not None:
        metrics |= trainer.evaluate()
    return trainer.model.eval(), metrics


def check_language_model(model, tokenizer):
    """Refuse a model that cannot learn where a text ends, or cannot write at all.

    Args:
        model (`PreTrainedModel`): a causal language model.
        tokenizer (`PreTrainedTokenizerBase`): its tokenizer.

    Raises:
        TypeError: if the tokenizer is not a fast one, or the model has no language modelling head.
        ValueError: if the tokenizer has no end token, or tokens that the model has no embeddings for.
    """
    if not tokenizer.is_fast:
        raise TypeError(
            f"tokenizer={type(tokenizer).__name__} is a slow one, and so would be the work: load it with "
            "`AutoTokenizer.from_pretrained`."
        )
    if not model.can_generate():
        raise TypeError(
            f"model is a {type(model).__name__}, which has no head to write texts with: load the checkpoint with "
            "`AutoModelForCausalLM.from_pretrained`."
        )
    if tokenizer.eos_token_id is None:
        raise ValueError(
            "The tokenizer has no end token (eos_token is None), so the model could not learn where a text ends: all "
            "texts would run on to the length limit and be thrown away. Give it one: "
            '`tokenizer.add_special_tokens({"eos_token": "<|endoftext|>"})`, then '
            "`model.resize_token_embeddings(len(tokenizer))`."
        )
    rows = model.get_input_embeddings().num_embeddings
    if len(tokenizer) > rows:
        raise ValueError(
            f"The tokenizer has {len(tokenizer)} tokens and the model embeddings for {rows}: some token numbers would "
            "fall outside of the table. If tokens were added, call `model.resize_token_embeddings(len(tokenizer))`; "
            "else this is the tokenizer of another model."
        )


def check_max_length(model, tokenizer, max_length):
    """Refuse a length that leaves no room for a text, or that the model has no positions for.

    Raises:
        ValueError: if `max_length` is out of range.
    """
    shortest = len(first_tokens(tokenizer)) + 2
    longest = getattr(model.config, "max_position_embeddings", None)  # absent where positions are relative
    if max_length < shortest or (longest is not None and max_length > longest):
        raise ValueError(
            f"max_length={max_length} must be at least {shortest}: a token of text, and the end token"
            + (f"; and at most {longest}, the positions that the model has." if longest is not None else ".")
        )


def first_tokens(tokenizer):
    """Return what the tokenizer puts before every text (`list[int]`): nothing for GPT-2, `<s>` for Llama."""
    encoded = tokenizer("a", return_special_tokens_mask=True)
    num_special = [*encoded.special_tokens_mask, 0].index(0)
    return encoded.input_ids[:num_special]


class _LanguageModelTrainer(Trainer):
    """`Trainer` that sorts the rows of a step by length, so that batches accumulated into it are padded less."""

    sampler = None

    def _get_train_sampler(self, train_dataset=None):
        args, rows = self.args, self.train_dataset if train_dataset is None else train_dataset
        lengths = [pc.list_value_length(values).to_numpy() for _, values in column_batches(rows, "input_ids")]
        self.sampler = _SortedSteps(
            len(rows),
            seed=args.seed if args.data_seed is None else args.data_seed,
            lengths=np.concatenate(lengths),
            rows_per_step=args.train_batch_size * args.world_size * args.gradient_accumulation_steps,
        )
        return self.sampler


class _SortedSteps(EpochSampler):
    """Steps of random rows.

    Steps of similar rows, which `EpochSampler` makes, are for losses that are means over rows. This one is a mean over
    the tokens of a step: a token of a short row would count more than one of a long row, its end token above all, and
    the model would write texts that are too short (of 6.7 words for 9.4, on SST-2).
    """

    def _group_by_length(self, order, generator):
        starts = range(0, self.num_rows, self.rows_per_step)
        steps = [order[start : start + self.rows_per_step] for start in starts]
        return np.concatenate([rows[np.argsort(-self.lengths[rows], kind="stable")] for rows in steps])


class _TellEpoch(TrainerCallback):
    # transformers 5 skips the rows that a resumed run has seen before it tells the sampler the epoch.
    def __init__(self, trainer):
        self._trainer = trainer

    def on_epoch_begin(self, args, state, control, **kwargs):
        self._trainer.sampler.set_epoch(int(state.epoch or 0))


class _Collator:
    """Pad rows on the right. Labels tell padding from the end token by its place, as they may be the same token."""

    def __init__(self, pad_token_id):
        self._pad_token_id = pad_token_id

    def __call__(self, rows):
        input_ids = pad_sequence(
            [torch.tensor(row["input_ids"]) for row in rows], batch_first=True, padding_value=self._pad_token_id
        )
        lengths = torch.tensor([len(row["input_ids"]) for row in rows])
        is_token = torch.arange(input_ids.shape[1]) < lengths[:, None]
        return {
            "input_ids": input_ids,
            "attention_mask": is_token.long(),
            "labels": input_ids.masked_fill(~is_token, -100),
        }


def _check_rows(dataset, columns, name, tokenizer):
    check_columns_differ(**dict(zip(("text_column", "text_pair_column"), columns, strict=False)))
    for column, argument in zip(columns, ("text_column", "text_pair_column"), strict=False):
        check_column(dataset, column, name, argument)
        for first_row, texts in column_batches(dataset, column):
            check_texts(texts, source=name, column=column, first_row=first_row)
            for token in (tokenizer.eos_token, tokenizer.sep_token or _SEPARATOR):
                row = pc.index(pc.match_substring(texts, token), True).as_py()
                if row >= 0:
                    raise ValueError(
                        f"{name}: row {first_row + row}, column {column!r}, holds {token!r}, which the tokenizer "
                        "reads as the end of a text or the border of a pair. The model would learn to end there. "
                        "Remove the row, or the token from its text."
                    )


def _add_separator(model, tokenizer, seed):
    if tokenizer.sep_token_id is None:
        tokenizer.add_special_tokens({"sep_token": _SEPARATOR})
    if len(tokenizer) > model.get_input_embeddings().num_embeddings:
        set_seed(seed)  # the new row is random
        model.resize_token_embeddings(len(tokenizer))


def _encode(dataset, tokenizer, columns, max_length):
    """Return a `Dataset` with the one column `input_ids`."""
    head = first_tokens(tokenizer)
    encoded = dataset.select_columns(columns).map(
        _encode_batch,
        batched=True,
        fn_kwargs={"tokenizer": tokenizer, "columns": columns, "head": head, "max_length": max_length},
        remove_columns=columns,
        desc="Tokenizing",
    )
    num_cut = 0
    for _, rows in column_batches(encoded, "input_ids"):
        last = np.cumsum(pc.list_value_length(rows).to_numpy()) - 1
        num_cut += int((rows.flatten().to_numpy()[last] != tokenizer.eos_token_id).sum())
    if num_cut:
        logger.info("%d of %d rows are longer than max_length=%d and were cut.", num_cut, len(encoded), max_length)
    return encoded


def _encode_batch(batch, tokenizer, columns, head, max_length):
    parts = [
        tokenizer(batch[column], add_special_tokens=False, truncation=True, max_length=max_length).input_ids
        for column in columns
    ]
    joint, end = [tokenizer.sep_token_id], [tokenizer.eos_token_id]
    if len(columns) == 2:
        parts = [[first + joint + second for first, second in zip(*parts, strict=True)]]
    return {"input_ids": [(head + row + end)[:max_length] for row in parts[0]]}
