"""Korean by Kiwi: texts come back as they were, what replaces a word is inflected, what holds a sentence stays."""

import logging
import re
import sys
import unicodedata

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset

from distil_trainer.augmentation import analyzers, kiwi
from distil_trainer.augmentation.analyzers import (
    AnalyzerError,
    analyze_corpus,
    analyze_texts,
    check_analyzer,
    write_texts,
)
from distil_trainer.augmentation.kiwi import spaced_morphemes, split_text, to_morphemes
from distil_trainer.augmentation.rules import RuleAugmenter

AWKWARD = [
    "  탭\t새 줄\n끝  ",
    "이 영화는 emoji 😀👍🏽 film은 좋다, 映画가 1은",
    "영화[MASK]가 [MASK]는 [MASK][MASK] 좋았[MASK]",
    "👨\u200d👩\u200d👧\u200d👦은 a\u200bb 영화\ufe0f가\x00 \u3000영화\u00a0가",
    "되었다 영화이다! 라는게 이딴게 총알탄사나이 보.슬.아.치. 않됬을 했엌ㅋㅋ",
    unicodedata.normalize("NFD", "영화가 좋았다"),
    "완전재밌고배우연기도좋았는데결말이너무아쉬웠지만그래도다시보고싶은영화였다" * 4,
    "ㅋㅋㅋㅋㅠㅠ ^^;; (>_<) http://a.kr?b=1 a@b.kr #영화 @나",
    "\u11ab \u1100 가\u11ab",
    "영화가 [MASK",
]
SENTENCES = [
    "배우가 연기를 정말 잘했고 음악도 좋았다",
    "이 영화는 지루하고 결말이 아쉬웠어요",
    "감독의 작품을 봤는데 시간이 아까웠다 ㅋㅋㅋ",
    "아이와 볼 만한 드라마라서 추천합니다!",
    "친구를 도와주는 장면에서 눈물이 났다",
]
SWAPS = {"mask_probability": 0.0, "replace_probability": 1.0, "ngram_probability": 0.0}


def written(words, gaps):
    text = "".join(gap + word for gap, word in zip(gaps, [*words, ""], strict=True))
    return write_texts(pa.array([text], pa.large_string()), "kiwi")[0].as_py()


def morphemes(*forms_and_tags):
    """The notation of `split_text`, for morphemes given as `영화/NNG`."""
    return "".join("\ufdd0{}\ufdd1{}\ufdd2".format(*each.rsplit("/", 1)) for each in forms_and_tags)


def augment(texts, analyzer="kiwi", **options):
    augmenter = RuleAugmenter.from_corpus(texts, analyzer, **{"copies": 20, "seed": 1, **options})
    return augmenter({"sentence": texts}, list(range(len(texts))))


def originals_of(rows):
    pairs = zip(rows["sentence"], rows["operators"], strict=True)
    return [text for text, operators in pairs if operators == "original"]


def has_final(syllable):
    """Whether a syllable ends in a consonant."""
    return (ord(syllable) - 0xAC00) % 28 > 0


@pytest.mark.parametrize("text", [*AWKWARD, *SENTENCES])
def test_a_text_comes_back_as_it_was(text):
    words, tags, gaps = split_text(text)
    assert written(words, gaps) == text
    assert len(tags) == len(words) == len(gaps) - 1
    assert [word for word in words if word == "[MASK]"] == re.findall(r"\[MASK\]", text)
    assert all(tag == "" for word, tag in zip(words, tags, strict=True) if "\ufdd0" not in word)


def test_real_reviews_come_back_as_they_were(sst2_folder):
    folder = sst2_folder.parent / "nsmc"
    if not folder.is_dir():
        pytest.skip(f"needs the real data in {folder}")
    texts = pq.read_table(folder / "train.parquet")["document"][:300].to_pylist()
    analyses = [split_text(text) for text in texts]
    assert [written(words, gaps) for words, _, gaps in analyses] == texts
    literal = [word[0] != "\ufdd0" for words, _, _ in analyses for word in words]
    assert sum(literal) < 0.02 * len(literal)


