"""The tokenizer of a SentencePiece file (`.model`), as a fast tokenizer with the same segmentation.

The file is a protocol buffer. Its few fields that matter are read here, since the `sentencepiece` library says neither
what kind of model a file holds nor how it normalizes, and its module that does needs `protobuf`.
"""

import os
import struct
from pathlib import Path
from typing import NamedTuple

import sentencepiece
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from distil_trainer.small_tokenizers.words import fast_tokenizer

# https://github.com/google/sentencepiece/blob/master/src/sentencepiece_model.proto
_UNIGRAM, _BPE = 1, 2
_CONTROL, _USER_DEFINED, _BYTE = 3, 4, 6
# What files call the tokens that models need, the commonest name first.
_NAMES = {
    "pad_token": ("<pad>", "[PAD]"),
    "cls_token": ("[CLS]", "<cls>", "<s>"),
    "sep_token": ("[SEP]", "<sep>", "</s>"),
    "mask_token": ("[MASK]", "<mask>"),
}
_APPENDED = {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}


def sentencepiece_tokenizer(path, *, pairs=False, model_max_length=512):
    """Read a SentencePiece file, unigram or BPE, and keep its segmentation, normalization and token numbers.

    A text begins with the token for that (`[CLS]`, or the file's own: `<cls>`, `<s>`), and so does the second text of
    a pair. Special tokens that the file lacks are appended. Two things differ from SentencePiece: spaces beside
    symbols that its user defined make no token of their own, and where a unigram model can cut a run of one character
    in several ways of equal score (`!!!` `!` or `!` `!!!`), another one may be chosen.

    Args:
        path (`str` or `os.PathLike`): the file, of any name.
        pairs (`bool`, *optional*, defaults to `False`): for models that read pairs of texts: `token_type_ids` tell
            them apart.
        model_max_length (`int`, *optional*, defaults to 512): tokens kept where a text is truncated.

    Returns:
        `PreTrainedTokenizerFast`. Its `pad_token_id` is the file's, so seldom 0: tell the student's configuration.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no SentencePiece file, or has words or characters as its pieces, or marks spaces in
            another way than by `▁` before a word.

    Reference:
        Kudo and Richardson 2018, https://arxiv.org/abs/1808.06226.
    """
    model = _read_model(path)
    tokens = {
        role: next((name for name in names if name in model.symbols), _APPENDED[role])
        for role, names in _NAMES.items()
    }
    pieces = [piece for piece, _ in model.pieces]
    byte_fallback = _BYTE in model.kinds
    if model.algorithm == _UNIGRAM:
        backend = Tokenizer(models.Unigram(model.pieces, unk_id=model.unknown_id, byte_fallback=byte_fallback))
    else:
        vocabulary = {piece: number for number, piece in enumerate(pieces)}
        backend = Tokenizer(
            models.BPE(
                vocabulary,
                _merges(model),
                unk_token=pieces[model.unknown_id],
                fuse_unk=True,
                byte_fallback=byte_fallback,
            )
        )
    backend.normalizer = _normalizer(model)
    # Where a piece spans words, they cannot be segmented one by one.
    spans_words = any("▁" in piece[1:] for piece in pieces)
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never", split=not spans_words)
    metaspace = decoders.Metaspace(prepend_scheme="always" if model.adds_prefix else "never")
    join_bytes = [decoders.ByteFallback(), decoders.Fuse()] if byte_fallback else []
    backend.decoder = decoders.Sequence([metaspace, *join_bytes])
    backend.add_tokens(
        [AddedToken(symbol, normalized=False, special=special) for symbol, special in model.symbols.items()]
    )
    mask = AddedToken(tokens["mask_token"], lstrip=True, normalized=False, special=True)
    backend.add_special_tokens([tokens["pad_token"], tokens["cls_token"], tokens["sep_token"], mask])
    return fast_tokenizer(
        backend,
        pairs=pairs,
        model_max_length=model_max_length,
        unk_token=pieces[model.unknown_id],
        **(tokens | {"mask_token": mask}),
    )


class _Model(NamedTuple):
    pieces: list  # of (piece, score), by number
    kinds: set  # which kinds of pieces there are
    symbols: dict  # pieces that are never cut, and whether they are special
    unknown_id: int
    algorithm: int
    rules: bytes  # of normalization, compiled
    rules_name: str
    adds_prefix: bool
    squeezes_spaces: bool


