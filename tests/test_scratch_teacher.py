"""A teacher from scratch: its shape, what masked words teach it, and how it goes on where it was cut off."""

import pytest
import torch
from transformers import BertConfig, BertForMaskedLM

from distil_trainer import load_classifier, scratch_teacher
from distil_trainer.scratch_teacher import teacher_from_scratch

NOUNS = ("영화가", "작품이", "배우가", "음악이")
TEXTS = [f"{noun} {adverb} 좋았다" for noun in NOUNS for adverb in ("정말", "너무")] * 8
LABELS = ["negative", "positive"]
SMALL = {"vocab_size": 60, "num_layers": 1, "hidden_size": 64, "max_length": 16, "batch_size": 16, "seed": 3}


class Interrupted(Exception):
    pass


@pytest.fixture
def trainers(monkeypatch):
    """The `Trainer`s that are made, each with an attribute: the step at which it is to be cut off."""
    made = []

    class Trainer(scratch_teacher._LengthGroupedTrainer):
        cut_off_at = None

        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            made.append(self)

        def training_step(self, *args, **options):
            if self.state.global_step == Trainer.cut_off_at:
                raise Interrupted
            return super().training_step(*args, **options)

    monkeypatch.setattr(scratch_teacher, "_LengthGroupedTrainer", Trainer)
    Trainer.made = made
    return Trainer


def test_it_is_a_bert_of_the_asked_shape_with_the_labels_given():
    teacher, tokenizer = teacher_from_scratch(TEXTS, LABELS, **SMALL, mlm_epochs=0)
    config = teacher.config
    assert (config.model_type, config.num_hidden_layers, config.hidden_size) == ("bert", 1, 64)
    assert (config.num_attention_heads, config.intermediate_size, config.max_position_embeddings) == (1, 256, 16)
    assert config.id2label == dict(enumerate(LABELS)) and config.vocab_size == len(tokenizer) <= 60
    assert tokenizer.model_max_length == 16 and tokenizer.mask_token == "[MASK]" and not teacher.training
    assert teacher(**tokenizer(TEXTS[:3], padding=True, return_tensors="pt")).logits.shape == (3, 2)


def test_a_teacher_of_pairs_tells_the_two_texts_apart():
    teacher, tokenizer = teacher_from_scratch(TEXTS, LABELS, **SMALL, mlm_max_steps=1, pairs=True)
    inputs = tokenizer(TEXTS[:2], TEXTS[2:4], truncation=True, return_tensors="pt", padding=True)
    assert inputs["token_type_ids"].unique().tolist() == [0, 1]
    assert teacher(**inputs).logits.shape == (2, 2)


def test_it_is_saved_and_loaded_like_any_classifier(tmp_path):
    teacher, tokenizer = teacher_from_scratch(TEXTS, LABELS, **SMALL, mlm_epochs=0)
    teacher.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    loaded, its_tokenizer = load_classifier(tmp_path, label_names=LABELS)
    inputs = tokenizer(TEXTS[:3], padding=True, return_tensors="pt")
    assert its_tokenizer(TEXTS[:3], padding=True)["input_ids"] == inputs["input_ids"].tolist()
    torch.testing.assert_close(loaded(**inputs).logits, teacher(**inputs).logits)


def test_masked_words_teach_the_encoder_and_leave_the_head_fresh(trainers):
    fresh, _ = teacher_from_scratch(TEXTS, LABELS, **SMALL, mlm_epochs=0)
    taught, _ = teacher_from_scratch(TEXTS, LABELS, **SMALL, mlm_max_steps=60, learning_rate=2e-3)
    losses = [entry["loss"] for entry in trainers.made[0].state.log_history if "loss" in entry]
    assert losses[-1] < 0.6 * losses[0]
    for name, weight in fresh.state_dict().items():
        is_same = torch.equal(weight, taught.state_dict()[name])
        assert is_same == (name.startswith(("classifier", "bert.pooler"))), name


def test_the_encoder_is_that_of_the_masked_language_model(trainers):
    teacher, _ = teacher_from_scratch(TEXTS, LABELS, **SMALL, mlm_max_steps=2)
    model = trainers.made[0].model
    assert model.cls.predictions.decoder.weight is model.bert.embeddings.word_embeddings.weight
    for name, weight in model.bert.state_dict().items():
        torch.testing.assert_close(teacher.bert.state_dict()[name], weight, rtol=0, atol=0)


