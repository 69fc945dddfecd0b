"""Text → words with tags, and the text between them: a spaCy pipeline, Kiwi, white space, or any callable."""

import functools
import re
from pathlib import Path

import datasets
import numpy as np
import xxhash
from datasets import Dataset, Features, Value
from datasets.fingerprint import Hasher

from distil_trainer.augmentation import kiwi
from distil_trainer.text import MASK_WORD

_ANALYSIS_VERSION = 1
_NOT_NEEDED_FOR_TAGS = {
    "beam_ner",
    "beam_parser",
    "entity_linker",
    "entity_ruler",
    "lemmatizer",
    "ner",
    "parser",
    "senter",
    "sentencizer",
    "span_finder",
    "span_ruler",
    "spancat",
    "spancat_singlelabel",
    "textcat",
    "textcat_multilabel",
    "trainable_lemmatizer",
}


class AnalyzerError(ValueError):
    """An analyzer failed on a text.

    Attributes:
        text (`str`): the text.
    """

    def __init__(self, message, text=None):
        super().__init__(message)
        self.text = text


def analyze_texts(texts, analyzer=None):
    """Split each text into words, their tags, and the text between them.

    Joining `gaps[0], words[0], gaps[1], words[1], ..., gaps[n]` gives the text back; with `"kiwi"` it does so after
    [`write_texts`], and with `"kiwi:morphemes"` it gives the text's morphemes. The mask word is always one word.

    Args:
        texts (`list[str]` of length `b`): the texts.
        analyzer (`str` or `Callable`, *optional*): `None` splits at white space, without tags. Else one of

            - the name or folder of a spaCy pipeline;
            - `"kiwi"`, for Korean: morphemes with Sejong tags, from which natural text is made again. Particles,
              endings, auxiliary verbs, bound nouns, affixes and signs have no tag, so they are never replaced;
            - `"kiwi:morphemes"`: the same morphemes with a space between two, for students that read words (see
              [`spaced_morphemes`], which evaluation data and served texts need too);
            - a callable from a text to a list of `(surface, tag, start, length)` in text order, for any other
              analyzer, such as khaiii: `""` as the tag of what is never to be replaced, and morphemes that share
              characters of the text as one word.

    Returns:
        `dict[str, list[list[str]]]`: `words`, `tags` (`n` for a text of `n` words; `""` for no tag), `gaps` (`n + 1`).

    Raises:
        AnalyzerError: if Kiwi or a callable fails on a text, or a callable returns words that do not stand in the text
            where it says.
        ImportError: if Kiwi is needed and not installed.
    """
    if analyzer in kiwi.ANALYZERS:
        kiwi.load_kiwi()  # so that what fails later is the text
        split = kiwi.split_text if analyzer == kiwi.KIWI else kiwi.split_into_morphemes
        parts = (_apply(split, text, analyzer) for text in texts)
    else:
        parts = _split_texts(texts, analyzer)
    columns = {"words": [], "tags": [], "gaps": []}
    for values_of_text in parts:
        for column, values in zip(columns.values(), values_of_text, strict=True):
            column.append(values)
    return columns


def write_texts(texts, analyzer):
    """Turn texts that were put together of an analysis's words and gaps into natural texts.

    Args:
        texts (`pyarrow.LargeStringArray` of length `n`): the texts.
        analyzer (`str` or `Callable`, *optional*): the analyzer. With all but `"kiwi"` they are natural already.

    Returns:
        `pyarrow.LargeStringArray` of length `n`
    """
    return kiwi.write_texts(texts) if analyzer == kiwi.KIWI else texts


def analyze_corpus(texts, analyzer=None, num_proc=None):
    """Analyze a corpus in `num_proc` processes; an analysis by spaCy or Kiwi is kept in the cache of `datasets`.

    Args:
        texts (`list[str]` of length `n`): the texts, each once.
        analyzer (`str` or `Callable`, *optional*): see [`analyze_texts`].
        num_proc (`int`, *optional*): number of processes.

    Returns:
        `pyarrow.Table` of `n` rows with list columns `words`, `tags`, `gaps` of strings; see [`analyze_texts`].

    Raises:
        AnalyzerError: if the analyzer fails on a text; see [`analyze_texts`].
        ImportError: if spaCy or Kiwi is needed and not installed.
        OSError: if no spaCy pipeline of this name or in this folder exists.
    """
    cache_file, fingerprint = None, None
    if isinstance(analyzer, str):
        fingerprint = Hasher.hash([_ANALYSIS_VERSION, _identity(analyzer), text_keys(texts).tobytes()])
        if datasets.is_caching_enabled():
            folder = Path(datasets.config.HF_DATASETS_CACHE) / "distil_trainer"
            folder.mkdir(parents=True, exist_ok=True)
            cache_file = str(folder / f"words-{fingerprint}.arrow")
    analyzed = Dataset.from_dict({"text": texts}).map(
        _analyze_column,
        batched=True,
        fn_kwargs={"analyzer": analyzer},
        remove_columns=["text"],
        features=Features({name: datasets.List(Value("string")) for name in ("words", "tags", "gaps")}),
        # Starting a process costs more than tagging a thousand short texts.
        num_proc=num_proc if len(texts) > 1000 else None,
        cache_file_name=cache_file,
        new_fingerprint=fingerprint,
        desc="Analyzing words",
    )
    return analyzed.with_format("arrow")[:]


def text_keys(texts):
    """Return a 64-bit hash of each text, `np.uint64` of shape `(n,)`."""
    return np.fromiter(map(xxhash.xxh3_64_intdigest, map(str.encode, texts)), dtype=np.uint64, count=len(texts))


