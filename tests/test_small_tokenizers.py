"""Small tokenizers cut texts as they should, keep their numbers when reloaded, and know the mask word."""

import io
import json
import unicodedata

import pytest
import sentencepiece
from datasets import Dataset
from tokenizers import Tokenizer, models
from transformers import AutoTokenizer, PreTrainedTokenizerFast, pipeline

from distil_trainer.inference import predict_logits, torch_runner
from distil_trainer.small_tokenizers import (
    add_words,
    sentencepiece_tokenizer,
    train_tokenizer,
    word_level_tokenizer,
)
from distil_trainer.students import EmbeddingBagConfig, EmbeddingBagForSequenceClassification
from distil_trainer.text import MASK_WORD, write_mask_token

ENGLISH = [
    "It's a good film, isn't it?",
    "I don't know; you can't say that.",
    "A well-acted story of the U.S. in 1,000.50 words ...",
    "not a very good film -- but a charming one!",
    "the film is good , the actor is n't",
]
KOREAN = [
    "한국어 영화 재미있다",
    "이 영화는 정말 재미있어요",
    "배우가 좋다 하지만 영화는 별로",
    "정말 좋은 한국 영화다",
]
KINDS = ["word", "wordpiece", "bpe", "unigram", "sentencepiece"]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


@pytest.fixture
def texts():
    return (ENGLISH + KOREAN) * 4


@pytest.fixture
def train_sentencepiece(tmp_path, texts):
    """A function from settings of SentencePiece's trainer to the path of a tiny model."""

    def train(**settings):
        model = io.BytesIO()
        # `hard_vocab_limit`: so few texts have fewer pieces than asked for.
        settings = {"model_type": "unigram", "vocab_size": 110, "hard_vocab_limit": False} | settings
        if settings["model_type"] in ("bpe", "char", "word"):
            del settings["hard_vocab_limit"]
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts), model_writer=model, minloglevel=2, num_threads=1, **settings
        )
        path = tmp_path / "tiny.model"
        path.write_bytes(model.getvalue())
        return path

    return train


@pytest.fixture
def make(texts, train_sentencepiece):
    """A function from the kind of a tokenizer to the tokenizer."""

    def by_kind(kind, **settings):
        if kind == "word":
            return word_level_tokenizer(texts, **settings)
        if kind == "sentencepiece":
            return sentencepiece_tokenizer(train_sentencepiece(), **settings)
        return train_tokenizer(texts, kind, vocab_size=150, **settings)

    return by_kind


def words_of(tokenizer, text):
    return tokenizer.convert_ids_to_tokens(tokenizer(text, add_special_tokens=False)["input_ids"])


# Words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("don't", "do n't"),
        ("do n't", "do n't"),
        ("can’t", "ca n't"),
        ("It's", "it 's"),
        ("it 's", "it 's"),
        ("they'll've", "they 'll 've"),
        ("'tis 'scary'", "' tis ' scary '"),
        ("well-acted", "well - acted"),
        ("good.Bad!?", "good . bad ! ?"),
        ("1,000.50 at 10:30, 1990s", "1,000.50 at 10:30 , 1990s"),
        ("in the U.S. now", "in the u.s. now"),
        ("so... -- ``quoted''", "so ... -- `` quoted ''"),
        ("-LRB- x -rrb- (y)", "-lrb- x -rrb- ( y )"),
        ("재미있다ㅋㅋㅋ 영화!", "재미있다ㅋㅋㅋ 영화 !"),
        (unicodedata.normalize("NFD", "한국 café"), "한국 café"),
        ("", ""),
        (" \t\n", ""),
    ],
)
def test_texts_are_cut_into_the_words_of_the_penn_treebank(text, words):
    tokenizer = word_level_tokenizer([text, "x"])
    assert words_of(tokenizer, text) == words.split()


