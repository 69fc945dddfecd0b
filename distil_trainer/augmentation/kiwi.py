"""Korean by Kiwi: texts into morphemes with Sejong tags, and edited morphemes into natural text again.

A morpheme rarely stands in the text as it is (`했` is `하` and `었`), and the form of its neighbour depends on it
(`영화가`, but `작품이`). So a word of the natural-text analysis is a morpheme in a notation of ours: form and tag
between three noncharacters. `write_texts` gives each run of them to Kiwi's own join, which contracts and chooses `이`
or `가`.

Kiwi (https://github.com/bab2min/kiwipiepy): Lee 2024, https://doi.org/10.23287/KJDH.2024.1.1.6.
"""

import functools
import re
from importlib.metadata import version

import pyarrow as pa

from distil_trainer.text import MASK_WORD

KIWI, KIWI_MORPHEMES = "kiwi", "kiwi:morphemes"
ANALYZERS = (KIWI, KIWI_MORPHEMES)

# Part of the key of the analyses in the cache: raise it when the same texts give other words.
_VERSION = 1
# What carries meaning, numbers and foreign words too. Not: particles (J), endings (E), auxiliary verbs (VX), bound
# nouns (NNB), which hold a sentence together; affixes (XP, XS), which few stems take; the copula (VCP, VCN), which is
# one word; signs (S), half of a pair of brackets among them; and what Kiwi could not read.
_REPLACEABLE = {
    "NNG", "NNP", "NP", "NR", "VV", "VA", "MM", "MAG", "MAJ", "IC", "XR", "SL", "SH", "SN", "W_EMOJI",
}  # fmt: skip
_BEGIN, _TAG, _END = "\ufdd0", "\ufdd1", "\ufdd2"  # noncharacters: Unicode keeps them for such use within a program
_MORPHEME = re.compile(f"{_BEGIN}([^{_TAG}]+){_TAG}([^{_END}]+){_END}")
_RUN = re.compile(f"(?:{_BEGIN}[^{_END}]+{_END})+")
_LONE_CONSONANT = re.compile("[\u1100-\u11ff]")
# A longer one is cut where a literal word stands, so that a text without spaces costs no quadratic time.
_LONGEST_RUN = 32


def split_text(text):
    """Split a text into morphemes that `write_texts` turns into the same text, character by character.

    A run of morphemes without space between them is one that Kiwi's join gives back as it stood. Where it would not
    (a typing error, `되었다` in place of `됐다`, a title without its spaces), the piece that differs is a literal
    word: never replaced, and its neighbours are joined without it. That was 0.9 % of the words of 4,000 Korean
    reviews and comments.

    Args:
        text (`str`): the text.

    Returns:
        `tuple[list[str], list[str], list[str]]`: words in the notation, tags (`""` for what is never replaced) and
        gaps, as for [`analyze_texts`].
    """
    words, tags, gaps, position = [], [], [], 0
    for start, end, blocks in _eojeols(text, _tokens(text)):
        gaps.append(text[position:start])
        for word, tag in _words(blocks):
            words.append(word)
            tags.append(tag)
            gaps.append("")
        gaps.pop()  # the gap after an eojeol is the one before the next
        position = end
    gaps.append(text[position:])
    return words, tags, gaps


def split_into_morphemes(text):
    """Split a text into morphemes as they are, one space between two.

    Args:
        text (`str`): the text.

    Returns:
        `tuple[list[str], list[str], list[str]]`: words, tags and gaps, as for [`analyze_texts`]; joined they are the
        morphemes of the text, not the text.
    """
    tokens = _tokens(text, compatible_jamo=True)  # a lone ㄴ that every font and tokenizer knows
    if not tokens:
        return [], [], [text]
    words = [token.form.replace(" ", "") for token in tokens]  # the names of some films are one morpheme
    tags = [
        "" if word == MASK_WORD else _replaceable(word, token.tag) for word, token in zip(words, tokens, strict=True)
    ]
    return words, tags, ["", *[" "] * (len(words) - 1), ""]


def write_texts(texts):
    """Turn texts in the notation of `split_text` into natural texts; what stands between morphemes is left as it is.

    A final consonant that has lost its syllable (`ᆸ니다` where the stem is masked) is dropped: `[MASK]니다`.

    Args:
        texts (`pyarrow.LargeStringArray` of length `n`): the texts.

    Returns:
        `pyarrow.LargeStringArray` of length `n`
    """
    written = {}  # most runs of a batch come many times, once in each copy that does not touch them

    def write_run(match):
        run = match.group()
        if run not in written:
            # Upper case, because texts may have been lower-cased, notation and all.
            written[run] = _join([(form, tag.upper()) for form, tag in _MORPHEME.findall(run)])
        return written[run]

    return pa.array([_RUN.sub(write_run, text) for text in texts.to_pylist()], pa.large_string())


def spaced_morphemes(texts):
    """Split texts into morphemes with a space between two, for students that read words: `영화 가 좋 었 다`.

    A student that was trained on such texts must be served them too: call this on what it is asked.

    Args:
        texts (`list[str]` of length `n`): natural texts. The mask word stays whole.

    Returns:
        `list[str]` of length `n`

    Raises:
        ImportError: if Kiwi is not installed.
        TypeError: if a text is no string.
        ValueError: if a text has a lone surrogate.
    """
    for row, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(
                f"texts[{row}]={text!r} is of type {type(text).__name__}, but a text must be a string: remove such "
                "rows, or turn their values into strings."
            )
    analyses = map(split_into_morphemes, texts)
    return [gaps[0] + "".join(map(str.__add__, words, gaps[1:])) for words, _, gaps in analyses]