def check_analyzer(name):
    """Refuse the name of an analyzer that cannot be used here.

    Args:
        name (`str`): see [`analyze_texts`].

    Raises:
        ImportError: if spaCy or Kiwi is needed and not installed.
        OSError: if no spaCy pipeline of this name or in this folder exists.
    """
    if name in kiwi.ANALYZERS:
        kiwi.load_kiwi()
    else:
        load_pipeline(name)


def load_pipeline(name):
    """Load a spaCy pipeline by name or folder, with only the components that tags need.

    Raises:
        ImportError: if spaCy is not installed.
        OSError: if no spaCy pipeline of this name or in this folder exists.
    """
    meta_file = Path(name) / "meta.json"
    return _load_pipeline(name, meta_file.stat().st_mtime_ns if meta_file.exists() else None)


@functools.lru_cache(maxsize=4)
def _load_pipeline(name, changed_ns):
    """Loaded once in each process, and again when the folder has changed."""
    try:
        import spacy
    except ImportError as error:
        raise ImportError(
            f"analyzer={name!r} names a spaCy pipeline, and spaCy is not installed: "
            'pip install "distil_trainer[augment]".'
        ) from error
    if not (spacy.util.is_package(name) or Path(name).exists() or name.startswith("blank:")):
        raise OSError(
            f"analyzer={name!r} is neither an installed spaCy pipeline nor a folder, nor one of "
            f"{', '.join(map(repr, kiwi.ANALYZERS))}. Install a pipeline's release from its maker with `python -m "
            "spacy download <name>`, or give the path of its folder; any other analyzer is given as a callable, in "
            "Python. Do not `pip install` a pipeline by its bare name: such names on the package index are not the "
            "maker's, and some are squatted. With analyzer=None words are split at white space, and none is replaced."
        )
    pipeline = spacy.load(name)
    factories = {component: pipeline.get_pipe_meta(component).factory for component in pipeline.pipe_names}
    unneeded = _NOT_NEEDED_FOR_TAGS
    if "morphologizer" in factories.values():  # it gives the coarse tags
        unneeded = unneeded | {"tagger"}
    pipeline.select_pipes(disable=[component for component, factory in factories.items() if factory in unneeded])
    return pipeline


def _split_texts(texts, analyzer):
    """Yield the words, tags and gaps of each text."""
    if analyzer is None:
        analyses = ([(m.group(), "", m.start(), len(m.group())) for m in re.finditer(r"\S+", text)] for text in texts)
    elif isinstance(analyzer, str):
        # The batch size is for speed alone: spaCy's pipelines tag a text alike in every batch.
        analyses = map(_words_of_doc, load_pipeline(analyzer).pipe(texts, batch_size=256))
    else:
        name = getattr(analyzer, "__name__", type(analyzer).__name__)
        analyses = (_apply(lambda text: list(analyzer(text)), text, name) for text in texts)
    for text, analysis in zip(texts, analyses, strict=True):
        yield _split(text, _with_whole_mask_words(text, analysis) if MASK_WORD in text else analysis)


def _apply(analyzer, text, name):
    try:
        return analyzer(text)
    except Exception as error:  # an analyzer may raise whatever it likes
        raise AnalyzerError(
            f"the analyzer {name} failed on the text {text[:200]!r}: {type(error).__name__}: {error}. Without its "
            "words the text cannot be rewritten, and to leave it out in silence would change the data. Correct the "
            "analyzer, or remove the text.",
            text,
        ) from error


def _words_of_doc(doc):
    """Coarse tags where the pipeline gives them, else its fine ones."""
    return [(word.text, word.pos_ or word.tag_, word.idx, len(word.text)) for word in doc if not word.is_space]


def _with_whole_mask_words(text, analysis):
    """Make each mask word of the text one untagged word; what is left of a word that it was part of, is one too."""
    spans = [(m.start(), m.end()) for m in re.finditer(re.escape(MASK_WORD), text)]
    words = [(MASK_WORD, "", start, end - start) for start, end in spans]
    for word in analysis:
        position, word_end = word[2], word[2] + word[3]
        touched = [(start, end) for start, end in spans if start < word_end and end > position]
        if not touched:
            words.append(word)
        for start, end in [*touched, (word_end, word_end)] if touched else []:
            if start > position:
                words.append((text[position:start], "", position, start - position))
            position = max(position, end)
    return sorted(words, key=lambda word: word[2])


def _split(text, analysis):
    words, tags, gaps, position = [], [], [], 0
    for word in analysis:
        if not isinstance(word, tuple | list) or len(word) != 4:
            raise AnalyzerError(
                f"the analyzer returned {word!r} for a word of the text {text[:200]!r}: it must return a (surface, "
                "tag, start, length) for each, where `start` and `length` count characters. Without them nobody knows "
                "which part of the text to rewrite.",
                text,
            )
        surface, tag, start, length = word
        if start < position or length < 1 or text[start : start + length] != surface:
            raise AnalyzerError(
                f"the analyzer returned (surface={surface!r}, tag={tag!r}, start={start}, length={length}) for "
                f"the text {text[:200]!r}: words must follow each other without overlap, and the surface must be "
                f"text[start:start + length], here {text[start : start + length]!r}. Otherwise rewriting the text "
                "would change words that no rule chose. Correct the analyzer's offsets.",
                text,
            )
        gaps.append(text[position:start])
        words.append(surface)
        tags.append(tag or "")
        position = start + length
    gaps.append(text[position:])
    return words, tags, gaps


def _analyze_column(batch, analyzer):
    return analyze_texts(batch["text"], analyzer)


def _identity(name):
    """The pipeline's files with size and time of change: another pipeline under the same name is another one."""
    if name in kiwi.ANALYZERS:
        return kiwi.identity(name)
    folder = load_pipeline(name).path
    if folder is None:
        return name
    files = sorted(path for path in Path(folder).rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return [name, *((str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files)]