def test_words_are_morphemes_with_sejong_tags():
    words, tags, gaps = split_text("영화가 좋았다")
    assert words == [morphemes(each) for each in ("영화/NNG", "가/JKS", "좋/VA", "었/EP", "다/EF")]
    assert tags == ["NNG", "", "VA", "", ""]
    assert gaps == ["", "", " ", "", "", ""]


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("영화를 사랑에서", ["를", "에서"]),
        ("먹었습니다", ["었", "습니다"]),
        ("먹고 있다", ["있"]),
        ("먹을 것", ["것"]),
        ("행복한 사람들", ["하", "들"]),
        ("학생이다", ["이"]),
        ("(영화)! ㅋㅋ", ["(", ")", "!", "ㅋㅋ"]),
        ("영화\u200b", ["\u200b"]),
    ],
    ids=["particles", "endings", "auxiliaries", "bound nouns", "affixes", "copula", "signs", "invisible"],
)
def test_what_holds_a_sentence_together_has_no_tag(text, kept):
    words, tags, _ = split_text(text)
    untagged = [kiwi._MORPHEME.fullmatch(word)[1] for word, tag in zip(words, tags, strict=True) if not tag]
    assert set(kept) <= set(untagged)
    assert any(tags)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (("작품/NNG", "가/JKS"), "작품이"),
        (("영화/NNG", "은/JX"), "영화는"),
        (("책/NNG", "로/JKB"), "책으로"),
        (("책/NNG", "와/JC"), "책과"),
        (("가/VV", "었/EP", "다/EF"), "갔다"),
        (("크/VA", "었/EP", "어요/EF"), "컸어요"),
        (("먹/VV", "ᆫ/ETM"), "먹은"),
        (("돕/VV-I", "어/EC"), "도와"),
        (("고맙/VA-I", "어요/EF"), "고마워요"),
    ],
)
def test_neighbours_take_the_form_that_a_new_word_asks_for(given, expected):
    assert written([morphemes(*given)], ["", ""]) == expected


def test_each_run_of_morphemes_is_joined_by_itself():
    words = [morphemes("책/NNG"), "[MASK]", morphemes("가/JKS"), morphemes("작품/NNG", "가/JKS")]
    assert written(words, ["<", "", "", " ", ">"]) == "<책[MASK]가 작품이>"


def test_a_final_consonant_without_its_syllable_is_dropped():
    assert written(["[MASK]", morphemes("ᆸ니다/EF")], ["", "", "!"]) == "[MASK]니다!"
    assert written(["[MASK]", morphemes("ᆫ/ETM")], ["", "", " 날"]) == "[MASK] 날"


def test_where_kiwi_would_write_otherwise_the_piece_is_literal_and_its_neighbours_are_not():
    words, tags, _ = split_text("사라지는게")
    assert words == [morphemes("사라지/VV"), morphemes("는/ETM"), "게"]
    assert tags == ["VV", "", ""]


def test_a_text_without_spaces_is_joined_in_short_runs(monkeypatch):
    lengths, join = [], kiwi._join
    monkeypatch.setattr(kiwi, "_join", lambda run: lengths.append(len(run)) or join(run))
    text = "완전재밌고배우연기도좋았는데" * 40
    words, tags, gaps = split_text(text)
    assert written(words, gaps) == text
    assert max(lengths) <= 32 and sum(lengths) < 40 * len(words)
    assert sum(tag != "" for tag in tags) > 0.3 * len(tags)


@pytest.mark.slow
def test_a_text_of_a_million_characters_comes_back():
    text = ("영화가 정말 재미있었고 배우도 좋았다 ㅋㅋ\n" * 40_000)[:1_000_000]
    words, _, gaps = split_text(text)
    assert written(words, gaps) == text