def test_words_are_numbered_by_frequency_then_alphabet():
    tokenizer = word_level_tokenizer(["b b a", "c a B d"])
    assert tokenizer.convert_ids_to_tokens(range(len(tokenizer))) == [*SPECIAL, "b", "a", "c", "d"]
    assert words_of(word_level_tokenizer(["b b a", "c a B d"], lower=False), "B b") == ["B", "b"]


def test_rare_words_are_left_out_on_demand():
    texts = ["a a a b b c"]
    assert len(word_level_tokenizer(texts, vocab_size=7)) == 7
    assert words_of(word_level_tokenizer(texts, min_frequency=3), "a b c") == ["a", "[UNK]", "[UNK]"]


def test_extra_words_come_last_and_only_those_that_a_text_can_have():
    extra = ["Zebra", "good", "well-made", "two words", "zebra", "", "ant"]
    tokenizer = word_level_tokenizer(["good bad"], extra_words=extra)
    assert tokenizer.convert_ids_to_tokens(range(5, len(tokenizer))) == ["bad", "good", "zebra", "ant"]
    assert words_of(tokenizer, "a [MASK] Zebra") == ["[UNK]", "[MASK]", "zebra"]
    assert len(word_level_tokenizer(["good bad"])) == 7


def test_adding_words_reads_no_more_of_them_than_needed_and_keeps_the_tokenizer():
    before = word_level_tokenizer(["good bad"], pairs=True, model_max_length=9)
    words = iter(["good", "ant", "bee", "cat"])
    after = add_words(before, words, limit=1)
    assert next(words) in ("bee", "cat")
    assert (len(before), len(after)) == (7, 8)
    assert after("good ant", "[MASK]") == {
        "input_ids": [2, 6, 7, 2, 4],
        "token_type_ids": [0, 0, 0, 1, 1],
        "attention_mask": [1] * 5,
    }
    assert after.model_max_length == 9 and after.padding_side == "right"


# All kinds


@pytest.mark.parametrize("kind", KINDS[:-1])
def test_special_tokens_have_the_first_numbers(kind, make):
    tokenizer = make(kind)
    assert tokenizer.convert_ids_to_tokens(range(5)) == SPECIAL
    named = [getattr(tokenizer, f"{name}_token_id") for name in ("pad", "unk", "cls", "sep", "mask")]
    assert named == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("kind", KINDS)
def test_a_reloaded_tokenizer_gives_the_same_numbers(kind, make, texts, tmp_path):
    tokenizer = make(kind, pairs=True, model_max_length=40)
    tokenizer.save_pretrained(tmp_path / "saved")
    config = json.loads((tmp_path / "saved" / "tokenizer_config.json").read_text())
    assert config["tokenizer_class"] == "PreTrainedTokenizerFast"  # which both majors of transformers can load
    reloaded = AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert isinstance(reloaded, PreTrainedTokenizerFast)
    assert (reloaded.model_max_length, reloaded.padding_side) == (40, "right")
    assert reloaded.special_tokens_map == tokenizer.special_tokens_map
    probes = [*texts, "A [MASK] film", "unseen ☃ words", ""]
    assert dict(reloaded(probes, probes[::-1])) == dict(tokenizer(probes, probes[::-1]))
    assert "token_type_ids" in reloaded("a")


@pytest.mark.parametrize("kind", KINDS)
def test_each_text_of_a_pair_reads_as_it_does_alone(kind, make):
    single, paired = make(kind), make(kind, pairs=True)
    first, second = "It's a good film", "the actor isn't"
    encoded = paired(first, second)
    halves = single(first)["input_ids"], single(second)["input_ids"]
    assert encoded["input_ids"] == halves[0] + halves[1]
    assert encoded["token_type_ids"] == [0] * len(halves[0]) + [1] * len(halves[1])
    assert set(single(first)) == {"input_ids", "attention_mask"}
    assert single("")["input_ids"] == [single.cls_token_id]


