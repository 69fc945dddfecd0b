import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import Dataset, Value
from datasets.fingerprint import Hasher
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertModel,
    DistilBertConfig,
    DistilBertForMaskedLM,
    ElectraConfig,
    ElectraForMaskedLM,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForMaskedLM,
)

from distil_trainer.augmentation.masked_rewriting import MaskedRewriter
from distil_trainer.small_tokenizers import train_tokenizer

SIZES = dict(
    hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, max_position_embeddings=80
)
LONG = "the film is a really good story with a very brilliant actor"


@pytest.fixture
def rows():
    texts = [LONG, "the  film\tis GOOD ", "dull", "a charming and moving script of this actor"]
    return Dataset.from_dict({"sentence": texts * 5, "label": [1, 0] * 10, "id": list(range(20))})


@pytest.fixture
def model(tokenizer):
    return make_model(tokenizer)


def make_model(tokenizer, likelier=None, seed=0):
    """A random BERT; `likelier` maps tokens to what is added to their scores."""
    torch.manual_seed(seed)
    model = BertForMaskedLM(BertConfig(vocab_size=len(tokenizer), **SIZES)).eval()
    with torch.no_grad():
        for token, bonus in (likelier or {}).items():
            model.cls.predictions.bias[tokenizer.convert_tokens_to_ids(token)] = bonus
    return model


def rewrite(rewriter, dataset, **given):
    given = {"batched": True, "with_indices": True, "remove_columns": dataset.column_names, **given}
    return dataset.map(rewriter, **given)


def inputs_of(model, rewriter, **columns):
    """Return what the model was given when a batch was rewritten."""
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        forward = model.forward

        def spy(**inputs):
            seen.append(inputs)
            return forward(**inputs)

        patch.setattr(model, "forward", spy)
        rewriter(columns, list(range(len(next(iter(columns.values()))))))
    return seen


# Rows


def test_the_original_comes_first_and_copies_have_no_label(model, tokenizer, rows):
    out = rewrite(MaskedRewriter(model, tokenizer, copies=3), rows)
    assert set(out.column_names) == {"sentence", "label", "parent", "operators"}
    assert out.features["parent"] == Value("int64")
    originals = out.filter(lambda row: row["operators"] == "original")
    assert originals["sentence"][:] == rows["sentence"][:] and originals["label"][:] == rows["label"][:]
    assert originals["parent"][:] == list(range(20))
    copies = out.filter(lambda row: row["operators"] == "masked_lm")
    assert set(copies["label"]) == {-1} and 40 < len(copies) <= 60
    assert out["parent"][:] == sorted(out["parent"])
    for parent in range(20):
        group = [row["sentence"] for row in out if row["parent"] == parent]
        assert group[0] == rows[parent]["sentence"] and len(set(group)) == len(group)


def test_labels_that_are_no_integers_are_null_on_copies(model, tokenizer):
    out = MaskedRewriter(model, tokenizer)({"sentence": [LONG], "label": [0.5]}, [0])
    assert out["label"] == [0.5, None]


def test_rows_do_not_depend_on_their_batch_or_the_random_state(model, tokenizer, rows):
    rewriter = MaskedRewriter(model, tokenizer, copies=3, seed=5)
    texts = rows["sentence"][:]
    expected = rewriter({"sentence": texts}, list(range(20)))
    rewriter.tokens_per_batch = 20
    torch.manual_seed(99)
    state = torch.get_rng_state()
    for start in (0, 3, 17):
        part = rewriter({"sentence": texts[start:]}, list(range(start, 20)))
        first = expected["parent"].index(start)
        assert part == {column: values[first:] for column, values in expected.items()}
    assert torch.equal(torch.get_rng_state(), state)


def test_another_seed_row_or_copy_gives_another_text(model, tokenizer):
    texts = [
        text
        for seed in (0, 1)
        for text in MaskedRewriter(model, tokenizer, copies=3, seed=seed)({"sentence": [LONG] * 3}, [0, 1, 2])[
            "sentence"
        ]
    ]
    assert len(set(texts)) > 15


def test_the_fingerprint_is_that_of_weights_and_settings(tokenizer):
    def fingerprint(seed=0, **settings):
        return Hasher.hash(MaskedRewriter(make_model(tokenizer, seed=seed), tokenizer, **settings))

    assert fingerprint() == fingerprint()
    others = [{"seed": 1}, {"share": 0.3}, {"copies": 2}, {"text_column": "text"}, {"max_length": 9}]
    others += [{"label_column": "gold"}, {"text_pair_column": "other"}]
    assert len({fingerprint(), *(fingerprint(**other) for other in others)}) == len(others) + 1


# Masks


