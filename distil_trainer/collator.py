"""Batches for training and evaluation: inputs padded to the longest row, teacher logits and labels stacked."""

import numpy as np
import torch

from distil_trainer.labels import UNLABELLED


class DistillationCollator:
    """Pad the token columns of tokenized rows and stack what is one value, or one vector, a row.

    Reads `input_ids`, `attention_mask` (made from the lengths where it is absent), `token_type_ids`, `teacher_logits`
    and `labels` (or `label`), as far as the first row has them, and nothing else. Padding goes to the tokenizer's
    side.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): the student's tokenizer; it needs a padding token.

    Raises:
        ValueError: if the tokenizer has no padding token.
    """

    def __init__(self, tokenizer):
        if tokenizer.pad_token_id is None:
            raise ValueError(
                f"The tokenizer {tokenizer.name_or_path!r} has no padding token, so rows of unequal length cannot "
                "share a batch. Set `tokenizer.pad_token` to a token of its vocabulary."
            )
        self._padding = {
            "input_ids": tokenizer.pad_token_id,
            "attention_mask": 0,
            "token_type_ids": tokenizer.pad_token_type_id,
        }
        self._pad_left = tokenizer.padding_side == "left"

    def __call__(self, rows):
        """Make one batch.

        Args:
            rows (`list[dict]` of length `batch_size`): tokenized rows; a label of `None`, -1 or -100 means unlabelled.

        Returns:
            `dict[str, torch.Tensor]`: token columns as int64 of shape `(batch_size, longest_row)`, `teacher_logits` as
            float32 of shape `(batch_size, num_labels)`, `labels` as int64 of shape `(batch_size,)`, -100 where
            unlabelled.
        """
        lengths = [len(row["input_ids"]) for row in rows]
        shape = (len(rows), max(lengths))
        batch = {}
        for name, padding in self._padding.items():
            if name not in rows[0] and name != "attention_mask":
                continue
            values = np.full(shape, padding, dtype=np.int64)
            for index, (row, length) in enumerate(zip(rows, lengths, strict=True)):
                place = slice(shape[1] - length, None) if self._pad_left else slice(length)
                values[index, place] = row.get(name, 1)
            batch[name] = torch.from_numpy(values)
        if "teacher_logits" in rows[0]:
            logits = np.asarray([row["teacher_logits"] for row in rows], dtype=np.float32)
            batch["teacher_logits"] = torch.from_numpy(logits)
        for name in ("labels", "label"):
            if name in rows[0]:
                labels = [-100 if row[name] in UNLABELLED else row[name] for row in rows]
                batch["labels"] = torch.tensor(labels, dtype=torch.int64)
                break
        return batch