@pytest.mark.parametrize("kind", KINDS)
def test_a_pair_given_to_a_tokenizer_of_single_texts_is_read_by_no_model(kind, make, tmp_path):
    make(kind).save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    config = EmbeddingBagConfig(vocab_size=len(tokenizer), embedding_size=4)
    student = EmbeddingBagForSequenceClassification(config).eval()
    classify = pipeline("text-classification", model=student, tokenizer=tokenizer)
    assert classify("a good film")[0]["score"] > 0
    with pytest.raises(
        ValueError, match="A token has the number 2147483647, .*one that was made for single texts was"
    ):
        classify({"text": "a good film", "text_pair": "a bad one"})
    with pytest.raises(ValueError, match="A token has the number 2147483647"):
        predict_logits(torch_runner(student), tokenizer, ["a good film"], ["a bad one"])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("settings", [{}, {"lower": False}], ids=["lower", "cased"])
def test_the_mask_word_is_the_mask_token_and_leaves_its_neighbours_alone(kind, settings, make):
    tokenizer = make(kind, **({} if kind == "sentencepiece" else settings))
    (text,) = write_mask_token([f"a {MASK_WORD} film"], tokenizer)
    expected = [*words_of(tokenizer, "a"), tokenizer.mask_token, *words_of(tokenizer, "film")]
    assert words_of(tokenizer, text) == expected
    assert tokenizer.unk_token_id not in tokenizer(text)["input_ids"]


@pytest.mark.parametrize("kind", KINDS[:-1])
def test_the_mask_word_teaches_no_words(kind):
    texts = ["good film", "good plot"] * 5
    masked = [*texts, *[f"{MASK_WORD} {MASK_WORD}"] * 50]
    if kind == "word":
        assert word_level_tokenizer(masked).get_vocab() == word_level_tokenizer(texts).get_vocab()
    else:
        plain, other = (train_tokenizer(each, kind, vocab_size=60) for each in (texts, masked))
        assert plain.get_vocab() == other.get_vocab()


@pytest.mark.parametrize("kind", KINDS)
def test_a_text_of_ten_thousand_words_is_cut_where_that_is_asked_for(kind, make):
    tokenizer = make(kind)
    text = "good film " * 5000
    assert len(tokenizer(text, truncation=True)["input_ids"]) == 512
    assert len(tokenizer(text, verbose=False)["input_ids"]) > 10_000


@pytest.mark.parametrize("kind", KINDS[:-1])
def test_texts_may_be_a_column_or_a_generator(kind, texts):
    def vocabulary(source):
        if kind == "word":
            return word_level_tokenizer(source).get_vocab()
        return train_tokenizer(source, kind, vocab_size=100).get_vocab()

    assert vocabulary(Dataset.from_dict({"text": texts})["text"]) == vocabulary(texts) == vocabulary(iter(texts))


def test_a_column_is_read_in_batches(monkeypatch, texts):
    monkeypatch.setattr("distil_trainer.small_tokenizers.text_batches._TEXTS_PER_BATCH", 5)
    lengths = []

    class Column(list):
        def __getitem__(self, rows):
            assert isinstance(rows, slice)
            lengths.append(rows.stop - rows.start)
            return super().__getitem__(rows)

        def __iter__(self):
            raise AssertionError("read a row at a time")

    assert word_level_tokenizer(Column(texts)).get_vocab() == word_level_tokenizer(texts).get_vocab()
    assert set(lengths) == {5}


# Trained pieces


@pytest.mark.parametrize("kind", KINDS[1:4])
def test_trained_pieces_do_not_depend_on_how_words_were_separated_before(kind, make):
    tokenizer = make(kind)
    assert tokenizer("It's a good film, isn't it?") == tokenizer("it 's a good film , is n't it ?")


@pytest.mark.parametrize("kind", KINDS[1:4])
@pytest.mark.parametrize("lower", [True, False])
def test_a_tokenizer_lower_cases_as_it_was_trained(kind, lower, make, tmp_path):
    make(kind, lower=lower).save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert (tokenizer("It's A good Film") == tokenizer("it's a good film")) is lower
    assert any(token.lower() != token for token in set(tokenizer.get_vocab()) - set(SPECIAL)) is not lower


