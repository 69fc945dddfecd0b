from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import Dataset
from tokenizers import processors
from transformers import AutoTokenizer, GPT2Config, GPT2Model, TrainingArguments
from writing_models import POSITIONS, word_tokenizer, writing_model

from distil_trainer.augmentation import language_model
from distil_trainer.augmentation.decoding import sample_texts
from distil_trainer.augmentation.language_model import fine_tune_language_model, load_language_model
from distil_trainer.augmentation.small_gpt2 import small_gpt2

TEXTS = ["the film is good", "a dull plot"]
END = 0


@pytest.fixture
def tokenizer():
    return word_tokenizer()


@pytest.fixture
def model(tokenizer):
    return writing_model(tokenizer)


@pytest.fixture
def make_arguments(tmp_path):
    def make(**given):
        given = {"max_steps": 2, "per_device_train_batch_size": 4, "report_to": [], **given}
        return TrainingArguments(
            str(tmp_path / "out"), use_cpu=True, disable_tqdm=True, dataloader_pin_memory=False, **given
        )

    return make


@pytest.fixture
def fine_tune(model, tokenizer, make_arguments):
    def call(texts=TEXTS, arguments=None, model=model, tokenizer=tokenizer, **given):
        columns = {"sentence": texts} if isinstance(texts, list) else texts
        given = {"max_length": POSITIONS, **given}
        return fine_tune_language_model(
            model, tokenizer, Dataset.from_dict(columns), arguments or make_arguments(), **given
        )

    return call


def encode(tokenizer, texts, max_length=POSITIONS, columns=("sentence",)):
    dataset = Dataset.from_dict(dict(zip(columns, texts, strict=True)))
    return language_model._encode(dataset, tokenizer, list(columns), max_length)["input_ids"][:]


# What the model reads


def test_each_row_ends_in_the_end_token_and_the_loss_is_over_it_and_over_no_padding(tokenizer):
    """The end token pads too, as GPT-2 has no padding token."""
    rows = [{"input_ids": tokens} for tokens in encode(tokenizer, [["the film", "a"]])]
    the, film, a = (tokenizer.convert_tokens_to_ids(word) for word in ("the", "film", "a"))
    batch = language_model._Collator(END)(rows)
    assert batch["input_ids"].tolist() == [[the, film, END], [a, END, END]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]
    assert batch["labels"].tolist() == [[the, film, END], [a, END, -100]]


def test_a_row_that_is_cut_has_no_end_token(tokenizer, caplog):
    with caplog.at_level("INFO", logger="distil_trainer"):
        rows = encode(tokenizer, [["the film is good", "the film is", "a"]], max_length=4)
    assert [len(row) for row in rows] == [4, 4, 2]
    assert [row[-1] == END for row in rows] == [False, True, True]
    assert "1 of 3 rows are longer than max_length=4" in caplog.text


def test_what_a_tokenizer_puts_before_every_text_stands_before_every_row():
    tokenizer = word_tokenizer(bos_token="<s>")
    start = tokenizer.convert_tokens_to_ids("<s>")
    assert language_model.first_tokens(tokenizer) == []
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A <end>", pair="$A $B", special_tokens=[("<s>", start), ("<end>", END)]
    )
    assert language_model.first_tokens(tokenizer) == [start]
    (row,) = encode(tokenizer, [["the film"]])
    assert row == [start, *tokenizer("the film", add_special_tokens=False).input_ids, END]


def test_a_pair_is_joined_by_the_separator():
    tokenizer = word_tokenizer(sep_token="<sep>")
    (row,) = encode(tokenizer, [["the film"], ["a"]], columns=("one", "two"))
    assert tokenizer.convert_ids_to_tokens(row) == ["the", "film", "<sep>", "a", "<end>"]


# Training


def test_a_fine_tuned_model_writes_the_texts_it_has_seen(fine_tune, make_arguments, tokenizer):
    arguments = make_arguments(max_steps=30, learning_rate=0.03)
    model, metrics = fine_tune(TEXTS * 4, arguments, eval_dataset=Dataset.from_dict({"sentence": TEXTS}))
    assert not model.training and metrics["eval_loss"] < 0.1 < metrics["train_loss"]
    prefixes = [tokenizer(text).input_ids[:1] for text in TEXTS]
    written = sample_texts(
        model, prefixes * 10, np.arange(20), end_token_id=END, max_length=POSITIONS, temperature=0.3
    )
    assert tokenizer.batch_decode(written) == TEXTS * 10


def test_pairs_give_the_tokenizer_a_separator_and_the_model_a_row_for_it(fine_tune, model, tokenizer, make_arguments):
    embeddings = model.get_input_embeddings().weight.detach().clone()
    pairs = {"one": TEXTS, "two": ["a film", "the plot is dull"]}
    trained, _ = fine_tune(
        pairs, make_arguments(max_steps=1, learning_rate=0.0), text_column="one", text_pair_column="two"
    )
    assert tokenizer.sep_token == "<|sep|>" and tokenizer.sep_token_id == len(tokenizer) - 1 == len(embeddings)
    grown = trained.get_input_embeddings().weight
    assert trained.config.vocab_size == len(grown) == len(tokenizer)
    assert torch.equal(grown[:-1], embeddings)