@pytest.mark.parametrize(("share", "masks"), [(0.2, 2), (0.25, 3), (0.01, 1), (1.0, 12)])
def test_the_share_of_words_is_masked_and_at_least_one(model, tokenizer, share, masks):
    (inputs,) = inputs_of(model, MaskedRewriter(model, tokenizer, share=share), sentence=[LONG])
    assert (inputs["input_ids"] == tokenizer.mask_token_id).sum() == masks


def test_each_word_is_masked_as_often_as_any_other(model, tokenizer):
    rewriter = MaskedRewriter(model, tokenizer, copies=2400, share=0.01, tokens_per_batch=10**6)
    (inputs,) = inputs_of(model, rewriter, sentence=[LONG])
    shares = (inputs["input_ids"] == tokenizer.mask_token_id).float().mean(dim=0)
    assert shares[0] == shares[-1] == 0  # [CLS] and [SEP]
    assert shares[1:-1].tolist() == pytest.approx([1 / 12] * 12, abs=0.02)


def test_one_mask_stands_for_all_pieces_of_a_word():
    tokenizer = train_tokenizer(["a film sings"] * 3, "wordpiece", vocab_size=60)
    assert tokenizer.tokenize("films") == ["film", "##s"]
    model = make_model(tokenizer)
    (inputs,) = inputs_of(model, MaskedRewriter(model, tokenizer), sentence=["films"])
    assert inputs["input_ids"].tolist() == [[tokenizer.cls_token_id, tokenizer.mask_token_id]]


def test_mask_words_of_the_text_stay_and_are_not_sampled(model, tokenizer):
    batch = {"sentence": ["the [MASK] film", "[MASK] [MASK]"]}
    out = MaskedRewriter(model, tokenizer, share=1.0, copies=5)(batch, [0, 1])
    copies = [text for text, operator in zip(out["sentence"], out["operators"], strict=True) if operator != "original"]
    assert copies and all(re.fullmatch(r"\w+ \[MASK\] \w+", text) for text in copies)


# Tokens


def test_a_token_is_drawn_as_often_as_its_probability_says(tokenizer):
    model = make_model(tokenizer)
    with torch.no_grad():
        model.cls.predictions.decoder.weight.zero_()
        model.cls.predictions.bias.fill_(-50.0)
        for word, share in (("film", 6), ("plot", 3), ("actor", 1)):
            model.cls.predictions.bias[tokenizer.convert_tokens_to_ids(word)] = np.log(share)
    texts = MaskedRewriter(model, tokenizer)({"sentence": ["dull"] * 4000}, list(range(4000)))["sentence"][1::2]
    shares = [texts.count(word) / 4000 for word in ("film", "plot", "actor")]
    assert shares == pytest.approx([0.6, 0.3, 0.1], abs=0.025)


def test_special_tokens_are_never_sampled(tokenizer):
    model = make_model(tokenizer, dict.fromkeys(tokenizer.all_special_tokens, 1000.0))
    out = MaskedRewriter(model, tokenizer, copies=50, share=1.0)({"sentence": [LONG]}, [0])
    assert len(out["sentence"]) == 51 and not any("[" in text for text in out["sentence"])


def test_all_but_the_chosen_words_stays_as_it_is(model, tokenizer):
    text = " The  FILM\tis\nGreat ,  not bad "
    out = MaskedRewriter(model, tokenizer, copies=20)({"sentence": [text]}, [0])
    gaps = re.split(r"\w+|,", text)
    for copy in out["sentence"][1:]:
        assert re.split(r"\w+|,", copy) == gaps
        assert sum(a != b for a, b in zip(copy.split(), text.split(), strict=True)) == 1


def test_what_lies_behind_the_length_stays(model, tokenizer):
    out = MaskedRewriter(model, tokenizer, share=1.0, copies=5, max_length=4)({"sentence": [LONG]}, [0])
    assert len(out["sentence"]) == 6
    assert all(text.endswith(LONG[len("the film") :]) for text in out["sentence"])


