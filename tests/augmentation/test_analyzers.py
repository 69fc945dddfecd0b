import pickle
import sys
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from distil_trainer.augmentation import analyzers
from distil_trainer.augmentation.analyzers import (
    AnalyzerError,
    analyze_corpus,
    analyze_texts,
    check_analyzer,
    load_pipeline,
    write_texts,
)
from distil_trainer.augmentation.corpus import CodedCorpus

AWKWARD = ["  the film,\tis  great \n", "naïve — 映画 \u00a0 ☃ don't", "[MASK] is a [MASK]film", "?!"]


def rebuild(words, gaps):
    return "".join(gap + word for gap, word in zip(gaps, [*words, ""], strict=True))


@pytest.mark.parametrize("kind", ["white space", "callable", "spacy"])
def test_words_and_gaps_give_the_text_back(kind, tag_words, request):
    analyzer = {"white space": None, "callable": tag_words}.get(kind) or (
        request.getfixturevalue("pipeline_folder") if kind == "spacy" else None
    )
    analysis = analyze_texts(AWKWARD, analyzer)
    assert [rebuild(*pair) for pair in zip(analysis["words"], analysis["gaps"], strict=True)] == AWKWARD
    assert all(word.strip() == word and word for words in analysis["words"] for word in words)
    assert [len(tags) for tags in analysis["tags"]] == [len(words) for words in analysis["words"]]


def test_white_space_gives_words_without_tags():
    assert analyze_texts(["the film, is"]) == {
        "words": [["the", "film,", "is"]],
        "tags": [["", "", ""]],
        "gaps": [["", " ", " ", ""]],
    }


def test_the_mask_word_is_one_untagged_word_for_every_analyzer(tag_words, pipeline_folder):
    for analyzer in (None, tag_words, pipeline_folder):
        analysis = analyze_texts(["the [MASK] is x[MASK]film[MASK]"], analyzer)
        assert analysis["words"] == [["the", "[MASK]", "is", "x", "[MASK]", "film", "[MASK]"]]
        assert analysis["gaps"] == [["", " ", " ", " ", "", "", "", ""]]
        assert [analysis["tags"][0][place] for place in (1, 3, 4, 6)] == ["", "", "", ""]


@pytest.mark.parametrize(
    "words",
    [
        [("Film", "NOUN", 4, 4)],
        [("film", "NOUN", 5, 4)],
        [("the", "DET", 0, 3), ("e film", "NOUN", 2, 6)],
        [("film", "NOUN", 4, 4), ("the", "DET", 0, 3)],
        [("", "NOUN", 4, 0)],
        [("film", "NOUN", -4, 4)],
    ],
    ids=["another word", "beside it", "overlap", "out of order", "nothing", "negative"],
)
def test_offsets_that_do_not_fit_the_text_are_refused(words):
    with pytest.raises(ValueError, match="Correct the analyzer's offsets"):
        analyze_texts(["the film"], lambda text: words)


def failing_analyzer(text):
    if "bad" in text:
        raise KeyError("no such morpheme")
    return [(text, "X", 0, len(text))]


@pytest.mark.parametrize("num_proc", [None, 2])
def test_an_analyzer_that_raises_is_reported_with_its_text_and_its_error(num_proc):
    texts = [f"a film {number}" for number in range(1100)]
    texts[700] = "a bad film " + "x" * 1000
    with pytest.raises(AnalyzerError, match="failing_analyzer failed on the text 'a bad film x+': KeyError") as error:
        analyze_corpus(texts, failing_analyzer, num_proc=num_proc)
    assert error.value.text == texts[700] and len(str(error.value)) < 600
    if num_proc is None:
        assert isinstance(error.value.__cause__, KeyError)


def test_an_analyzer_that_returns_nothing_or_fails_midway_is_reported_with_its_text():
    with pytest.raises(AnalyzerError, match="<lambda> failed on the text 'a film': TypeError"):
        analyze_texts(["a film"], lambda text: None)
    with pytest.raises(AnalyzerError, match="<lambda> failed on the text 'a film': ZeroDivisionError"):
        analyze_texts(["a film"], lambda text: (1 / 0 for _ in text))


def test_an_analyzer_that_says_not_where_its_words_stand_is_refused():
    with pytest.raises(AnalyzerError, match=r"returned \('a', 'DET'\) for a word of the text 'a film'.*start, length"):
        analyze_texts(["a film"], lambda text: [(word, "DET") for word in text.split()])


def test_an_analyzer_error_keeps_its_text_on_the_way_out_of_a_process():
    error = pickle.loads(pickle.dumps(AnalyzerError("it failed", "a film")))
    assert (str(error), error.text) == ("it failed", "a film")


def by_khaiii(text):
    """An analyzer by khaiii, or one like it: morphemes that share characters of the text make one word."""
    words = []
    for eojeol in khaiii(text):
        for morpheme in eojeol.morphs:
            start, end = morpheme.begin, morpheme.begin + morpheme.length
            if words and start < words[-1][1]:
                start, end, tag = words[-1][0], max(words.pop()[1], end), ""
            else:
                tag = "" if morpheme.tag[0] in "JE" or morpheme.tag in ("VX", "NNB") else morpheme.tag
            words.append((start, end, tag))
    return [(text[start:end], tag, start, end - start) for start, end, tag in words]


