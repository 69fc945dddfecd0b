"""A pruned vocabulary leaves tokens and logits of the texts as they were, for every kind of tokenizer."""

import copy
import json

import numpy as np
import pytest
import torch
from datasets import Dataset
from foreign_tokenizers import byte_level_tokenizer, sentence_piece_tokenizer
from gated import assert_same, shaken
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from distil_trainer.inference import predict_logits, torch_runner
from distil_trainer.loading import load_classifier
from distil_trainer.pruning import kept_tokens, prune, prune_vocabulary
from distil_trainer.pruning.kept_tokens import tokens_that_stay
from distil_trainer.small_tokenizers import train_tokenizer

# The last words are unknown, or are spelled in letters and bytes.
TEXTS = [
    "the film is great",
    "a great plot, and then ...",
    "them",
    "the actor was not bad",
    "東京 film",
    "ü",
    "[MASK] film",
]
OTHER_TEXTS = ["charming stories", "the cold scene"]
CORPUS = [*TEXTS[:4], *OTHER_TEXTS, "moving scripts", "slow movies", "tedious"] * 3


def wordpiece_tokenizer():
    return train_tokenizer(CORPUS, "wordpiece", vocab_size=90, min_frequency=1, pairs=True)


def bpe_tokenizer():
    return train_tokenizer(CORPUS, "bpe", vocab_size=90, min_frequency=1, pairs=True)


def unigram_tokenizer():
    return train_tokenizer(CORPUS, "unigram", vocab_size=60, pairs=True)


KINDS = {
    "wordpiece": wordpiece_tokenizer,
    "bpe": bpe_tokenizer,
    "unigram": unigram_tokenizer,
    "byte-level bpe": byte_level_tokenizer,
    "sentencepiece": sentence_piece_tokenizer,
}


@pytest.fixture(params=[*KINDS, "words"])
def any_tokenizer(request, tokenizer):
    return copy.deepcopy(tokenizer) if request.param == "words" else KINDS[request.param]()


def bert_for(tokenizer, **given):
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 32}
    config = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id, **sizes, **given}
    return shaken(BertForSequenceClassification(BertConfig(**config)))


def logits(model, tokenizer, texts, pairs=None):
    return torch.from_numpy(predict_logits(torch_runner(model), tokenizer, texts, pairs))


def test_logits_stay_with_padding_pairs_and_unknown_words(any_tokenizer):
    model = bert_for(any_tokenizer)
    pruned, smaller = prune_vocabulary(model, any_tokenizer, TEXTS)
    assert len(smaller) < len(any_tokenizer)
    assert pruned.get_input_embeddings().num_embeddings == pruned.config.vocab_size == len(smaller)
    assert_same(logits(pruned, smaller, TEXTS), logits(model, any_tokenizer, TEXTS))
    pairs = TEXTS[::-1]
    assert_same(logits(pruned, smaller, TEXTS, pairs), logits(model, any_tokenizer, TEXTS, pairs))
    assert not torch.allclose(logits(model, any_tokenizer, TEXTS), logits(model, any_tokenizer, TEXTS)[:1], atol=0.05)
    for text in [*TEXTS, *OTHER_TEXTS]:
        smaller(text)  # what is not in use is spelled otherwise, and never an error
    assert smaller.special_tokens_map == any_tokenizer.special_tokens_map
    assert type(smaller) is type(any_tokenizer)


def test_model_and_tokenizer_are_saved_and_opened(any_tokenizer, tmp_path):
    pruned, smaller = prune_vocabulary(bert_for(any_tokenizer), any_tokenizer, TEXTS)
    pruned.save_pretrained(tmp_path)
    smaller.save_pretrained(tmp_path)
    loaded, loaded_tokenizer = load_classifier(tmp_path)
    assert_same(logits(loaded, loaded_tokenizer, TEXTS), logits(pruned, smaller, TEXTS), atol=1e-6)
    opened = AutoTokenizer.from_pretrained(tmp_path)
    assert opened(TEXTS)["input_ids"] == smaller(TEXTS)["input_ids"]
    assert opened.model_max_length == any_tokenizer.model_max_length


def rules_of(tokenizer):
    """What a tokenizer does, but for the padding and truncation of its last call."""
    return json.loads(tokenizer.backend_tokenizer.to_str()) | {"padding": None, "truncation": None}


def test_long_texts_are_cut_at_the_same_end_even_after_saving(tmp_path):
    tokenizer = wordpiece_tokenizer()
    tokenizer.truncation_side, tokenizer.padding_side, tokenizer.model_max_length = "left", "left", 6
    model = bert_for(tokenizer)
    pruned, smaller = prune_vocabulary(model, tokenizer, TEXTS)
    assert (smaller.truncation_side, smaller.padding_side) == ("left", "left")
    smaller.save_pretrained(tmp_path)
    for each in (smaller, AutoTokenizer.from_pretrained(tmp_path)):
        assert_same(logits(pruned, each, TEXTS), logits(model, tokenizer, TEXTS))