def byte_level_tokenizer():
    """RoBERTa's kind: a space belongs to the word that follows, `Ġ`, and the mask takes the space before it along."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = ["Ġfilm", "Ġplot", "film", "ing"]
    merges = [("Ġ", "f"), ("f", "i"), ("fi", "l"), ("fil", "m"), ("Ġ", "film"), ("i", "n"), ("in", "g")]
    merges += [("p", "l"), ("pl", "o"), ("plo", "t"), ("Ġ", "plot")]
    parts = ["Ġf", "fi", "fil", "in", "pl", "plo", "plot"]
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    vocabulary = {token: number for number, token in enumerate([*special, *letters, *parts, *words])}
    backend = Tokenizer(models.BPE(vocabulary, merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    names = ("bos_token", "pad_token", "eos_token", "unk_token")
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, mask_token="<mask>", cls_token="<s>", sep_token="</s>", model_max_length=64,
        **dict(zip(names, special, strict=False)),
    )  # fmt: skip


def test_a_word_begins_where_it_did_and_broken_characters_are_never_sampled():
    tokenizer = byte_level_tokenizer()
    torch.manual_seed(0)
    model = RobertaForMaskedLM(RobertaConfig(vocab_size=len(tokenizer), pad_token_id=1, **SIZES))
    batch = {"sentence": ["film plot film,ing [MASK] plot"]}
    out = MaskedRewriter(model, tokenizer, share=1.0, copies=40)(batch, [0])
    assert len(out["sentence"]) == 41
    for text in out["sentence"]:
        assert len(text.split()) == 5 and text.split()[3] == "[MASK]"
        assert "\ufffd" not in text and "Ġ" not in text


def test_any_family_rewrites(tokenizer):
    torch.manual_seed(0)
    size = dict(vocab_size=len(tokenizer))
    families = [
        RobertaForMaskedLM(RobertaConfig(pad_token_id=0, **size, **SIZES)),
        ElectraForMaskedLM(ElectraConfig(embedding_size=8, **size, **SIZES)),
        DistilBertForMaskedLM(DistilBertConfig(dim=16, n_layers=1, n_heads=2, hidden_dim=16, **size)),
    ]
    for family in families:
        assert len(MaskedRewriter(family, tokenizer)({"sentence": [LONG, "dull"]}, [0, 1])["sentence"]) > 2


# Pairs


def test_both_texts_of_a_pair_are_rewritten_and_read_at_once(model, tokenizer):
    rewriter = MaskedRewriter(model, tokenizer, text_column="one", text_pair_column="two", copies=30)
    batch = {"one": ["the film is good"], "two": ["a  dull plot"]}
    out = rewriter(batch, [7])
    assert (out["one"][0], out["two"][0]) == ("the film is good", "a  dull plot")
    assert len(set(zip(out["one"], out["two"], strict=True))) == len(out["one"]) > 20
    assert len(set(out["one"])) > 3 and len(set(out["two"])) > 3 and set(out["parent"]) == {7}
    assert all("  " in text and len(text.split()) == 3 for text in out["two"])
    inputs = inputs_of(model, rewriter, **batch)[0]
    assert inputs["token_type_ids"][0].tolist() == [0] * 6 + [1] * 4


# Refusals


def test_models_and_tokenizers_that_fill_in_nothing_are_refused(model, tokenizer):
    with pytest.raises(TypeError, match="is a BertModel, which has no head.*AutoModelForMaskedLM"):
        MaskedRewriter(BertModel(BertConfig(vocab_size=50, **SIZES)), tokenizer)
    with pytest.raises(TypeError, match="is a slow one"):
        MaskedRewriter(model, SimpleNamespace(is_fast=False))
    with pytest.raises(ValueError, match=r"no mask token \(mask_token is None\)"):
        MaskedRewriter(model, PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer, unk_token="[UNK]"))
    with pytest.raises(ValueError, match="the model predicts 7: this is the tokenizer of another model"):
        MaskedRewriter(BertForMaskedLM(BertConfig(vocab_size=7, **SIZES)), tokenizer)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"share": 0.0}, "share=0.0 must be above 0 and at most 1"),
        ({"share": 20}, "share=20 must be above 0"),
        ({"copies": 0}, "copies=0 must be at least 1"),
        ({"max_length": 0}, "max_length=0 must be at least 1"),
        ({"tokens_per_batch": 0}, "tokens_per_batch=0 must be at least 1"),
        ({"text_pair_column": "sentence"}, "name the same column"),
    ],
)
def test_settings_out_of_range_are_refused(model, tokenizer, given, message):
    with pytest.raises(ValueError, match=message):
        MaskedRewriter(model, tokenizer, **given)


def test_rows_that_cannot_be_read_are_refused(model, tokenizer):
    rewriter = MaskedRewriter(model, tokenizer)
    with pytest.raises(TypeError, match="without row indices.*with_indices=True"):
        rewriter({"sentence": ["the film"]})
    with pytest.raises(ValueError, match=r"no column 'sentence'; it has \['text'\]"):
        rewriter({"text": ["the film"]}, [0])
    with pytest.raises(ValueError, match="row 8 has sentence=' '"):
        rewriter({"sentence": ["the film", " "]}, [7, 8])
    with pytest.raises(TypeError, match="holds int64"):
        rewriter({"sentence": [3]}, [0])


def test_nan_scores_are_refused(model, tokenizer):
    torch.nn.init.constant_(model.cls.predictions.bias, torch.nan)
    with pytest.raises(ValueError, match="NaN scores"):
        MaskedRewriter(model, tokenizer)({"sentence": ["the film"]}, [0])