def test_a_text_that_cannot_be_read_is_refused_with_its_reason():
    with pytest.raises(AnalyzerError, match=r"kiwi failed on the text .*noncharacter U\+FDD2") as error:
        analyze_texts(["좋다", "영화\ufdd2"], "kiwi")
    assert error.value.text == "영화\ufdd2"
    with pytest.raises(AnalyzerError, match=r"kiwi:morphemes failed on the text .*lone surrogate.*decode the source"):
        analyze_texts(["\ud800"], "kiwi:morphemes")


def test_morphemes_stand_between_single_spaces():
    texts = ["  영화가\t좋았다!", "간 사람[MASK]는 갔다", "시청률의 제왕", "\u200e"]
    assert spaced_morphemes(texts) == [
        "영화 가 좋 었 다 !",
        "가 ㄴ 사람 [MASK] 는 가 었 다",
        "시청률의제왕",
        "\u200e",
    ]
    analysis = analyze_texts(texts[:2], "kiwi:morphemes")
    assert analysis["words"][0] == ["영화", "가", "좋", "었", "다", "!"]
    assert analysis["tags"] == [["NNG", "", "VA", "", "", ""], ["VV", "", "NNG", "", "", "VV", "", ""]]
    assert analysis["gaps"][0] == ["", " ", " ", " ", " ", " ", ""]


def test_a_column_is_split_into_morphemes_by_map():
    dataset = Dataset.from_dict({"document": SENTENCES, "label": [1, 0, 0, 1, 1]})
    mapped = dataset.map(to_morphemes, batched=True, fn_kwargs={"text_column": "document"})
    assert mapped["document"][:] == spaced_morphemes(SENTENCES)
    assert mapped["label"][:] == dataset["label"][:]


def test_what_cannot_be_split_into_morphemes_is_refused():
    with pytest.raises(ValueError, match=r"no column 'sentence'; it has \['document'\]"):
        to_morphemes({"document": ["좋다"]})
    with pytest.raises(TypeError, match=r"texts\[1\]=None is of type NoneType"):
        spaced_morphemes(["좋다", None])
    with pytest.raises(ValueError, match="lone surrogate"):
        spaced_morphemes(["\udc00"])


def test_missing_kiwi_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "kiwipiepy", None)
    monkeypatch.setattr(kiwi, "load_kiwi", kiwi.load_kiwi.__wrapped__)
    for call in (lambda: check_analyzer("kiwi"), lambda: analyze_texts(["좋다"], "kiwi:morphemes")):
        with pytest.raises(ImportError, match=r'pip install "distil_trainer\[korean\]"'):
            call()


def test_the_analysis_by_kiwi_is_kept_in_the_cache_for_each_kind_and_version(monkeypatch):
    calls, analyze = [], analyze_texts
    monkeypatch.setattr(analyzers, "analyze_texts", lambda *given: calls.append(given[1]) or analyze(*given))
    first = analyze_corpus(SENTENCES, "kiwi")
    assert analyze_corpus(SENTENCES, "kiwi").equals(first) and calls == ["kiwi"]
    assert not analyze_corpus(SENTENCES, "kiwi:morphemes").equals(first)
    monkeypatch.setattr(kiwi, "version", lambda name: "0.0")
    analyze_corpus(SENTENCES, "kiwi")
    assert calls == ["kiwi", "kiwi:morphemes", "kiwi"]


def test_several_processes_analyze_and_write_like_one():
    texts = [f"{sentence} {number}" for number in range(210) for sentence in SENTENCES]
    together = analyze_corpus(texts, "kiwi", num_proc=2).slice(0, 60).to_pydict()
    assert together == analyze_texts(texts[:60], "kiwi")
    dataset = Dataset.from_dict({"sentence": texts[:40]})
    augmenter = RuleAugmenter.from_corpus(texts[:40], "kiwi", copies=3, seed=1)
    rows = [
        dataset.map(augmenter, batched=True, with_indices=True, batch_size=size, num_proc=processes).to_dict()
        for size, processes in ((1000, None), (7, None), (7, 2))
    ]
    assert rows[0] == rows[1] == rows[2]