def test_scoring_masked_tokens_alone_gives_the_loss_of_scoring_all():
    config = BertConfig(
        vocab_size=40, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    ours, theirs = scratch_teacher._MaskedLanguageModel(config), BertForMaskedLM(config)
    theirs.load_state_dict(ours.state_dict())
    inputs = {"input_ids": torch.randint(5, 40, (4, 7)), "attention_mask": torch.ones(4, 7, dtype=torch.long)}
    inputs["attention_mask"][0, 4:] = 0
    labels = torch.where(torch.rand(4, 7) < 0.3, inputs["input_ids"], -100)
    labels[1, 1] = 7
    for model in (ours, theirs):
        model(**inputs, labels=labels).loss.backward()
    torch.testing.assert_close(ours(**inputs, labels=labels).loss, theirs(**inputs, labels=labels).loss)
    for weight, same in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(weight.grad, same.grad, rtol=1e-4, atol=1e-7)
    assert ours(**inputs, labels=torch.full_like(labels, -100)).loss == 0  # not NaN


def test_texts_of_similar_length_share_a_step(trainers):
    texts = [*TEXTS, *(" ".join(TEXTS[:3]) for _ in TEXTS)]
    teacher_from_scratch(texts, LABELS, **SMALL, mlm_max_steps=1)
    shares = [batch["attention_mask"].float().mean().item() for batch in trainers.made[0].get_train_dataloader()]
    assert sum(shares) / len(shares) > 0.9  # in random order 0.70


def test_it_reads_in_bfloat16_where_asked(trainers):
    teacher, _ = teacher_from_scratch(TEXTS, LABELS, **SMALL, mlm_max_steps=1, use_cpu=True, bf16=True)
    assert trainers.made[0].args.bf16 and all(weight.isfinite().all() for weight in teacher.parameters())


def test_the_seed_decides_the_weights():
    weights = [
        teacher_from_scratch(TEXTS, LABELS, **SMALL | {"seed": seed}, mlm_max_steps=2)[0].state_dict()
        for seed in (3, 3, 4)
    ]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert not torch.equal(weights[0]["classifier.weight"], weights[2]["classifier.weight"])


def test_one_that_was_cut_off_goes_on_from_its_last_checkpoint(trainers, tmp_path):
    whole, _ = teacher_from_scratch(TEXTS, LABELS, **SMALL, mlm_max_steps=6, output_dir=tmp_path / "whole")
    trainers.cut_off_at = 4
    with pytest.raises(Interrupted):
        teacher_from_scratch(TEXTS, LABELS, **SMALL, mlm_max_steps=6, output_dir=tmp_path / "cut")
    trainers.cut_off_at = 0  # a third that began anew would be cut off
    resumed, _ = teacher_from_scratch(TEXTS, LABELS, **SMALL, mlm_max_steps=6, output_dir=tmp_path / "cut")
    for name, weight in whole.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], weight, rtol=0, atol=0)
    again, _ = teacher_from_scratch(TEXTS, LABELS, **SMALL, mlm_max_steps=6, output_dir=tmp_path / "whole")
    for name, weight in whole.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], weight, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("texts", "labels", "options", "error", "message"),
    [
        (TEXTS, ["only"], {}, ValueError, "needs at least two labels"),
        (TEXTS, LABELS, {"hidden_size": 100}, ValueError, "hidden_size=100 must be a multiple of 64"),
        (TEXTS, LABELS, {"hidden_size": 0}, ValueError, "hidden_size=0 must be a multiple of 64"),
        (TEXTS, LABELS, {"mlm_epochs": -1}, ValueError, "mlm_epochs=-1 must be at least 0"),
        (iter(TEXTS), LABELS, {}, TypeError, "can be read once only"),
        ("영화가 좋았다", LABELS, {}, TypeError, "is one string"),
        (["좋다", None], LABELS, {}, TypeError, r"texts\[1\]=None is of type NoneType"),
        (["", " "], LABELS, {}, ValueError, "hold no words"),
    ],
)
def test_what_makes_no_teacher_is_refused(texts, labels, options, error, message):
    with pytest.raises(error, match=message):
        teacher_from_scratch(texts, labels, **{**SMALL, **options})
