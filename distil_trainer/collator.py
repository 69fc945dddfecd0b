"""Batches for training and evaluation: inputs padded to the longest row, teacher logits and labels stacked."""

import numpy as np
import torch

from distil_trainer.labels import UNLABELLED


class DistillationCollator:
    """Pad the token columns of tokenized rows and stack what is one value, or one vector, a row.

    Reads `input_ids`, `attention_mask` (made from the lengths where it is absent), `token_type_ids`, `word_ids`,
    `teacher_logits` and `labels` (or `label`), as far as the first row has them, and nothing else. With a teacher
    tokenizer it reads the teacher's own `teacher_input_ids`, `teacher_attention_mask`, `teacher_token_type_ids` and
    `teacher_word_ids` in the same way.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): the student's tokenizer; it needs a padding token.
        teacher_tokenizer (`PreTrainedTokenizerBase`, *optional*): the tokenizer of a teacher that reads tokens of its
            own; it needs a padding token too.
        padding_side (`str`, *optional*): `"left"` or `"right"`, for the student's tokens. Default: the tokenizer's.
        teacher_padding_side (`str`, *optional*): the same for the teacher's tokens.

    Raises:
        ValueError: if a tokenizer has no padding token.
    """

    def __init__(self, tokenizer, teacher_tokenizer=None, *, padding_side=None, teacher_padding_side=None):
        self._sides = {"": _paddings(tokenizer, "student", padding_side)}
        if teacher_tokenizer is not None:
            self._sides["teacher_"] = _paddings(teacher_tokenizer, "teacher", teacher_padding_side)

    def __call__(self, rows):
        """Make one batch.

        Args:
            rows (`list[dict]` of length `batch_size`): tokenized rows. Labels are integers, where `None`, -1 or -100
                means unlabelled; or floats, or lists of numbers, where NaN means unlabelled (`read_labels` writes it).

        Returns:
            `dict[str, torch.Tensor]`: token columns as int64 of shape `(batch_size, longest_row)`, word numbers padded
            with -1, `teacher_logits` as float32 of shape `(batch_size, num_labels)`; `labels` as int64 of shape
            `(batch_size,)`, -100 where unlabelled, or as float32 of shape `(batch_size,)` or `(batch_size,
            num_labels)`, NaN where unlabelled.
        """
        batch = {}
        for prefix, (paddings, pads_left) in self._sides.items():
            if f"{prefix}input_ids" in rows[0]:
                batch.update(_pad(rows, prefix, paddings, pads_left))
        if "teacher_logits" in rows[0]:
            logits = np.asarray([row["teacher_logits"] for row in rows], dtype=np.float32)
            batch["teacher_logits"] = torch.from_numpy(logits)
        for name in ("labels", "label"):
            if name in rows[0]:
                batch["labels"] = _stack_labels([row[name] for row in rows])
                break
        return batch


def _paddings(tokenizer, whose, padding_side):
    if tokenizer.pad_token_id is None:
        raise ValueError(
            f"The {whose}'s tokenizer {tokenizer.name_or_path!r} has no padding token, so rows of unequal length "
            "cannot share a batch. Set `tokenizer.pad_token` to a token of its vocabulary, and `config.pad_token_id` "
            "of its model with it."
        )
    paddings = {
        "input_ids": tokenizer.pad_token_id,
        "attention_mask": 0,
        "token_type_ids": tokenizer.pad_token_type_id,
        "word_ids": -1,
    }
    return paddings, (padding_side or tokenizer.padding_side) == "left"


def _pad(rows, prefix, paddings, pads_left):
    lengths = [len(row[f"{prefix}input_ids"]) for row in rows]
    shape = (len(rows), max(lengths))
    batch = {}
    for name, padding in paddings.items():
        column = prefix + name
        if column not in rows[0] and name != "attention_mask":
            continue
        values = np.full(shape, padding, dtype=np.int64)
        for index, (row, length) in enumerate(zip(rows, lengths, strict=True)):
            place = slice(shape[1] - length, None) if pads_left else slice(length)
            values[index, place] = row.get(column, 1)
        batch[column] = torch.from_numpy(values)
    return batch


def _stack_labels(labels):
    if any(isinstance(label, float | list) for label in labels):
        return torch.from_numpy(np.asarray(labels, dtype=np.float32))
    return torch.tensor([-100 if label in UNLABELLED else label for label in labels], dtype=torch.int64)
