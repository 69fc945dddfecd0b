"""A tagger small enough to check by hand; in a module of its own, as other processes must find it by name."""

import re

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
