"""Tokenizers of pieces of words, trained on the texts: WordPiece, byte-pair encoding, unigram."""

import io
from collections import Counter

import sentencepiece
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from distil_trainer.small_tokenizers.text_batches import training_batches
from distil_trainer.small_tokenizers.words import (
    SPECIAL_TOKENS,
    check_words,
    fast_tokenizer,
    normalizer,
    word_splitter,
)

_SMALLEST_SIZE = 16
# Korean has 2,000 syllables and more in use. Rare ones become unknown, and leave room for pieces.
_LARGEST_ALPHABET = 1500
_MIN_FREQUENCY = 2
_WORDS_PER_LINE = 1000


def train_tokenizer(
    texts,
    kind,
    *,
    vocab_size,
    min_frequency=_MIN_FREQUENCY,
    lower=True,
    pairs=False,
    model_max_length=512,
):
    """Train a tokenizer of pieces of words. The same texts give the same tokenizer.

    Texts are normalized and cut into words as by [`word_level_tokenizer`], and no piece is larger than a word. At most
    1,500 characters are kept (fewer where they would fill the vocabulary), by frequency; others are unknown.
    Lower-casing is part of the saved tokenizer.

    Args:
        texts (`Iterable[str]`): texts to train on; read once, in batches.
        kind (`str`): `"wordpiece"` (pieces within a word begin with `##`), `"bpe"` or `"unigram"` (pieces that begin a
            word begin with `▁`).
        vocab_size (`int`): tokens at most, the 5 special ones included; at least 16.
        min_frequency (`int`, *optional*, defaults to 2): WordPiece and BPE join no rarer pair. Unigram does not count
            pairs, and takes no other value.
        lower (`bool`, *optional*, defaults to `True`): lower-case texts, in training and ever after.
        pairs (`bool`, *optional*, defaults to `False`): for models that read pairs of texts: `token_type_ids` tell
            them apart.
        model_max_length (`int`, *optional*, defaults to 512): tokens kept where a text is truncated.

    Returns:
        `PreTrainedTokenizerFast` with `[PAD]`=0, `[UNK]`=1, `[CLS]`=2, `[SEP]`=3, `[MASK]`=4.

    Raises:
        TypeError: if something in `texts` is no string.
        ValueError: if the texts hold no words, or an argument is out of range.

    Reference:
        Sennrich et al. 2016, https://arxiv.org/abs/1508.07909 (BPE); Kudo 2018, https://arxiv.org/abs/1804.10959
        (unigram). WordPiece is trained as BPE is, with `##`, as in the `tokenizers` library.
    """
    if kind not in ("wordpiece", "bpe", "unigram"):
        raise ValueError(f"kind={kind!r} must be wordpiece, bpe or unigram.")
    if vocab_size < _SMALLEST_SIZE:
        raise ValueError(
            f"vocab_size={vocab_size} must be at least {_SMALLEST_SIZE}: it counts the {len(SPECIAL_TOKENS)} special "
            "tokens and the letters too."
        )
    if min_frequency < 1:
        raise ValueError(f"min_frequency={min_frequency} must be at least 1.")
    if kind == "unigram" and min_frequency != _MIN_FREQUENCY:
        raise ValueError(
            f"min_frequency={min_frequency} with kind='unigram', which counts no pairs: it would be ignored. Leave it "
            "out, or choose wordpiece or bpe."
        )
    counts = _with_frequent_characters(_count_words(texts, lower), vocab_size)
    if kind == "wordpiece":
        model = models.WordPiece(_wordpiece_vocabulary(counts, vocab_size, min_frequency), unk_token="[UNK]")
    elif kind == "bpe":
        model = _train_bpe(counts, vocab_size, min_frequency)
    else:
        model = _train_unigram(counts, vocab_size)
    backend = Tokenizer(model)
    backend.normalizer = normalizer(lower)
    if kind == "wordpiece":
        backend.pre_tokenizer, backend.decoder = word_splitter(), decoders.WordPiece()
    else:
        backend.pre_tokenizer = pre_tokenizers.Sequence([word_splitter(), pre_tokenizers.Metaspace()])
        backend.decoder = decoders.Metaspace()
    backend.add_special_tokens(list(SPECIAL_TOKENS.values()))
    return fast_tokenizer(backend, pairs=pairs, model_max_length=model_max_length, **SPECIAL_TOKENS)


def _count_words(texts, lower):
    normalize, split = normalizer(lower).normalize_str, word_splitter().pre_tokenize_str
    counts = Counter()
    for batch in training_batches(texts):
        for text in batch:
            counts.update(word for word, _ in split(normalize(text)))
    check_words(len(counts))
    return counts


def _with_frequent_characters(counts, vocab_size):
    """Replace rare characters in words by spaces, so that the others leave room in the vocabulary."""
    characters = Counter()
    for word, count in counts.items():
        for character in word:
            characters[character] += count
    # WordPiece has each character twice, within words and at their beginning; the others have the mark `▁`.
    size = min((vocab_size - len(SPECIAL_TOKENS)) // 2, _LARGEST_ALPHABET)
    ordered = sorted(characters, key=lambda character: (-characters[character], character))
    rare = dict.fromkeys(map(ord, ordered[size:]), " ")
    kept = Counter()
    for word, count in counts.items():
        for part in word.translate(rare).split():
            kept[part] += count
    return kept


def _lines(counts):
    # Trainers take texts, not words with counts.
    for word, count in sorted(counts.items()):
        for start in range(0, count, _WORDS_PER_LINE):
            yield " ".join([word] * min(_WORDS_PER_LINE, count - start))


def _wordpiece_vocabulary(counts, vocab_size, min_frequency):
    # The trainer would number the characters within words in the order of a hash table, another one in every run, and
    # break ties by these numbers. It takes them for special tokens here, so that their order is ours.
    within = sorted({f"##{character}" for word in counts for character in word[1:]})
    backend = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        special_tokens=[*SPECIAL_TOKENS.values(), *within],
        show_progress=False,
    )
    backend.train_from_iterator(_lines(counts), trainer)
    return backend.get_vocab()


def _train_bpe(counts, vocab_size, min_frequency):
    backend = Tokenizer(models.BPE(unk_token="[UNK]", fuse_unk=True))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        special_tokens=list(SPECIAL_TOKENS.values()),
        show_progress=False,
    )
    backend.train_from_iterator(_lines(counts), trainer)
    return backend.model


def _train_unigram(counts, vocab_size):
    # By SentencePiece, because the trainer of `tokenizers` gives another vocabulary in every run.
    proto = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=(f"{word}\t{count}" for word, count in sorted(counts.items())),
        input_format="tsv",
        model_writer=proto,
        model_type="unigram",
        vocab_size=vocab_size,
        hard_vocab_limit=False,
        character_coverage=1.0,
        normalization_rule_name="identity",
        max_sentence_length=1 << 20,
        num_threads=1,
        minloglevel=2,
        **{f"{role}_id": number for number, role in enumerate(("pad", "unk", "bos", "eos"))},
        **{"pad_piece": "[PAD]", "unk_piece": "[UNK]", "bos_piece": "[CLS]", "eos_piece": "[SEP]"},
        control_symbols=["[MASK]"],
    )
    model = sentencepiece.SentencePieceProcessor(model_proto=proto.getvalue())
    numbers = range(model.vocab_size())
    return models.Unigram([(model.id_to_piece(number), model.get_score(number)) for number in numbers], unk_id=1)