def to_morphemes(batch, text_column="sentence"):
    """Do the same to a column of a data set, by `Dataset.map`. A second call would split the morphemes anew.

    Args:
        batch (`dict[str, list]`): columns.
        text_column (`str`, *optional*, defaults to `"sentence"`): the column of natural texts.

    Returns:
        `dict[str, list[str]]`: the column.

    Raises:
        ValueError: if there is no such column; for all else see `spaced_morphemes`.

    Example:

    ```python
    labelled = labelled.map(to_morphemes, batched=True, fn_kwargs={"text_column": "document"})
    ```
    """
    if text_column not in batch:
        raise ValueError(
            f"the data set has no column {text_column!r}; it has {sorted(batch)}. Give the right one: "
            'dataset.map(to_morphemes, batched=True, fn_kwargs={"text_column": ...}).'
        )
    return {text_column: spaced_morphemes(batch[text_column])}


@functools.lru_cache(maxsize=1)
def load_kiwi():
    """Load Kiwi, once in each process; processes that are forked afterwards share its 500 MB.

    Raises:
        ImportError: if Kiwi is not installed.
    """
    try:
        from kiwipiepy import Kiwi
    except ImportError as error:
        raise ImportError(
            'Korean morphemes are found by Kiwi, and kiwipiepy is not installed: pip install "distil_trainer[korean]".'
        ) from error
    return Kiwi(num_workers=1)


def identity(analyzer):
    """Return what an analysis depends on beside the texts (`list[str]`): another model analyzes anew."""
    return [analyzer, str(_VERSION), version("kiwipiepy"), version("kiwipiepy_model")]


def _tokens(text, compatible_jamo=False):
    """The mask word is one token, tagged as a noun, so that the particle after it is taken for one."""
    marks = {_BEGIN, _TAG, _END} & set(text)
    if marks:
        raise ValueError(
            f"the text has the noncharacter U+{ord(min(marks)):X}, which marks morphemes here: a text with it "
            "could be read wrongly. No writing uses it: remove it from the text."
        )
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"the text {text[:200]!r} has a lone surrogate, half of a character that no file can hold: decode the "
            'source anew, or drop it by text.encode("utf-8", "ignore").decode("utf-8").'
        ) from error
    masks = [(m.start(), m.end(), "NNP") for m in re.finditer(re.escape(MASK_WORD), text)]
    # A text at a time: Kiwi's call for many waits for ever in a forked process, as those of `datasets` are, and with
    # one worker it is no faster.
    return load_kiwi().tokenize(text, compatible_jamo=compatible_jamo, pretokenized=masks or None)


def _eojeols(text, tokens):
    """Yield start, end and blocks of each part of a text without gap.

    A block is a surface and its morphemes: as few as lie on characters of their own.
    """
    begin, end, blocks, block_start, block = 0, 0, [], 0, []
    for token in tokens:
        # A morpheme may have no length (the copula in `영화다`): it goes with what stands right before it.
        if block and (token.start > end or (token.len and token.start >= end > block_start)):
            blocks.append((text[block_start:end], block))
            block = []
        if not block and token.start > end and blocks:
            yield begin, end, blocks
            blocks = []
        if not block:
            block_start = token.start
            begin = begin if blocks else token.start
        block.append((token.form, token.tag))
        end = max(end, token.start + token.len)
    if block:
        yield begin, end, [*blocks, (text[block_start:end], block)]


def _words(blocks):
    """Return (word, tag) of each morpheme of an eojeol, literal where Kiwi would not write it as it stood."""
    whole = [morpheme for _, morphemes in blocks for morpheme in morphemes]
    masked = any(surface == MASK_WORD for surface, _ in blocks)
    if not masked and len(whole) <= _LONGEST_RUN and _join(whole) == "".join(surface for surface, _ in blocks):
        return [_notation(*morpheme) for morpheme in whole]
    words, run, surface_of_run = [], [], ""
    for surface, morphemes in blocks:
        longer = [*run, *morphemes]
        if surface != MASK_WORD and len(longer) <= _LONGEST_RUN and _join(longer) == surface_of_run + surface:
            words += [_notation(*morpheme) for morpheme in morphemes]
            run, surface_of_run = longer, surface_of_run + surface
        else:
            words.append((surface, ""))
            run, surface_of_run = [], ""
    return words


def _notation(form, tag):
    return f"{_BEGIN}{form}{_TAG}{tag}{_END}", _replaceable(form, tag)


def _replaceable(form, tag):
    """The tag, or `""` if the morpheme is never replaced. Kiwi marks irregular and regular stems: `VV-I`, `VV-R`.

    It takes characters that do not show, such as those of no width, for nouns.
    """
    return tag if tag.partition("-")[0] in _REPLACEABLE and form.isprintable() else ""


def _join(morphemes):
    """Join one run. Without the search among homonyms, since Kiwi's tags already tell which stems are irregular."""
    text = load_kiwi().join([(form, tag, False) for form, tag in morphemes], lm_search=False)
    return _LONE_CONSONANT.sub("", text)