@pytest.mark.parametrize("kind", KINDS[1:4])
def test_no_vocabulary_is_larger_than_asked_for_and_rare_characters_are_unknown(kind):
    # 300 syllables, the first ones more often: more than a vocabulary of 100 has room for.
    syllables = [chr(0xAC00 + index) for index in range(300)]
    texts = [" ".join(syllables[: 300 - start]) for start in range(0, 300, 10)]
    tokenizer = train_tokenizer(texts, kind, vocab_size=100)
    assert 40 <= len(tokenizer) <= 100
    frequent, rare = tokenizer(syllables[0])["input_ids"], tokenizer(syllables[-1])["input_ids"]
    assert tokenizer.unk_token_id not in frequent and tokenizer.unk_token_id in rare


@pytest.mark.parametrize(
    ("kind", "pieces"),
    [
        ("wordpiece", "good goodness go ##o ##n"),
        ("bpe", "▁good ▁goodness ▁go o n"),
        ("unigram", "▁good ▁goodness ▁go o n"),
    ],
)
def test_frequent_pieces_are_joined_and_read_back(kind, pieces):
    tokenizer = train_tokenizer(["good goodness go bad badness"] * 9, kind, vocab_size=50)
    text = "good goodness goon"
    assert words_of(tokenizer, text) == pieces.split()
    assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text


@pytest.mark.parametrize("kind", KINDS[1:4])
def test_training_twice_gives_the_same_tokenizer(kind, make):
    assert make(kind).backend_tokenizer.to_str() == make(kind).backend_tokenizer.to_str()


# Files of SentencePiece


PROBES = [
    *ENGLISH,
    *KOREAN,
    "",
    "   ",
    "  leading and   inner   spaces  ",
    "a tab\tand a line\nbreak",
    "ﬁne ＡＢＣ ① ½",
    "ㄲㅣ",
    "e\u0301\u0302x",
    unicodedata.normalize("NFD", "한국어 café"),
    "unknown 東京 ☃ ones",
    "a▁b",
    "don’t",
]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"model_type": "bpe"},
        {"normalization_rule_name": "nmt_nfkc_cf"},
        {"model_type": "bpe", "normalization_rule_name": "identity"},
        {"model_type": "bpe", "remove_extra_whitespaces": False},
        {"add_dummy_prefix": False},
        {"split_by_whitespace": False},
        {"byte_fallback": True, "vocab_size": 340},
        {"model_type": "bpe", "byte_fallback": True, "vocab_size": 340},
    ],
    ids=str,
)
def test_a_sentencepiece_file_is_segmented_as_by_sentencepiece(settings, train_sentencepiece):
    path = train_sentencepiece(**settings)
    reference = sentencepiece.SentencePieceProcessor(model_file=str(path))
    tokenizer = sentencepiece_tokenizer(path)
    for probe in PROBES:
        assert tokenizer(probe, add_special_tokens=False)["input_ids"] == reference.encode(probe), probe
    text = "the film is good"
    assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text
    assert tokenizer.convert_ids_to_tokens(range(reference.vocab_size())) == [
        reference.id_to_piece(number) for number in range(reference.vocab_size())
    ]


def test_missing_special_tokens_are_appended_and_own_ones_kept(train_sentencepiece):
    path = train_sentencepiece()
    size = sentencepiece.SentencePieceProcessor(model_file=str(path)).vocab_size()
    tokenizer = sentencepiece_tokenizer(path)
    assert tokenizer.convert_ids_to_tokens(range(size, len(tokenizer))) == ["[PAD]", "[MASK]"]
    assert (tokenizer.cls_token, tokenizer.sep_token, tokenizer.unk_token) == ("<s>", "</s>", "<unk>")

    path = train_sentencepiece(pad_id=3, bos_id=-1, eos_id=-1, unk_id=0, control_symbols=["<mask>"])
    tokenizer = sentencepiece_tokenizer(path)
    assert (tokenizer.pad_token, tokenizer.pad_token_id, tokenizer.mask_token) == ("<pad>", 3, "<mask>")
    size = sentencepiece.SentencePieceProcessor(model_file=str(path)).vocab_size()
    assert tokenizer.convert_ids_to_tokens(range(size, len(tokenizer))) == ["[CLS]", "[SEP]"]


