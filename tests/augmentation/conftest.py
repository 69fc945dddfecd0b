"""A tagger and a spaCy pipeline small enough to check by hand."""

import re

import pytest

TAGS = {
    "DET": ["the", "a", "this"],
    "NOUN": ["film", "movie", "plot", "actor", "story", "scene", "script"],
    "ADJ": ["great", "good", "fine", "bad", "poor", "dull", "Brilliant"],
    "VERB": ["is", "was"],
}
TAG_OF = {word: tag for tag, words in TAGS.items() for word in words}


def tag_words(text):
    """An analyzer: words and single signs, tagged by the lists above."""
    return [
        (match.group(), TAG_OF.get(match.group(), ""), match.start(), len(match.group()))
        for match in re.finditer(r"\w+|[^\w\s]", text)
    ]


@pytest.fixture(name="tag_words")
def _tag_words():
    return tag_words


@pytest.fixture(scope="session")
def pipeline_folder(tmp_path_factory):
    """A spaCy pipeline without a model: it looks coarse tags up in the lists above."""
    spacy = pytest.importorskip("spacy")
    pipeline = spacy.blank("en")
    ruler = pipeline.add_pipe("attribute_ruler")
    for tag, words in TAGS.items():
        ruler.add([[{"ORTH": word}] for word in words], {"POS": tag, "TAG": f"fine-{tag}"})
    pipeline.add_pipe("sentencizer")
    folder = tmp_path_factory.mktemp("pipeline") / "en_lists"
    pipeline.to_disk(folder)
    return str(folder)