def test_originals_and_all_space_stay_as_they_are():
    rows = augment([*AWKWARD, *SENTENCES])
    originals = originals_of(rows)
    assert originals == [*AWKWARD, *SENTENCES]
    for text, parent in zip(rows["sentence"], rows["parent"], strict=True):
        assert "\ufdd0" not in text
        if parent >= len(AWKWARD):
            assert re.sub(r"\S+", "_", text) == re.sub(r"\S+", "_", SENTENCES[parent - len(AWKWARD)])


def test_a_particle_fits_the_noun_that_stands_before_it_now():
    nouns = ["영화", "작품", "배우", "음악", "감독", "드라마", "결말", "연기"]
    texts = [f"{noun}{'이' if has_final(noun[-1]) else '가'} 좋다" for noun in nouns]
    rows = augment(texts, **SWAPS, copies=40)
    subjects = {text.split()[0] for text in rows["sentence"]}
    assert len(subjects) >= len(nouns)
    assert all(subject[-1] == ("이" if has_final(subject[-2]) else "가") for subject in subjects)


def test_particles_endings_auxiliaries_and_bound_nouns_are_masked_but_never_replaced():
    texts = [*SENTENCES, "먹고 있을 것이다", "보고 싶은 것을 샀다"]
    rows = augment(texts, "kiwi:morphemes", **SWAPS, copies=50)
    replaced = set()
    for text, parent in zip(rows["sentence"], rows["parent"], strict=True):
        analysis = analyze_texts([texts[parent]], "kiwi:morphemes")
        for old, new, tag in zip(analysis["words"][0], text.split(" "), analysis["tags"][0], strict=True):
            assert tag or new == old
            replaced |= {tag} if new != old else set()
    assert {"NNG", "VV", "MAG"} <= replaced
    masked = augment(["영화를 먹었습니다"], "kiwi:morphemes", mask_probability=0.5, replace_probability=0.0, copies=60)
    assert {text.split(" ")[1] for text in masked["sentence"]} == {"를", "[MASK]"}


def test_texts_in_lower_case_are_those_texts_in_lower_case():
    texts = ["Film은 정말 좋았다 OST도 [MASK] 최고", "MARVEL 영화는 Good"]
    rows = augment(texts, lower=True)
    originals = originals_of(rows)
    assert originals == ["film은 정말 좋았다 ost도 [MASK] 최고", "marvel 영화는 good"]
    assert not any("\ufdd0" in text or "nng" in text for text in rows["sentence"])


def test_a_text_that_is_not_in_the_corpus_is_analyzed_when_it_comes():
    augmenter = RuleAugmenter.from_corpus(SENTENCES, "kiwi", copies=20, seed=1)
    text = "새로운 배우는 노래를 불렀다"
    rows = augmenter({"sentence": [text]}, [7])
    assert rows["sentence"][0] == text and len(rows["sentence"]) > 10


def test_an_analyzer_that_raises_is_reported_with_the_row(monkeypatch):
    def analyzer(text):
        if "나쁜" in text:
            raise RuntimeError("no analysis")
        return [(text, "X", 0, len(text))]

    texts = ["좋은 글", "좋은 글", "나쁜 글"]
    with pytest.raises(ValueError, match="row 2: the analyzer analyzer failed on the text '나쁜 글': RuntimeError"):
        RuleAugmenter.from_corpus(texts, analyzer)
    augmenter = RuleAugmenter.from_corpus(texts[:2], analyzer)
    with pytest.raises(ValueError, match="row 12: the analyzer analyzer failed on the text '나쁜 글': RuntimeError"):
        augmenter({"sentence": texts}, [10, 11, 12])


def test_kiwi_gives_tags_and_so_no_warning(caplog):
    with caplog.at_level(logging.WARNING):
        RuleAugmenter.from_corpus(SENTENCES, "kiwi")
    assert not caplog.records