def test_a_resumed_training_ends_where_an_uninterrupted_one_does(tokenizer, make_arguments, tmp_path):
    texts = [f"{first} film is {last}" for first in ("the", "a", "this") for last in ("good", "bad", "dull", "slow")]

    def train(resume_from_checkpoint=None):
        arguments = make_arguments(max_steps=5, save_steps=2, save_strategy="steps")
        model, _ = fine_tune_language_model(
            writing_model(tokenizer),
            tokenizer,
            Dataset.from_dict({"sentence": texts}),
            arguments,
            max_length=POSITIONS,
            resume_from_checkpoint=resume_from_checkpoint,
        )
        return model.state_dict()

    whole = train()
    resumed = train(str(tmp_path / "out" / "checkpoint-4"))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_steps_are_random_rows_and_their_batches_have_similar_lengths(fine_tune, make_arguments, monkeypatch):
    """Steps of similar rows would teach the model to write texts that are too short."""
    lengths = []
    collate = language_model._Collator.__call__

    def spy(collator, rows):
        lengths.append([len(row["input_ids"]) for row in rows])
        return collate(collator, rows)

    monkeypatch.setattr(language_model._Collator, "__call__", spy)
    texts = ["the film is good"] * 80 + ["dull"] * 80
    fine_tune(texts, make_arguments(num_train_epochs=1, max_steps=-1, gradient_accumulation_steps=4))
    steps = np.array(lengths[:40]).reshape(10, 16)
    assert all((np.diff(step) <= 0).all() for step in steps)
    assert (steps == 5).sum() == (steps == 2).sum() == 80
    assert all(2 <= (step == 5).sum() <= 14 for step in steps)


# Loading and making


def test_a_model_is_loaded_in_float32_whatever_it_is_saved_in(model, tokenizer, tmp_path):
    model.bfloat16().save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    loaded, loaded_tokenizer = load_language_model(tmp_path)
    assert loaded.dtype == torch.float32 and not loaded.training
    assert loaded_tokenizer.eos_token == "<end>"


def test_a_small_gpt2_writes_any_text_and_is_the_same_from_the_same_texts(tmp_path):
    texts = ["it 's a  film .\n", "ünïcödé 영화 🙂"] * 3
    state = torch.get_rng_state()
    (model, tokenizer), (again, tokenizer_again) = (
        small_gpt2(iter(texts), vocab_size=270, num_layers=1, hidden_size=64, max_length=POSITIONS) for _ in range(2)
    )
    assert torch.equal(torch.get_rng_state(), state)
    assert tokenizer.get_vocab() == tokenizer_again.get_vocab() and len(tokenizer) == 270
    assert all(torch.equal(*weights) for weights in zip(model.parameters(), again.parameters(), strict=True))
    tokenizer.save_pretrained(tmp_path)
    for kind in (tokenizer, AutoTokenizer.from_pretrained(tmp_path)):
        for text in [*texts, "Never seen: \t語"]:
            tokens = kind(text).input_ids
            assert kind.decode(tokens, clean_up_tokenization_spaces=False) == text and kind.eos_token_id not in tokens
    other, _ = small_gpt2(texts, vocab_size=270, num_layers=1, hidden_size=64, seed=1)
    assert not torch.equal(other.transformer.wte.weight, model.transformer.wte.weight)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"vocab_size": 256}, "vocab_size=256 must be at least 257"),
        ({"hidden_size": 100}, "hidden_size=100 must be a multiple of 64"),
        ({"hidden_size": 0}, "hidden_size=0 must be a multiple of 64"),
    ],
)
def test_sizes_that_cannot_be_made_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        small_gpt2(TEXTS, **given)


def test_texts_that_are_no_strings_are_refused():
    with pytest.raises(TypeError, match=r"texts\[1\]=3"):
        small_gpt2(["a", 3])


# Refusals


def test_a_tokenizer_without_an_end_token_is_refused_with_the_way_out(fine_tune, tokenizer):
    tokenizer.eos_token = None
    with pytest.raises(ValueError, match=r"no end token.*add_special_tokens.*resize_token_embeddings"):
        fine_tune()


def test_models_that_cannot_write_and_foreign_tokenizers_are_refused(fine_tune, tokenizer):
    with pytest.raises(TypeError, match="is a slow one"):
        fine_tune(tokenizer=SimpleNamespace(is_fast=False))
    with pytest.raises(TypeError, match="is a GPT2Model, which has no head"):
        fine_tune(model=GPT2Model(GPT2Config(vocab_size=len(tokenizer), n_embd=16, n_layer=1, n_head=2)))
    with pytest.raises(ValueError, match="the model embeddings for 44: some token numbers would fall outside"):
        fine_tune(tokenizer=word_tokenizer(bos_token="<s>"))


@pytest.mark.parametrize(
    ("texts", "given", "message"),
    [
        (["good", "bad <end> good"], {}, "row 1, column 'sentence', holds '<end>'.*learn to end there"),
        (["good <|sep|> bad"], {}, "row 0, column 'sentence', holds '<|sep|>'"),
        (["good", " "], {}, "row 1 has sentence=' '"),
        ({"text": TEXTS}, {}, "train_dataset has no column 'sentence'"),
        (TEXTS, {"text_pair_column": "second"}, "train_dataset has no column 'second'.*text_pair_column="),
        (TEXTS, {"text_pair_column": "sentence"}, "name the same column"),
        (TEXTS, {"eval_dataset": Dataset.from_dict({"sentence": [""]})}, "eval_dataset: row 0"),
        (TEXTS, {"max_length": 1}, "max_length=1 must be at least 2"),
        (TEXTS, {"max_length": POSITIONS + 1}, f"at most {POSITIONS}, the positions"),
    ],
)
def test_texts_and_lengths_that_would_teach_nonsense_are_refused(fine_tune, texts, given, message):
    with pytest.raises(ValueError, match=message.replace("|", r"\|")):
        fine_tune(texts, **given)


def test_a_column_of_numbers_is_refused(fine_tune):
    with pytest.raises(TypeError, match="column 'sentence' holds int64"):
        fine_tune({"sentence": [1, 2]})