def _read_model(path):
    path = Path(os.fspath(path))
    if not path.is_file():
        raise FileNotFoundError(
            f"path={str(path)!r} is not a file. Give the .model file that SentencePiece's trainer wrote."
        )
    proto = path.read_bytes()
    try:
        processor = sentencepiece.SentencePieceProcessor(model_proto=proto)
    except RuntimeError as error:
        raise ValueError(
            f"path={str(path)!r} is not a SentencePiece file. Give the .model file that its trainer wrote, not the "
            ".vocab file beside it."
        ) from error
    pieces, kinds, symbols, trainer, normalization = [], set(), {}, {}, {}
    for field, value in _fields(proto):
        if field == 1:
            piece = dict(_fields(value))
            text, kind = piece[1].decode(), piece.get(3, 1)
            kinds.add(kind)
            pieces.append((text, struct.unpack("<f", piece.get(2, bytes(4)))[0]))
            if kind in (_CONTROL, _USER_DEFINED):
                symbols[text] = kind == _CONTROL
        elif field == 2:
            trainer = dict(_fields(value))
        elif field == 3:
            normalization = dict(_fields(value))
    algorithm = trainer.get(3, _UNIGRAM)
    if algorithm not in (_UNIGRAM, _BPE):
        raise ValueError(
            f"path={str(path)!r} was trained with model_type={('word', 'char')[algorithm - 3]!r}, whose pieces fast "
            "tokenizers cannot segment. Train it with unigram or bpe; for whole words take word_level_tokenizer."
        )
    if trainer.get(24, 0) or not normalization.get(5, 1):
        raise ValueError(
            f"path={str(path)!r} was trained with treat_whitespace_as_suffix=true or escape_whitespaces=false: its "
            "pieces would be cut in other places than SentencePiece cuts them. Train it without."
        )
    return _Model(
        pieces=pieces,
        kinds=kinds,
        symbols=symbols,
        unknown_id=processor.unk_id(),
        algorithm=algorithm,
        rules=normalization.get(2, b""),
        rules_name=normalization.get(1, b"").decode(),
        adds_prefix=bool(normalization.get(3, 1)),
        squeezes_spaces=bool(normalization.get(4, 1)),
    )


def _normalizer(model):
    steps = []
    if model.rules:
        # The compiled rules are applied to one letter at a time here. They would leave apart what SentencePiece
        # composes of several (Korean), and lose the second of two accents: so letters are composed before and after.
        compose = [normalizers.NFC()] if "nfkc" in model.rules_name else []
        steps += [*compose, normalizers.Precompiled(model.rules), *compose]
    if model.squeezes_spaces:
        steps += [normalizers.Replace(Regex(" {2,}"), " "), normalizers.Replace(Regex("^ | $"), "")]
    if model.adds_prefix:
        steps.append(normalizers.Prepend("▁"))
    return normalizers.Sequence([*steps, normalizers.Replace(" ", "▁")])


def _merges(model):
    """List the pairs of pieces that BPE joins, best first: those whose join is a piece, by its score."""
    number = {piece: index for index, (piece, _) in enumerate(model.pieces)}
    merges = []
    for piece, score in model.pieces:
        if piece not in model.symbols:
            for cut in range(1, len(piece)):
                left, right = piece[:cut], piece[cut:]
                if left in number and right in number:
                    merges.append((-score, number[piece], cut, (left, right)))
    return [pair for *_, pair in sorted(merges)]


def _fields(message):
    """Yield the fields of a protocol buffer as numbers and values: `int`, or `bytes` where it is of another type."""
    position = 0
    while position < len(message):
        key, position = _varint(message, position)
        wire_type = key & 7
        if wire_type == 0:
            value, position = _varint(message, position)
        else:
            if wire_type == 2:
                length, position = _varint(message, position)
            else:
                length = {1: 8, 5: 4}[wire_type]
            value, position = message[position : position + length], position + length
        yield key >> 3, value


def _varint(message, position):
    value = shift = 0
    while True:
        byte = message[position]
        value |= (byte & 127) << shift
        position, shift = position + 1, shift + 7
        if byte < 128:
            return value, position
