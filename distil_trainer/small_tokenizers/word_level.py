"""A tokenizer of whole words: every word of the texts is a token."""

from itertools import chain

from tokenizers import Tokenizer, models, trainers

from distil_trainer.small_tokenizers.text_batches import text_batches, training_batches
from distil_trainer.small_tokenizers.words import (
    SPECIAL_TOKENS,
    check_words,
    fast_tokenizer,
    normalizer,
    word_splitter,
)

# More words than any language has, where the vocabulary is not limited.
_UNLIMITED = 2**40


def word_level_tokenizer(
    texts,
    *,
    vocab_size=None,
    min_frequency=1,
    lower=True,
    extra_words=(),
    pairs=False,
    model_max_length=512,
):
    """Make a tokenizer whose tokens are the words of texts, by falling frequency.

    Texts are cut into words as GloVe's and the Penn Treebank's are ("do", "n't"), whether that was done before or not.
    Hyphens and other punctuation stand alone. Words of equal frequency are in alphabetical order. A text begins with
    `[CLS]`, and so does the second text of a pair; `[MASK]` in a text is the mask token. Lower-casing is part of the
    saved tokenizer.

    Args:
        texts (`Iterable[str]`): texts whose words count, those that the student is trained on; read in batches.
        vocab_size (`int`, *optional*): tokens kept, the 5 special ones included. Default: all.
        min_frequency (`int`, *optional*, defaults to 1): rarer words are left out.
        lower (`bool`, *optional*, defaults to `True`): lower-case texts.
        extra_words (`Iterable[str]`, *optional*): words added beyond those, see [`add_words`].
        pairs (`bool`, *optional*, defaults to `False`): for models that read pairs of texts: `token_type_ids` tell
            them apart.
        model_max_length (`int`, *optional*, defaults to 512): tokens kept where a text is truncated.

    Returns:
        `PreTrainedTokenizerFast` with `[PAD]`=0, `[UNK]`=1, `[CLS]`=2, `[SEP]`=3, `[MASK]`=4.

    Raises:
        TypeError: if something in `texts` is no string.
        ValueError: if the texts hold no words, or an argument is out of range.

    Example:

    ```python
    >>> tokenizer = word_level_tokenizer(["It's good.", "Not good!"])
    >>> tokenizer.convert_ids_to_tokens(tokenizer("It's not a [MASK] film.")["input_ids"])
    ['[CLS]', 'it', "'s", 'not', '[UNK]', '[MASK]', '[UNK]', '.']
    ```
    """
    if vocab_size is not None and vocab_size <= len(SPECIAL_TOKENS):
        raise ValueError(
            f"vocab_size={vocab_size} leaves no room for words: it counts the {len(SPECIAL_TOKENS)} special "
            "tokens too."
        )
    if min_frequency < 1:
        raise ValueError(f"min_frequency={min_frequency} must be at least 1.")
    backend = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    backend.normalizer = normalizer(lower)
    backend.pre_tokenizer = word_splitter()
    trainer = trainers.WordLevelTrainer(
        vocab_size=vocab_size or _UNLIMITED,
        min_frequency=min_frequency,
        special_tokens=list(SPECIAL_TOKENS.values()),
        show_progress=False,
    )
    backend.train_from_iterator(training_batches(texts), trainer)
    check_words(backend.get_vocab_size() - len(SPECIAL_TOKENS))
    tokenizer = fast_tokenizer(backend, pairs=pairs, model_max_length=model_max_length, **SPECIAL_TOKENS)
    return add_words(tokenizer, chain.from_iterable(text_batches(extra_words))) if extra_words else tokenizer


def add_words(tokenizer, words, *, limit=None):
    """Add words to the end of the vocabulary of a word-level tokenizer.

    A word is read as the tokenizer reads texts. What is not one word then (`well-made`), or is there already, is left
    out, since no text would ever have that token.

    Args:
        tokenizer (`PreTrainedTokenizerFast`): see [`word_level_tokenizer`]; not changed.
        words (`Iterable[str]`): words, the most important first.
        limit (`int`, *optional*): words added at most; no more than needed are read.

    Returns:
        `PreTrainedTokenizerFast`

    Raises:
        TypeError: if the tokenizer is one of pieces.
    """
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    if not isinstance(backend.model, models.WordLevel):
        raise TypeError(
            f"tokenizer has a model of {type(backend.model).__name__}, which is not one of whole words: words "
            "that are added would never be met, since texts are cut into pieces. Give one of word_level_tokenizer."
        )
    vocabulary = backend.get_vocab()
    size = len(vocabulary) + (_UNLIMITED if limit is None else limit)
    for word in words:
        if len(vocabulary) >= size:
            break
        word = backend.normalizer.normalize_str(word)
        pieces = backend.pre_tokenizer.pre_tokenize_str(word)
        if [piece for piece, _ in pieces] == [word]:
            vocabulary.setdefault(word, len(vocabulary))
    backend.model = models.WordLevel(vocabulary, unk_token="[UNK]")
    return fast_tokenizer(
        backend,
        pairs="token_type_ids" in tokenizer.model_input_names,
        model_max_length=tokenizer.model_max_length,
        **tokenizer.special_tokens_map,
    )
