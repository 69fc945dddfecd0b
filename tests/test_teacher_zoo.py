"""Any architecture teaches: a row alone has the logits it has in a padded batch, labelled ahead or read online."""

import copy

import numpy as np
import pytest
import torch
from datasets import Dataset
from vocabulary import LABELS
from zoo import make_teacher, make_tokenizer

from distil_trainer.collator import DistillationCollator
from distil_trainer.inference import predict_logits, torch_runner
from distil_trainer.input_checks import check_end_tokens, check_padding, padding_side
from distil_trainer.labeling import TeacherLabeler
from distil_trainer.loading import load_classifier

TEXTS = [
    "a good film",
    "the movie is not very good but the plot was brilliant and moving",
    "bad",
    "slow and tedious story of a sad actor",
    "really great",
]
PAIRS = ["the plot", "bad", "we was with the cold story", "dull", "they"]


def rows_alone(model, tokenizer, texts, pairs=None, **tokenization):
    """Return the logits of each row in a batch of its own, where nothing is padded."""
    logits = []
    for index, text in enumerate(texts):
        inputs = tokenizer(text, None if pairs is None else pairs[index], return_tensors="pt", **tokenization)
        with torch.no_grad():
            logits.append(model(**inputs).logits)
    return torch.cat(logits).numpy()


def label(model, tokenizer, folder, pairs=None, texts=TEXTS, **options):
    columns = {"sentence": texts} | ({} if pairs is None else {"second": pairs})
    labeler = TeacherLabeler(
        model,
        tokenizer,
        text_pair_column=None if pairs is None else "second",
        dtype="float32",
        cache_dir=folder,
        **options,
    )
    return np.array(labeler.map(Dataset.from_dict(columns))["teacher_logits"], dtype=np.float32)


def record_inputs(model):
    given = []
    model.register_forward_pre_hook(lambda module, args, kwargs: given.append(kwargs), with_kwargs=True)
    return given


@pytest.mark.parametrize("tokenizers_side", ["left", "right"])
@pytest.mark.parametrize("pairs", [None, PAIRS], ids=["texts", "pairs"])
def test_a_labelled_row_has_its_logits_alone_whatever_side_the_tokenizer_pads(
    any_teacher, tmp_path, pairs, tokenizers_side
):
    model, tokenizer = any_teacher
    expected = rows_alone(model, tokenizer, TEXTS, pairs)
    assert expected.std(axis=0).max() > 0.1  # rows differ, so that wrong ones would show
    tokenizer.padding_side = tokenizers_side
    np.testing.assert_allclose(label(model, tokenizer, tmp_path, pairs), expected, atol=1e-5)


@pytest.mark.parametrize("pairs", [None, PAIRS], ids=["texts", "pairs"])
def test_a_row_in_a_collated_batch_has_its_logits_alone(any_teacher, pairs):
    model, tokenizer = any_teacher
    encoded = tokenizer(TEXTS, pairs)
    rows = [{name: encoded[name][index] for name in encoded} for index in range(len(TEXTS))]
    padder = copy.deepcopy(tokenizer)
    padder.padding_side = padding_side(model.config)
    with torch.no_grad():
        logits = model(**DistillationCollator(padder)(rows)).logits.numpy()
    np.testing.assert_allclose(logits, rows_alone(model, tokenizer, TEXTS, pairs), atol=1e-5)


def test_padding_on_the_other_side_would_change_the_logits(any_teacher):
    model, tokenizer = any_teacher
    other = {"left": "right", "right": "left"}[padding_side(model.config)]
    logits = predict_logits(torch_runner(model), tokenizer, TEXTS, padding_side=other)
    assert np.abs(logits - rows_alone(model, tokenizer, TEXTS)).max() > 1e-2


def test_truncated_rows_keep_what_the_head_reads(any_teacher, tmp_path):
    model, tokenizer = any_teacher
    expected = rows_alone(model, tokenizer, TEXTS, truncation=True, max_length=5)
    np.testing.assert_allclose(label(model, tokenizer, tmp_path, max_length=5), expected, atol=1e-5)


def test_a_saved_teacher_is_loaded_whole(any_teacher, tmp_path):
    model, tokenizer = any_teacher
    model.save_pretrained(tmp_path / "teacher")
    tokenizer.save_pretrained(tmp_path / "teacher")
    loaded, loaded_tokenizer = load_classifier(tmp_path / "teacher", label_names=LABELS)
    expected = rows_alone(model, tokenizer, TEXTS)
    np.testing.assert_allclose(label(loaded, loaded_tokenizer, tmp_path / "store"), expected, atol=1e-5)


@pytest.mark.parametrize("architecture", ["bert", "electra", "xlnet"])
def test_token_types_reach_models_that_take_them(teacher_zoo, tmp_path, architecture):
    model, tokenizer = teacher_zoo(architecture)
    given = record_inputs(model)
    label(model, tokenizer, tmp_path, PAIRS)
    assert given and all(set(inputs["token_type_ids"].unique().tolist()) >= {0, 1} for inputs in given)