def test_symbols_that_a_user_of_sentencepiece_defined_stay_whole(train_sentencepiece):
    path = train_sentencepiece(model_type="bpe", user_defined_symbols=["<URL>"])
    number = sentencepiece.SentencePieceProcessor(model_file=str(path)).piece_to_id("<URL>")
    tokenizer = sentencepiece_tokenizer(path)
    assert tokenizer("see <URL> now")["input_ids"].count(number) == 1
    assert number not in tokenizer.all_special_ids


# What is refused


@pytest.mark.parametrize("kind", KINDS[1:4])
def test_texts_without_words_are_refused(kind):
    for texts in ([], ["", " \n"], [MASK_WORD]):
        with pytest.raises(ValueError, match="texts hold no words"):
            word_level_tokenizer(texts)
        with pytest.raises(ValueError, match="texts hold no words"):
            train_tokenizer(texts, kind, vocab_size=50)


def test_what_is_no_list_of_texts_is_refused():
    with pytest.raises(TypeError, match="is one string, whose letters"):
        word_level_tokenizer("a text")
    with pytest.raises(TypeError, match=r"texts\[1\]=None is of type NoneType"):
        word_level_tokenizer(["a", None])
    with pytest.raises(TypeError, match=r"texts\[2\]=3 is of type int"):
        train_tokenizer(iter(["a", "b", 3]), "bpe", vocab_size=50)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"vocab_size": 5}, "vocab_size=5 leaves no room for words"),
        ({"min_frequency": 0}, "min_frequency=0 must be at least 1"),
        ({"model_max_length": 1}, "model_max_length=1 must be at least 2"),
    ],
)
def test_settings_of_word_level_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        word_level_tokenizer(["a b"], **settings)


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        ("bpe", {"vocab_size": 15}, "vocab_size=15 must be at least 16"),
        ("bpe", {"vocab_size": 50, "min_frequency": 0}, "min_frequency=0 must be at least 1"),
        ("unigram", {"vocab_size": 50, "min_frequency": 3}, "min_frequency=3 with kind='unigram'"),
        ("words", {"vocab_size": 50}, "kind='words' must be wordpiece, bpe or unigram"),
    ],
)
def test_settings_of_training_out_of_range_are_refused(kind, settings, message):
    with pytest.raises(ValueError, match=message):
        train_tokenizer(["a b"], kind, **settings)


def test_files_that_cannot_be_read_as_sentencepiece_does_are_refused(tmp_path, train_sentencepiece):
    with pytest.raises(FileNotFoundError, match="is not a file. Give the .model file"):
        sentencepiece_tokenizer(tmp_path)
    (tmp_path / "tiny.vocab").write_text("<unk>\t0\n▁a\t-1\n")
    with pytest.raises(ValueError, match="not a SentencePiece file.*not the .vocab file"):
        sentencepiece_tokenizer(tmp_path / "tiny.vocab")
    with pytest.raises(ValueError, match="model_type='word'"):
        sentencepiece_tokenizer(train_sentencepiece(model_type="word", vocab_size=20))
    with pytest.raises(ValueError, match="model_type='char'"):
        sentencepiece_tokenizer(train_sentencepiece(model_type="char", vocab_size=40))
    with pytest.raises(ValueError, match="treat_whitespace_as_suffix=true"):
        sentencepiece_tokenizer(train_sentencepiece(treat_whitespace_as_suffix=True))


def test_a_tokenizer_of_another_model_cannot_be_extended():
    backend = Tokenizer(models.BPE({"a": 0, "b": 1}, []))
    with pytest.raises(TypeError, match="is not one of whole words"):
        add_words(PreTrainedTokenizerFast(tokenizer_object=backend), ["c"])
