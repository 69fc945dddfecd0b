"""A small language of generated reviews, for a distillation that needs no download.

A review has one to three clauses. A clause judges an aspect with an adjective, perhaps softened or strengthened,
perhaps negated ("was not very gripping"), or only reports what others said, which counts for nothing. "but"
and "although" let one clause outweigh the other, so that counting good and bad words is not enough.
Adjectives follow Zipf's law: a small labelled set shows few of the rare ones. A
share of the labels is wrong, as in real data, which caps every accuracy.
"""

import numpy as np
from datasets import ClassLabel, Dataset, Features, Value

LABEL_NAMES = ["negative", "positive"]

_GOOD = (
    "good great fine lovely funny clever moving charming gripping warm sharp fresh elegant tender witty superb vivid "
    "graceful inspired radiant subtle thrilling dazzling poignant masterful delightful luminous brisk soulful "
    "inventive enchanting riveting nimble stirring exquisite heartfelt majestic lyrical zesty buoyant"
).split()
_BAD = (
    "bad dull poor weak slow clumsy boring bland cold messy tired stale awful hollow tedious clunky shallow dreary "
    "lifeless tasteless muddled grating wooden lazy insipid sluggish joyless ponderous dismal vapid turgid leaden "
    "listless plodding witless sour flimsy dreadful murky inept"
).split()
_STRENGTH = {"slightly": 0.4, "rather": 0.8, "very": 1.5, "truly": 1.5, "utterly": 2.0, "deeply": 1.8, "barely": 0.3}
_ASPECTS = "plot acting script story pacing dialogue score direction cast ending humour photography".split()
_VERBS = "was seemed felt looked".split()
_WITNESSES = "critics friends everyone others".split()
_REPORTS = "said claimed expected promised".split()
_TAGS = {
    **dict.fromkeys(_GOOD + _BAD, "ADJ"),
    **dict.fromkeys(_STRENGTH, "ADV"),
    **dict.fromkeys(_ASPECTS, "NOUN"),
    **dict.fromkeys(_VERBS + _REPORTS, "VERB"),
    **dict.fromkeys(_WITNESSES, "PRON"),
}


def make_reviews(num_rows, *, seed, label_noise=0.04):
    """Generate a data set of reviews with columns `sentence` and `label`.

    Args:
        num_rows (`int`): number of reviews.
        seed (`int`): the same seed gives the same reviews.
        label_noise (`float`, *optional*, defaults to 0.04): share of the labels that are turned round.

    Returns:
        `Dataset` of `num_rows` rows.
    """
    random = np.random.default_rng(seed)
    sentences, labels = [], []
    while len(sentences) < num_rows:
        sentence, value = _review(random)
        if abs(value) > 0.25:
            sentences.append(sentence)
            labels.append(int(value > 0) ^ int(random.random() < label_noise))
    features = Features({"sentence": Value("string"), "label": ClassLabel(names=LABEL_NAMES)})
    return Dataset.from_dict({"sentence": sentences, "label": labels}, features=features)


def analyze(text):
    """Tag a text of this language: the analyzer that same-tag replacement needs.

    Returns:
        `list[tuple[str, str, int, int]]`: surface, tag, start and length of each word.
    """
    words, start = [], 0
    for surface in text.split(" "):
        words.append((surface, _TAGS.get(surface, "X"), start, len(surface)))
        start += len(surface) + 1
    return words


def _review(random):
    first, first_value = _clause(random)
    form = random.integers(5)
    if form == 0:
        return first, first_value
    second, second_value = _clause(random)
    if form == 1:
        return f"{first} and {second}", first_value + second_value
    if form == 2:
        return f"{first} but {second}", 0.3 * first_value + second_value
    if form == 3:
        return f"although {first} , {second}", 0.3 * first_value + second_value
    third, third_value = _clause(random)
    return f"{first} , {second} , still {third}", 0.3 * (first_value + second_value) + third_value


def _clause(random):
    good = random.random() < 0.5
    adjective = (_GOOD if good else _BAD)[min(int(random.zipf(1.25)) - 1, 10**6) % len(_GOOD)]
    value = 1.0 if good else -1.0
    if random.random() < 0.2:
        witness, report = random.choice(_WITNESSES), random.choice(_REPORTS)
        return f"{witness} {report} the {random.choice(_ASPECTS)} would be {adjective}", 0.0
    words = ["the", random.choice(_ASPECTS), random.choice(_VERBS)]
    if random.random() < 0.35:
        words.append("not")
        value *= -0.8
    if random.random() < 0.5:
        words.append(random.choice(list(_STRENGTH)))
        value *= _STRENGTH[words[-1]]
    return " ".join([*words, adjective]), value