def test_token_types_do_not_reach_a_model_that_takes_none(teacher_zoo, tmp_path):
    model, _ = teacher_zoo("distilbert")
    _, tokenizer = teacher_zoo("bert")
    given = record_inputs(model)
    label(model, tokenizer, tmp_path, PAIRS)
    assert {name for inputs in given for name in inputs} == {"input_ids", "attention_mask"}


def test_the_tokenizers_own_side_is_not_part_of_the_key(any_teacher):
    model, tokenizer = any_teacher
    fingerprints = set()
    for side in ("left", "right"):
        tokenizer.padding_side = side
        fingerprints.add(TeacherLabeler(model, tokenizer, dtype="float32").fingerprint)
    assert len(fingerprints) == 1


@pytest.mark.parametrize("architecture", ["bart", "t5"])
def test_a_text_that_spells_the_end_token_is_labelled_as_it_is_alone(teacher_zoo, tmp_path, architecture):
    model, tokenizer = teacher_zoo(architecture)
    texts = ["a good film", "bad </s> plot", "the </s> story </s> was slow", "dull </s>", "sad"]
    logits = label(model, tokenizer, tmp_path, texts=texts)
    np.testing.assert_allclose(logits, rows_alone(model, tokenizer, texts), atol=1e-5)


@pytest.mark.parametrize("architecture", ["bart", "t5"])
def test_rows_with_unequal_numbers_of_end_tokens_are_refused_by_number(teacher_zoo, architecture):
    model, tokenizer = teacher_zoo(architecture)
    check_end_tokens(model.config, tokenizer(TEXTS)["input_ids"])
    rows = tokenizer(["a good film", "bad", "the </s> story"])["input_ids"]
    with pytest.raises(ValueError, match="Row 102 has 2 end tokens .* row 100 has 1.*replace it in them"):
        check_end_tokens(model.config, rows, first_row=100)


def test_rows_of_models_without_end_tokens_are_not_checked(teacher_zoo):
    check_end_tokens(teacher_zoo("bert")[0].config, [[2, 3, 3], [2, 3]])


@pytest.mark.parametrize("architecture", ["bart", "t5"])
def test_rows_without_an_end_token_are_refused(teacher_zoo, architecture):
    model, tokenizer = teacher_zoo(architecture)
    rows = tokenizer(TEXTS, add_special_tokens=False)["input_ids"]
    with pytest.raises(ValueError, match="has no end token .* the model's own"):
        check_end_tokens(model.config, rows)
    with pytest.raises(ValueError, match="has no end token .* the model's own"):
        torch_runner(model)({"input_ids": np.array(rows[:1])})


@pytest.mark.parametrize("architecture", ["bart", "t5"])
def test_an_encoder_decoder_padded_with_its_end_token_is_refused(teacher_zoo, tmp_path, architecture):
    model, tokenizer = teacher_zoo(architecture)
    tokenizer.pad_token = tokenizer.eos_token
    with pytest.raises(ValueError, match="pads with '</s>', the end token"):
        TeacherLabeler(model, tokenizer)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="pads with '</s>', the end token"):
        load_classifier(tmp_path)


@pytest.mark.parametrize("configured", [None, 7])
def test_a_decoder_that_knows_another_padding_token_is_refused(teacher_zoo, configured):
    model, tokenizer = teacher_zoo("gpt2")
    model.config.pad_token_id = configured
    with pytest.raises(ValueError, match=f"pad_token_id={configured}, its tokenizer has 0"):
        TeacherLabeler(model, tokenizer)


def test_a_gpt2_without_padding_token_gets_one_that_the_model_knows(tmp_path):
    model, tokenizer = make_teacher("gpt2").eval(), make_tokenizer("gpt2")
    tokenizer.pad_token = model.config.pad_token_id = None
    model.save_pretrained(tmp_path / "teacher")
    tokenizer.save_pretrained(tmp_path / "teacher")
    loaded, loaded_tokenizer = load_classifier(tmp_path / "teacher")
    assert loaded_tokenizer.pad_token_id == loaded.config.pad_token_id == 0
    expected = rows_alone(model, tokenizer, TEXTS)
    np.testing.assert_allclose(label(loaded, loaded_tokenizer, tmp_path / "store"), expected, atol=1e-5)


def test_an_xlnet_whose_head_counts_padding_is_refused(teacher_zoo):
    model, tokenizer = teacher_zoo("xlnet")
    model.config.summary_type = "mean"
    with pytest.raises(ValueError, match="summary_type='mean'.*only 'last' can be padded"):
        TeacherLabeler(model, tokenizer)


def test_a_tokenizer_without_padding_token_is_left_to_those_who_pad(teacher_zoo):
    model, tokenizer = teacher_zoo("bert")
    tokenizer.pad_token = None
    check_padding(model.config, tokenizer)
    with pytest.raises(ValueError, match="has no padding token"):
        predict_logits(torch_runner(model), tokenizer, TEXTS)


def test_a_text_without_tokens_is_refused_by_number(teacher_zoo):
    model, tokenizer = teacher_zoo("gpt2")
    with pytest.raises(ValueError, match=r"texts\[1\]=' ' has no tokens"):
        predict_logits(torch_runner(model), tokenizer, ["a film", " "])