def test_model_and_tokenizer_given_are_left_as_they_are(any_tokenizer):
    model = bert_for(any_tokenizer).requires_grad_(False)
    before, table = copy.deepcopy(model.state_dict()), model.get_input_embeddings()
    ids, described = any_tokenizer(OTHER_TEXTS)["input_ids"], rules_of(any_tokenizer)
    pruned, _ = prune_vocabulary(model, any_tokenizer, TEXTS)
    assert model.get_input_embeddings() is table
    assert all(torch.equal(model.state_dict()[name], weight) for name, weight in before.items())
    assert rules_of(any_tokenizer) == described
    assert any_tokenizer(OTHER_TEXTS)["input_ids"] == ids
    assert not {p.data_ptr() for p in pruned.parameters()} & {p.data_ptr() for p in model.parameters()}
    assert all(parameter.requires_grad for parameter in pruned.parameters())


def test_roberta_keeps_its_positions(tmp_path):
    tokenizer = byte_level_tokenizer(model_input_names=["input_ids", "attention_mask"])
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 32}
    config = RobertaConfig(vocab_size=len(tokenizer) + 3, pad_token_id=1, type_vocab_size=1, **sizes)
    model = prune(shaken(RobertaForSequenceClassification(config)), importance="random", num_heads=2, keep=None)
    pruned, smaller = prune_vocabulary(model, tokenizer, TEXTS)
    assert (pruned.config.pad_token_id, pruned.config.eos_token_id, pruned.config.bos_token_id) == (1, 2, 0)
    assert type(pruned) is type(model)
    assert_same(logits(pruned, smaller, TEXTS), logits(model, tokenizer, TEXTS))
    assert len(smaller) == pruned.config.vocab_size < len(tokenizer)


def test_numbers_of_special_tokens_in_the_configuration_move_with_them():
    tokenizer = KINDS["wordpiece"]()
    tokenizer.add_special_tokens({"pad_token": "[LATE PAD]", "cls_token": "[LATE CLS]"})
    model = bert_for(tokenizer, bos_token_id=tokenizer.cls_token_id, eos_token_id=40)
    pruned, smaller = prune_vocabulary(model, tokenizer, ["the film"])
    assert smaller.pad_token == "[LATE PAD]"
    assert pruned.config.pad_token_id == smaller.pad_token_id == pruned.get_input_embeddings().padding_idx
    assert pruned.config.bos_token_id == smaller.cls_token_id < len(smaller)
    assert pruned.config.eos_token_id is None  # a token that is gone
    assert_same(logits(pruned, smaller, ["the film", "the"]), logits(model, tokenizer, ["the film", "the"]))


def test_pairs_stay_refused_by_a_tokenizer_of_single_texts():
    tokenizer = train_tokenizer(CORPUS, "wordpiece", vocab_size=90)
    _, smaller = prune_vocabulary(bert_for(tokenizer), tokenizer, ["the film"])
    refusal = 2**31 - 1
    assert refusal in tokenizer("the", "film")["input_ids"] and refusal in smaller("the", "film")["input_ids"]


def test_added_words_stay_though_no_text_has_them():
    tokenizer = KINDS["bpe"]()
    tokenizer.add_tokens([AddedToken("blockbuster", single_word=True)])
    _, smaller = prune_vocabulary(bert_for(tokenizer), tokenizer, ["the film"])
    assert smaller.tokenize("the blockbuster")[-1] == "blockbuster"


def wordpiece_of(words):
    vocabulary = {token: number for number, token in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *words])}
    backend = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=10))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]")


def test_an_unknown_word_stays_unknown_though_shorter_pieces_would_spell_it():
    # "abx" is "ab" and then unknown. Without "ab" it would be "a" and "##bx", both of which are in use.
    tokenizer = wordpiece_of(["a", "ab", "##bx", "c", "d"])
    texts = ["abx", "a", "c", "cbx", "abababababababab"]
    _, smaller = prune_vocabulary(bert_for(tokenizer), tokenizer, texts)
    assert smaller.get_vocab().keys() == {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "ab", "##bx", "c"}
    assert smaller.tokenize("abx d") == ["[UNK]", "[UNK]"]


def test_a_merged_token_keeps_what_it_is_merged_from():
    vocabulary = {token: number for number, token in enumerate(["<unk>", "a", "b", "c", "d", "ab", "abc", "bc", "cd"])}
    merges = [("a", "b"), ("ab", "c"), ("b", "c"), ("c", "d")]
    backend = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", pad_token="<unk>")
    _, smaller = prune_vocabulary(bert_for(tokenizer), tokenizer, ["abc", "x"])
    assert smaller.get_vocab().keys() == {"<unk>", "a", "b", "c", "ab", "abc"}
    assert smaller.tokenize("abcd") == ["abc", "<unk>"]


