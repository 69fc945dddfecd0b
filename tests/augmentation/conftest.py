"""A tagger and a spaCy pipeline small enough to check by hand."""

import pytest
import word_tags
from word_tags import TAGS


@pytest.fixture
def tag_words():
    return word_tags.tag_words


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