def khaiii(text):
    """What khaiii returns for `영화를 했다`."""
    parts = [
        [("영화", "NNG", 0, 2), ("를", "JKO", 2, 1)],
        [("하", "VV", 4, 1), ("였", "EP", 4, 1), ("다", "EF", 5, 1)],
    ]
    names = ("lex", "tag", "begin", "length")
    return [SimpleNamespace(morphs=[SimpleNamespace(**dict(zip(names, m, strict=True))) for m in p]) for p in parts]


def test_khaiii_or_any_other_analyzer_of_korean_comes_as_a_callable():
    analysis = analyze_texts(["영화를 했다"], by_khaiii)
    assert analysis == {
        "words": [["영화", "를", "했", "다"]],
        "tags": [["NNG", "", "", ""]],
        "gaps": [["", "", " ", "", ""]],
    }


def test_texts_are_natural_already_with_every_analyzer_but_kiwi(tag_words):
    texts = pa.array(["the film"], pa.large_string())
    assert write_texts(texts, None) is write_texts(texts, "en_core_web_sm") is write_texts(texts, tag_words) is texts


def test_coarse_tags_come_before_fine_ones(pipeline_folder):
    assert analyze_texts(["the film"], pipeline_folder)["tags"] == [["DET", "NOUN"]]


def test_fine_tags_serve_where_a_pipeline_has_no_coarse_ones(tmp_path):
    spacy = pytest.importorskip("spacy")
    pipeline = spacy.blank("en")
    pipeline.add_pipe("attribute_ruler").add([[{"ORTH": "film"}]], {"TAG": "NN"})
    pipeline.to_disk(tmp_path / "fine")
    assert analyze_texts(["the film"], str(tmp_path / "fine"))["tags"] == [["", "NN"]]


def test_components_that_no_tag_needs_do_not_run(pipeline_folder):
    assert load_pipeline(pipeline_folder).pipe_names == ["attribute_ruler"]


def test_a_pipeline_that_is_not_installed_is_refused_with_the_way_to_install_it():
    pytest.importorskip("spacy")
    with pytest.raises(
        OSError, match=r"en_no_such_model.*kiwi.*python -m spacy download <name>.*Do not `pip install`.*squatted"
    ):
        analyze_texts(["a film"], "en_no_such_model")
    with pytest.raises(OSError, match="neither an installed spaCy pipeline nor a folder"):
        check_analyzer("en_no_such_model")


def test_missing_spacy_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "spacy", None)
    with pytest.raises(ImportError, match=r'pip install "distil_trainer\[augment\]"'):
        load_pipeline("en_another_model")


def test_the_analysis_by_a_pipeline_is_kept_in_the_cache(pipeline_folder, monkeypatch):
    texts = ["the film is great", "a dull plot"]
    first = analyze_corpus(texts, pipeline_folder)
    monkeypatch.setattr(analyzers, "analyze_texts", lambda *arguments: pytest.fail("analyzed again"))
    assert analyze_corpus(texts, pipeline_folder).equals(first)


def test_a_pipeline_that_changed_in_its_folder_analyzes_anew(tmp_path):
    spacy = pytest.importorskip("spacy")
    tags = []
    for tag in ("NN", "NNS"):
        pipeline = spacy.blank("en")
        pipeline.add_pipe("attribute_ruler").add([[{"ORTH": "film"}]], {"TAG": tag})
        pipeline.to_disk(tmp_path / "pipeline")
        tags.append(analyze_corpus(["film"], str(tmp_path / "pipeline"))["tags"].to_pylist())
    assert tags == [[["NN"]], [["NNS"]]]


def test_each_distinct_text_is_analyzed_once():
    seen = []

    def analyzer(text):
        seen.append(text)
        return [(text, "X", 0, len(text))]

    corpus = CodedCorpus.from_texts(["a", "b", "a", "a"], analyzer, lower=False)
    corpus.encode(["b", "a", "b"])
    assert sorted(seen) == ["a", "b"]
    assert sorted(corpus.texts["count"].to_pylist()) == [1, 3]


def test_a_real_pipeline_tags_alike_in_every_batch_and_process(sst2_folder):
    pytest.importorskip("spacy")
    folder = sst2_folder.parents[1] / "models" / "en_ud_sm"
    if not folder.is_dir():
        pytest.skip(f"needs the pipeline in {folder}")
    assert load_pipeline(str(folder)).pipe_names == ["tok2vec", "morphologizer"]
    texts = list(dict.fromkeys(pq.read_table(sst2_folder / "train.parquet")["sentence"][:1100].to_pylist()))
    together = analyze_corpus(texts, str(folder), num_proc=2).to_pydict()
    assert analyze_texts(texts[:150], str(folder)) == {name: column[:150] for name, column in together.items()}
    assert [analyze_texts([text], str(folder))["tags"][0] for text in texts[:50]] == together["tags"][:50]
    assert {"NOUN", "VERB", "ADJ"} <= {tag for tags in together["tags"] for tag in tags}
