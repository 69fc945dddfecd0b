"""Tokenizers as they are timed: as a shipped folder runs its own, and with a fixed number of tokens."""


class ServedTokenizer:
    """The tokenizer of a shipped folder as its `classifier.py` runs it, called as one of transformers is.

    It takes about half the time of transformers' own, which counts where the model takes a tenth of a millisecond.

    Args:
        path (`str` or `os.PathLike`): a `tokenizer.json`.
        serving (`dict`): the part `serving` of the folder's report.
    """

    mask_token = unk_token = None  # served texts hold no mask word of ours

    def __init__(self, path, serving):
        from distil_trainer.runtime import load_tokenizer  # here, because it needs onnxruntime

        self._tokenizer = load_tokenizer(path, serving)
        self._has_types = "token_type_ids" in serving["padding"]
        self._truncation_side = serving["truncation_side"]
        self.model_max_length = serving["max_length"]
        self.padding_side = serving["padding_side"]
        self.pad_token_id = serving["padding"]["input_ids"]
        self.pad_token_type_id = serving["padding"].get("token_type_ids", 0)

    def __call__(self, texts, pairs=None, *, truncation, max_length):
        if isinstance(texts, str):
            encoded = self([texts], None if pairs is None else [pairs], truncation=truncation, max_length=max_length)
            return {name: values[0] for name, values in encoded.items()}
        if max_length != self._tokenizer.truncation["max_length"]:
            self._tokenizer.enable_truncation(max_length, direction=self._truncation_side)
        rows = self._tokenizer.encode_batch_fast(texts if pairs is None else list(zip(texts, pairs, strict=True)))
        encoded = {"input_ids": [row.ids for row in rows]}
        encoded["attention_mask"] = [[1] * len(ids) for ids in encoded["input_ids"]]
        if self._has_types:
            encoded["token_type_ids"] = [row.type_ids for row in rows]
        return encoded


class PaddedTokenizer:
    """A tokenizer that cuts or pads each text to one length, as published figures are often taken.

    Args:
        tokenizer (`Callable`): the tokenizer.
        pad_to (`int`): tokens of every text. Padding stands on the right, whatever the model is used to: that makes no
            difference to the time.
    """

    def __init__(self, tokenizer, pad_to):
        self._tokenizer = tokenizer
        self._cut_at = min(pad_to, tokenizer.model_max_length)
        self._padding = {"input_ids": tokenizer.pad_token_id, "token_type_ids": tokenizer.pad_token_type_id}
        self.model_max_length = pad_to

    def __call__(self, text, pair, *, truncation, max_length):
        encoded = self._tokenizer(text, pair, truncation=truncation, max_length=self._cut_at)
        missing = self.model_max_length - len(encoded["input_ids"])
        return {name: [*values, *[self._padding.get(name, 0)] * missing] for name, values in encoded.items()}