def test_the_rarest_token_and_bytes_of_a_unigram_model_stay():
    pieces = [("<unk>", 0.0), ("<0x41>", -8.0), ("a", -1.0), ("b", -2.0), ("ab", -9.5), ("c", -3.0)]
    model = {"type": "Unigram", "unk_id": 0, "vocab": pieces, "byte_fallback": True}
    in_use = np.array([False, False, True, False, False, False])
    stay = tokens_that_stay({"model": model, "added_tokens": []}, in_use)
    assert np.flatnonzero(stay).tolist() == [0, 1, 2, 4]
    assert in_use.sum() == 1


def test_a_text_that_would_be_read_otherwise_stops_it(monkeypatch):
    # Were merged tokens kept without what they are merged from.
    tokenizer = KINDS["bpe"]()
    monkeypatch.setattr(kept_tokens, "merges_of", lambda model: iter(()))
    with pytest.raises(RuntimeError, match="The smaller tokenizer reads 'the film is great' as"):
        prune_vocabulary(bert_for(tokenizer), tokenizer, TEXTS)


def test_other_architectures_tokenizers_and_no_texts_are_refused(any_tokenizer):
    model = bert_for(any_tokenizer)
    stranger = GPT2ForSequenceClassification(GPT2Config(vocab_size=20, n_embd=8, n_layer=1, n_head=2, n_positions=8))
    with pytest.raises(ValueError, match=r"model_type='gpt2'.*bert, roberta, electra, distilbert, xlm-roberta"):
        prune_vocabulary(stranger, any_tokenizer, TEXTS)
    with pytest.raises(ValueError, match="texts is empty"):
        prune_vocabulary(model, any_tokenizer, [])
    with pytest.raises(ValueError, match=r"model.config.pad_token_id=7, tokenizer.pad_token_id=.* another model"):
        prune_vocabulary(bert_for(any_tokenizer, pad_token_id=7), any_tokenizer, TEXTS)
    with pytest.raises(ValueError, match="has embeddings for 20: it is the tokenizer of another model"):
        prune_vocabulary(bert_for(any_tokenizer, vocab_size=20), any_tokenizer, TEXTS)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ("the film is great", "texts is a str, where a list of texts or a column is needed"),
        (Dataset.from_dict({"sentence": TEXTS}), "texts is a Dataset, where a list of texts or a column is needed"),
        (["a film", ("a plot", "a film")], r"texts\[1\] is .* a tuple: each must be a string"),
        (["a film", None], r"texts\[1\] is 'None', a NoneType: each must be a string"),
    ],
)
def test_what_is_no_list_of_texts_is_refused(texts, message):
    tokenizer = wordpiece_tokenizer()
    with pytest.raises(TypeError, match=message):
        prune_vocabulary(bert_for(tokenizer), tokenizer, texts)


def test_tokenizers_that_cannot_be_cut_are_refused():
    tokenizer = KINDS["bpe"]()
    model = bert_for(tokenizer)
    random = copy.deepcopy(tokenizer)
    random.backend_tokenizer.model.dropout = 0.1
    with pytest.raises(ValueError, match=r"dropout=0.1: it cuts the same text differently"):
        prune_vocabulary(model, random, TEXTS)

    class Slow:
        is_fast = False

    with pytest.raises(ValueError, match="tokenizer=Slow is a slow one"):
        prune_vocabulary(model, Slow(), TEXTS)

    class Other:
        is_fast = True

        class backend_tokenizer:  # noqa: N801
            to_str = staticmethod(lambda: '{"model": {"type": "Letters"}, "added_tokens": []}')

    with pytest.raises(ValueError, match="a model of type 'Letters'"):
        prune_vocabulary(model, Other(), TEXTS)


def test_the_real_vocabulary_is_cut_to_real_texts(minilm_folder, tmp_path):
    model, tokenizer = load_classifier(minilm_folder)
    texts = ["a gorgeous , witty , seductive movie .", "unflinchingly bleak and desperate", "zzyzx 東京 \u2603"]
    pruned, smaller = prune_vocabulary(model, tokenizer, texts)
    assert len(smaller) < 60
    assert_same(logits(pruned, smaller, texts), logits(model, tokenizer, texts))
    pruned.save_pretrained(tmp_path)
    smaller.save_pretrained(tmp_path)
    loaded, loaded_tokenizer = load_classifier(tmp_path)
    assert_same(logits(loaded, loaded_tokenizer, texts), logits(pruned, smaller, texts), atol=1e-6)
