import copy
import logging

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, List, Value
from torch.nn import functional as F
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    FNetConfig,
    FNetForSequenceClassification,
    TrainerCallback,
    TrainingArguments,
    default_data_collator,
)

from distil_trainer.arguments import DistillationArguments
from distil_trainer.collator import DistillationCollator
from distil_trainer.inference import predict_logits, torch_runner
from distil_trainer.losses import soft_target_kl
from distil_trainer.trainer import DistillationTrainer

NAMES = ["negative", "positive"]


@pytest.fixture
def teacher(teacher):
    """The tiny teacher with a head that tells rows apart; straight from its random start it barely does."""
    with torch.no_grad():
        teacher.classifier.weight.mul_(50)
    return teacher


@pytest.fixture
def make_student(teacher):
    def make(dropout=0.0, names=NAMES, seed=1):
        config = copy.deepcopy(teacher.config)
        config.num_hidden_layers = 2
        config.hidden_dropout_prob = config.attention_probs_dropout_prob = dropout
        config.id2label = dict(enumerate(names))
        config.label2id = {name: index for index, name in enumerate(names)}
        torch.manual_seed(seed)
        return BertForSequenceClassification(config)

    return make


@pytest.fixture
def signal(reviews, tokenizer):
    """The reviews with teacher logits in the form in which `TeacherLabeler` writes them: each word has its weight."""
    weights = np.random.default_rng(5).normal(size=len(tokenizer))
    scores = [weights[tokenizer(text)["input_ids"][1:-1]].sum() for text in reviews["sentence"]]
    return _with_signal(reviews, np.array([[-score, score] for score in scores]))


def _with_signal(dataset, logits, names=NAMES):
    labels = logits.argmax(axis=1).tolist() if np.isfinite(logits).all() else [0] * len(logits)
    dataset = dataset.add_column("teacher_logits", logits.tolist())
    dataset = dataset.cast_column("teacher_logits", List(Value("float32"), length=logits.shape[1]))
    return dataset.add_column("teacher_label", labels).cast_column("teacher_label", ClassLabel(names=names))


@pytest.fixture
def make_args(tmp_path):
    def make(**given):
        common = {"learning_rate": 1e-3, "save_strategy": "no", "use_cpu": True, "disable_tqdm": True}
        given = {**common, "drop_evaluation_rows": False, **given}  # many tests evaluate on the rows they train on
        return DistillationArguments(str(tmp_path / "out"), **given)

    return make


@pytest.fixture
def train(make_student, make_args, signal, tokenizer):
    def run(student=None, dataset=None, teacher=None, eval_dataset=None, resume=None, callbacks=None, **given):
        trainer = DistillationTrainer(
            make_student() if student is None else student,
            make_args(**given),
            train_dataset=signal if dataset is None else dataset,
            eval_dataset=eval_dataset,
            processing_class=tokenizer,
            teacher=teacher,
            callbacks=callbacks,
        )
        trainer.train(resume_from_checkpoint=resume)
        return trainer

    return run


def _difference(first, second):
    pairs = zip(first.model.parameters(), second.model.parameters(), strict=True)
    return max((one - other).abs().max().item() for one, other in pairs)


@pytest.mark.parametrize(
    "losses",
    [
        {"logit_loss": "kl"},
        {"logit_loss": "mse", "length_grouped_batches": True},
        {"logit_loss": "soft_cross_entropy", "hard_label_weight": 0.5, "length_grouped_batches": True},
    ],
    ids=["kl", "mse_grouped", "soft_cross_entropy_and_hard_labels"],
)
def test_one_batch_of_eight_equals_four_accumulated_batches_of_two(train, signal, make_student, losses):
    start = [parameter.clone() for parameter in make_student().parameters()]
    # Every other row unlabelled: a mean over labelled rows alone would differ between the two.
    mixed = signal.map(lambda row, index: {"label": row["label"] if index % 2 else -1}, with_indices=True)
    # Plain descent without clipping keeps the size of the gradients visible.
    common = {"max_steps": 6, "optim": "sgd", "learning_rate": 0.1, "max_grad_norm": 0.0, **losses}
    one = train(dataset=mixed, per_device_train_batch_size=8, **common)
    four = train(dataset=mixed, per_device_train_batch_size=2, gradient_accumulation_steps=4, **common)
    moved = max((old - new).abs().max().item() for old, new in zip(start, one.model.parameters(), strict=True))
    assert moved > 1e-3
    assert _difference(one, four) < 1e-6


@pytest.mark.parametrize("cut", [(4, 2), (2, 4), (3, 3)], ids=lambda cut: f"{cut[1]}x{cut[0]}")
@pytest.mark.parametrize("losses", [{}, {"hard_label_weight": 0.5, "logit_loss": "mse"}], ids=["kl", "two_terms"])
def test_a_short_last_batch_counts_by_its_rows(train, signal, cut, losses):
    seven = signal.select(range(7))
    common = {"num_train_epochs": 2, "logging_steps": 1, "optim": "sgd", "learning_rate": 0.1, "max_grad_norm": 0.0}
    one = train(dataset=seven, per_device_train_batch_size=7, **common, **losses)
    rows, batches = cut
    ragged = train(
        dataset=seven, per_device_train_batch_size=rows, gradient_accumulation_steps=batches, **common, **losses
    )
    assert one.state.global_step == ragged.state.global_step == 2
    assert _difference(one, ragged) < 1e-6
    for whole, cut_up in zip(one.state.log_history[:2], ragged.state.log_history[:2], strict=True):
        assert cut_up == {name: pytest.approx(value, rel=1e-4, abs=2e-4) for name, value in whole.items()}


class _Kill(TrainerCallback):
    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("grouped", "save_steps"),
    [
        pytest.param(False, 4, id="random_order-mid_epoch"),
        pytest.param(True, 6, id="length_grouped-end_of_epoch"),
        pytest.param(False, 6, id="random_order-end_of_epoch", marks=pytest.mark.slow),
        pytest.param(True, 4, id="length_grouped-mid_epoch", marks=pytest.mark.slow),
    ],
)
def test_a_killed_and_resumed_run_equals_one_without_interruption(train, make_student, tmp_path, grouped, save_steps):
    common = {
        "num_train_epochs": 3,
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 2,
        "length_grouped_batches": grouped,
        "hard_label_weight": 0.3,
    }
    straight = train(student=make_student(dropout=0.2), **common)
    saving = {**common, "save_strategy": "steps", "save_steps": save_steps}
    with pytest.raises(KeyboardInterrupt):
        train(student=make_student(dropout=0.2), callbacks=[_Kill(15)], **saving)
    checkpoint = tmp_path / "out" / f"checkpoint-{save_steps * (15 // save_steps)}"
    assert checkpoint.is_dir()
    resumed = train(student=make_student(dropout=0.2, seed=99), resume=str(checkpoint), **saving)
    assert resumed.state.global_step == straight.state.global_step == 18
    assert _difference(straight, resumed) == 0.0


def test_each_epoch_and_each_seed_has_its_own_order(train):
    trainer = train(max_steps=1)
    sampler = trainer._get_train_sampler()
    first = list(sampler)
    assert sorted(first) == list(range(48))
    assert first == list(sampler)
    sampler.set_epoch(1)
    assert list(sampler) != first
    trainer.args.seed = 43
    assert list(trainer._get_train_sampler()) != first


def test_length_grouped_batches_pad_less_and_begin_with_the_longest(train):
    trainer = train(max_steps=1, length_grouped_batches=True, per_device_train_batch_size=4)
    lengths = np.array([len(row["input_ids"]) for row in trainer.train_dataset])

    def padded_tokens(sampler):
        order = np.array(list(sampler)).reshape(-1, 4)
        return lengths[order].max(axis=1).sum() * 4

    grouped = trainer._get_train_sampler()
    assert sorted(grouped) == list(range(48))
    assert lengths[list(grouped)[:4]].max() == lengths.max()
    trainer.args.length_grouped_batches = False
    assert padded_tokens(grouped) < 0.8 * padded_tokens(trainer._get_train_sampler())


def test_an_order_of_the_stock_trainer_is_honoured(train, make_args):
    names = DistillationArguments.__dataclass_fields__
    other = {"group_by_length": True} if "group_by_length" in names else {"train_sampling_strategy": "group_by_length"}
    assert type(train(max_steps=1, **other)._get_train_sampler()).__name__ == "LengthGroupedSampler"


def test_padding_does_not_change_the_loss(train, tokenizer):
    trainer = train(max_steps=1, hard_label_weight=1.0)
    trainer.model.train()
    rows = [trainer.train_dataset[index] for index in range(6)]
    batch = DistillationCollator(tokenizer)(rows)
    padded = {name: F.pad(batch[name], (0, 9)) for name in ("input_ids", "attention_mask")}
    loss = trainer.compute_loss(trainer.model, batch)
    padded_loss = trainer.compute_loss(trainer.model, {**batch, **padded})
    assert padded_loss.item() == pytest.approx(loss.item(), abs=1e-6)


def test_the_loss_is_the_weighted_sum_of_its_terms_and_each_is_logged_once_a_logging_step(train):
    trainer = train(
        max_steps=4, logging_steps=2, gradient_accumulation_steps=2, hard_label_weight=0.5, temperature=3.0
    )
    logs = [log for log in trainer.state.log_history if "loss" in log]
    assert [log["step"] for log in logs] == [2, 4]
    for log in logs:
        total = log["soft_target_kl"] + 0.5 * log["hard_label_cross_entropy"]
        assert float(log["loss"]) == pytest.approx(total, abs=1e-4)
        assert log["soft_target_kl"] > 0


def test_a_term_of_weight_zero_is_neither_computed_nor_logged(train):
    log = train(max_steps=1, logging_steps=1, logit_loss="mse").state.log_history[0]
    assert "logit_mse" in log
    assert "hard_label_cross_entropy" not in log
    log = train(max_steps=1, logging_steps=1, logit_loss_weight=0.0, hard_label_weight=1.0).state.log_history[0]
    assert "hard_label_cross_entropy" in log
    assert "soft_target_kl" not in log


def test_the_first_loss_is_that_of_the_models_themselves(train, make_student, signal, tokenizer):
    log = train(max_steps=1, logging_steps=1, per_device_train_batch_size=48).state.log_history[0]
    student_logits = predict_logits(torch_runner(make_student()), tokenizer, signal["sentence"])
    expected = soft_target_kl(torch.tensor(student_logits), torch.tensor(signal["teacher_logits"]), 2.0)
    assert log["soft_target_kl"] == pytest.approx(expected.item(), abs=1e-5)


def test_the_student_learns_what_the_teacher_says_not_what_the_gold_labels_say(train, signal, tokenizer):
    trainer = train(num_train_epochs=12, learning_rate=5e-3)
    logits = predict_logits(torch_runner(trainer.model), tokenizer, signal["sentence"])
    agreement = (logits.argmax(1) == np.array(signal["teacher_label"])).mean()
    share_of_majority = max(np.bincount(signal["teacher_label"])) / len(signal)
    assert agreement > max(0.9, share_of_majority)


def test_label_smoothing_acts_on_the_hard_label_term(train):
    trainer = train(max_steps=1, logit_loss_weight=0.0, hard_label_weight=1.0, label_smoothing_factor=0.2)
    trainer.model.train()
    batch = next(iter(trainer.get_train_dataloader()))
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    expected = F.cross_entropy(trainer.model(**inputs).logits, batch["labels"], label_smoothing=0.2)
    assert trainer.compute_loss(trainer.model, batch).item() == pytest.approx(expected.item(), abs=1e-6)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_an_online_teacher_gives_what_cached_logits_give(
    train, make_student, signal, reviews, teacher, tokenizer, dropout
):
    logits = predict_logits(torch_runner(teacher), tokenizer, reviews["sentence"])
    cached = train(
        student=make_student(dropout), dataset=_with_signal(reviews, logits), max_steps=5, learning_rate=1e-2
    )
    teacher.train()
    online = train(student=make_student(dropout), dataset=reviews, teacher=teacher, max_steps=5, learning_rate=1e-2)
    assert _difference(cached, online) < 1e-5


def test_an_online_teacher_never_changes_and_gets_no_gradient(train, reviews, teacher):
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    train(dataset=reviews, teacher=teacher, max_steps=3, learning_rate=0.1, weight_decay=0.1)
    assert not teacher.training
    for name, value in teacher.state_dict().items():
        assert torch.equal(value, before[name])
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in teacher.parameters())


def test_a_teacher_reads_token_types_that_the_student_does_not(reviews, teacher, tokenizer, make_args):
    torch.manual_seed(2)
    config = DistilBertConfig(
        vocab_size=teacher.config.vocab_size, dim=32, n_layers=1, n_heads=4, hidden_dim=64, max_position_embeddings=80
    )
    pairs = reviews.add_column("other", reviews["sentence"][::-1])
    trainer = DistillationTrainer(
        DistilBertForSequenceClassification(config),
        make_args(max_steps=2, text_pair_column="other"),
        train_dataset=pairs,
        eval_dataset=pairs,
        processing_class=tokenizer,
        teacher=teacher,
    )
    batch = next(iter(trainer.get_train_dataloader()))
    assert batch["token_type_ids"].max() == 1
    expected = teacher(**{name: batch[name] for name in ("input_ids", "attention_mask", "token_type_ids")}).logits
    torch.testing.assert_close(trainer.teacher(batch, temperature=1.0).logits, expected)
    trainer.train()
    assert "token_type_ids" not in trainer.eval_dataset.column_names
    assert trainer.evaluate()["eval_loss"] > 0


def test_evaluation_needs_no_teacher_logits_and_its_loss_is_plain_cross_entropy(train, reviews, tokenizer):
    trainer = train(max_steps=1, eval_dataset=reviews, hard_label_weight=1.0, label_smoothing_factor=0.3)
    trainer.compute_metrics = lambda output: {"accuracy": (output.predictions.argmax(1) == output.label_ids).mean()}
    metrics = trainer.evaluate()
    logits = predict_logits(torch_runner(trainer.model), tokenizer, reviews["sentence"])
    labels = np.array(reviews["label"])
    assert metrics["eval_loss"] == pytest.approx(
        F.cross_entropy(torch.tensor(logits), torch.tensor(labels)).item(), abs=1e-5
    )
    assert metrics["eval_accuracy"] == (logits.argmax(1) == labels).mean()


def test_evaluation_takes_other_data_sets_of_raw_text_and_data_sets_by_name(train, reviews):
    trainer = train(max_steps=1, eval_dataset={"one": reviews, "two": reviews.select(range(8))})
    assert {"eval_one_loss", "eval_two_loss"} <= set(trainer.evaluate())
    assert trainer.evaluate(reviews)["eval_loss"] == pytest.approx(trainer.evaluate()["eval_one_loss"])


def test_rows_without_labels_are_evaluated_and_predicted_without_a_loss(train, signal, reviews):
    unlabelled = signal.map(lambda row: {"label": -1})
    trainer = train(max_steps=1, eval_dataset=unlabelled)
    assert "eval_loss" not in trainer.evaluate()
    output = trainer.predict(reviews.remove_columns("label"))
    assert output.predictions.shape == (48, 2)
    assert output.label_ids is None
    assert trainer.predict(reviews).label_ids.tolist() == reviews["label"]


def test_texts_are_tokenized_once_and_only_what_a_step_reads_is_kept(train, signal, tokenizer):
    masked = signal.add_column("parent", list(range(48)))
    trainer = train(dataset=masked, max_steps=1)
    assert trainer.train_dataset.column_names == ["teacher_logits", "input_ids"]
    assert trainer.train_dataset["input_ids"][5] == tokenizer(signal["sentence"][5])["input_ids"]


def test_the_mask_word_reaches_the_student_as_its_mask_token(train, signal, tokenizer, make_student, make_args):
    other = copy.deepcopy(tokenizer)
    other.mask_token = "they"
    masked = signal.map(lambda row: {"sentence": "the [MASK] is good"})
    trainer = DistillationTrainer(make_student(), make_args(), train_dataset=masked, processing_class=other)
    assert trainer.train_dataset[0]["input_ids"] == tokenizer("the they is good")["input_ids"]


def test_texts_are_cut_at_the_smaller_of_max_length_and_the_tokenizers_limit(train, signal, tokenizer):
    long = signal.map(lambda row: {"sentence": "good " * 100})
    assert len(train(dataset=long, max_steps=1).train_dataset[0]["input_ids"]) == tokenizer.model_max_length == 64
    assert len(train(dataset=long, max_steps=1, max_length=7).train_dataset[0]["input_ids"]) == 7


def test_tokenized_data_sets_are_taken_as_they_are(train, signal, tokenizer):
    encoded = signal.map(lambda batch: tokenizer(batch["sentence"]), batched=True)
    assert _difference(train(max_steps=3), train(dataset=encoded.with_format("torch"), max_steps=3)) == 0.0


def test_teacher_logits_in_another_label_order_are_permuted(train, make_student, signal, caplog):
    flipped = _with_signal(
        signal.remove_columns(["teacher_logits", "teacher_label"]),
        np.array(signal["teacher_logits"])[:, ::-1],
        names=["Positive", "Negative"],
    )
    expected = train(max_steps=3)
    with caplog.at_level(logging.WARNING, logger="distil_trainer"):
        permuted = train(dataset=flipped, max_steps=3)
    assert "are read in the student's order ['negative', 'positive']" in caplog.text
    assert _difference(expected, permuted) == 0.0


def test_an_online_teacher_in_another_label_order_is_permuted(train, make_student, reviews, teacher):
    expected = train(dataset=reviews, teacher=copy.deepcopy(teacher), max_steps=3)
    teacher.config.id2label = {0: "positive", 1: "negative"}
    with torch.no_grad():
        for parameter in teacher.classifier.parameters():
            parameter.copy_(parameter.flip(0))
    permuted = train(dataset=reviews, teacher=teacher, max_steps=3)
    assert _difference(expected, permuted) < 1e-7


def _flipped_names(dataset):
    features = dataset.features.copy()
    features["label"] = ClassLabel(names=["positive", "negative"])
    return features


def test_gold_labels_in_another_order_are_renumbered_for_training_and_evaluation(train, reviews, caplog):
    flipped = reviews.map(
        lambda row: {"label": 1 - row["label"]},
        features=_flipped_names(reviews),
    )
    gold = {"logit_loss_weight": 0.0, "hard_label_weight": 1.0, "max_steps": 3}
    expected = train(dataset=reviews, eval_dataset=reviews, **gold)
    with caplog.at_level(logging.INFO, logger="distil_trainer"):
        renumbered = train(dataset=flipped, eval_dataset=flipped, **gold)
    assert "are put into the student's order" in caplog.text
    assert _difference(expected, renumbered) == 0.0
    assert renumbered.evaluate()["eval_loss"] == expected.evaluate()["eval_loss"]
    assert renumbered.predict(flipped).label_ids.tolist() == reviews["label"]
    # A data set that was prepared once is not renumbered a second time.
    assert renumbered.evaluate(renumbered.eval_dataset)["eval_loss"] == expected.evaluate()["eval_loss"]


def test_unlabelled_rows_stay_unlabelled_when_labels_are_renumbered(train, signal):
    features = _flipped_names(signal)
    mixed = signal.map(lambda row, index: {"label": [-1, None, 0, 1][index % 4]}, with_indices=True, features=features)
    trainer = train(dataset=mixed, max_steps=1, hard_label_weight=1.0)
    rows = [trainer.train_dataset[index] for index in range(4)]
    assert trainer.data_collator(rows)["labels"].tolist() == [-100, -100, 1, 0]


def test_a_student_without_label_names_gets_the_teachers_or_else_the_datas(train, make_student, signal, reviews):
    student = make_student(names=["LABEL_0", "LABEL_1"])
    named = train(student=student, dataset=signal.remove_columns("label"), max_steps=1).model.config
    assert (named.id2label, named.label2id) == ({0: "negative", 1: "positive"}, {"negative": 0, "positive": 1})
    student = make_student(names=["LABEL_0", "LABEL_1"])
    gold = {"logit_loss_weight": 0.0, "hard_label_weight": 1.0, "max_steps": 1}
    assert train(student=student, dataset=reviews, **gold).model.config.id2label == {0: "negative", 1: "positive"}


def test_models_of_model_init_get_label_names_too(make_student, make_args, signal, tokenizer):
    trainer = DistillationTrainer(
        None,
        make_args(max_steps=1),
        train_dataset=signal,
        processing_class=tokenizer,
        model_init=lambda: make_student(names=["LABEL_0", "LABEL_1"]),
    )
    trainer.train()
    assert trainer.model.config.id2label == {0: "negative", 1: "positive"}


def test_a_saved_student_loads_with_auto_classes_and_gives_the_same_logits(train, reviews, tokenizer, tmp_path):
    trainer = train(max_steps=2)
    trainer.save_model(str(tmp_path / "student"))
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "student", dtype=torch.float32)
    reloaded = AutoTokenizer.from_pretrained(tmp_path / "student")
    expected = predict_logits(torch_runner(trainer.model), tokenizer, reviews["sentence"])
    assert np.array_equal(predict_logits(torch_runner(loaded), reloaded, reviews["sentence"]), expected)


def test_a_student_of_any_family_trains_on_cached_logits(train, any_family_model):
    before = copy.deepcopy(any_family_model)
    trainer = train(student=any_family_model, max_steps=2)
    assert trainer.state.global_step == 2
    names = [name for name, _ in before.named_parameters()]
    changed = [not torch.equal(*pair) for pair in zip(before.parameters(), trainer.model.parameters(), strict=True)]
    assert sum(changed) > 0.9 * len(names)


def test_training_in_bfloat16_works_with_cached_logits_and_with_a_teacher(train, reviews, teacher):
    assert train(max_steps=2, bf16=True).state.global_step == 2
    trainer = train(dataset=reviews, teacher=teacher, max_steps=2, bf16=True, logging_steps=1)
    assert np.isfinite(trainer.state.log_history[0]["soft_target_kl"])


def _bad_logits(signal, value, row=31):
    logits = np.array(signal["teacher_logits"], dtype=np.float32)
    logits[row, 1] = value
    return _with_signal(signal.remove_columns(["teacher_logits", "teacher_label"]), logits)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_teacher_logits_that_are_not_finite_are_refused_with_their_row(train, signal, value):
    with pytest.raises(ValueError, match=r"row 31 has teacher_logits=.*not finite"):
        train(dataset=_bad_logits(signal, value))


def test_rows_are_numbered_as_the_user_sees_them_after_a_selection(train, signal):
    with pytest.raises(ValueError, match="row 1 has teacher_logits"):
        train(dataset=_bad_logits(signal, np.nan).select(range(30, 40)))


def test_teacher_logits_that_are_missing_or_of_the_wrong_number_are_refused(train, signal):
    plain = signal.remove_columns("teacher_logits")
    logits = signal["teacher_logits"][:]
    with pytest.raises(ValueError, match="row 3 has no teacher_logits"):
        train(dataset=plain.add_column("teacher_logits", [*logits[:3], None, *logits[4:]]))
    with pytest.raises(ValueError, match="row 47 has 3 teacher_logits, but the student has 2 labels"):
        train(dataset=plain.add_column("teacher_logits", [*logits[:47], [0.0, 1.0, 2.0]]))
    with pytest.raises(ValueError, match="row 0 has 3 teacher_logits"):
        train(dataset=_with_signal(plain.remove_columns("teacher_label"), np.zeros((48, 3)), NAMES))
    with pytest.raises(TypeError, match="teacher_logits holds double"):
        train(dataset=plain.add_column("teacher_logits", [0.5] * 48))


def test_teacher_labels_that_differ_from_the_students_are_refused(train, signal, reviews, teacher, make_student):
    renamed = signal.cast_column("teacher_label", ClassLabel(names=["bad", "good"]))
    with pytest.raises(ValueError, match=r"the teacher names its labels \['bad', 'good'\]"):
        train(dataset=renamed)
    with pytest.raises(ValueError, match="column 'label'.* names its labels"):
        train(dataset=signal.cast_column("label", ClassLabel(names=["bad", "good"])), hard_label_weight=1.0)
    with pytest.raises(ValueError, match="student has 3 labels without names, the teacher or the data has 2"):
        train(student=make_student(names=["LABEL_0", "LABEL_1", "LABEL_2"]))
    with pytest.raises(ValueError, match="The teacher has 2 labels, the student 3"):
        train(student=make_student(names=["LABEL_0", "LABEL_1", "LABEL_2"]), dataset=reviews, teacher=teacher)


def test_a_signal_without_names_is_taken_in_order_with_one_warning(train, signal, caplog):
    with caplog.at_level(logging.WARNING, logger="distil_trainer"):
        nameless = train(dataset=signal.remove_columns("teacher_label"), max_steps=2)
    assert caplog.text.count("order of teacher_logits cannot be checked") == 1
    assert _difference(nameless, train(max_steps=2)) == 0.0


def test_missing_columns_are_refused_naming_those_that_are_there(train, signal, reviews):
    with pytest.raises(
        ValueError, match="train_dataset has no column 'text'; its columns are sentence, label, teacher"
    ):
        train(text_column="text")
    with pytest.raises(ValueError, match="train_dataset has no column 'other'.*text_pair_column="):
        train(text_pair_column="other")
    with pytest.raises(ValueError, match="train_dataset has no column 'gold'.*label_column="):
        train(label_column="gold", hard_label_weight=1.0)
    with pytest.raises(ValueError, match="eval_dataset has no column 'label'; its columns are sentence"):
        train(eval_dataset=reviews.remove_columns("label"))


@pytest.mark.parametrize("text", ["", "  \n", None])
def test_empty_texts_are_refused_with_their_row(train, signal, text):
    bad = signal.map(lambda row, index: {"sentence": text if index == 17 else row["sentence"]}, with_indices=True)
    with pytest.raises(ValueError, match="train_dataset: row 17 has sentence="):
        train(dataset=bad)
    with pytest.raises(ValueError, match="eval_dataset: row 17 has sentence="):
        train(eval_dataset=bad)


def test_texts_that_are_no_strings_are_refused(train, signal):
    numbers = signal.remove_columns("sentence").add_column("sentence", list(range(48)))
    with pytest.raises(TypeError, match="column 'sentence' holds int64, but texts must be strings"):
        train(dataset=numbers)


def test_gold_labels_that_do_not_fit_are_refused(train, signal, reviews):
    plain = reviews.cast_column("label", Value("int64"))
    bad = plain.map(lambda row, index: {"label": 2 if index == 9 else row["label"]}, with_indices=True)
    with pytest.raises(ValueError, match="eval_dataset: row 9 has label=2, but the student has 2 labels, 0 to 1"):
        train(eval_dataset=bad)
    with pytest.raises(TypeError, match="label_column='label' holds string, but labels must be integers"):
        train(eval_dataset=reviews.remove_columns("label").add_column("label", ["positive"] * 48))
    with pytest.raises(ValueError, match="47 of 48 rows are unlabelled"):
        train(eval_dataset=plain.map(lambda row, index: {"label": 0 if index == 0 else -1}, with_indices=True))


def test_gold_label_loss_without_a_labelled_row_is_refused(train, signal):
    unlabelled = signal.map(lambda row: {"label": -1})
    with pytest.raises(ValueError, match="no labelled row in column 'label'"):
        train(dataset=unlabelled, logit_loss_weight=0.0, hard_label_weight=1.0)


def test_none_or_two_sources_of_teacher_logits_are_refused(train, signal, reviews, teacher, make_student):
    with pytest.raises(ValueError, match=r"no column 'teacher_logits' .*TeacherLabeler\(teacher, teacher_tokenizer\)"):
        train(dataset=reviews)
    with pytest.raises(ValueError, match="which one shall teach"):
        train(teacher=teacher)
    with pytest.raises(ValueError, match="logit_loss_weight=0 and nothing else asks it"):
        train(dataset=reviews, teacher=teacher, logit_loss_weight=0.0, hard_label_weight=1.0)
    student = make_student()
    with pytest.raises(ValueError, match="teacher is the student itself"):
        train(student=student, dataset=reviews, teacher=student)


def test_an_online_teacher_with_another_vocabulary_is_refused(train, reviews, teacher, make_student):
    student = make_student()
    teacher.resize_token_embeddings(teacher.config.vocab_size + 7)
    with pytest.raises(ValueError, match="vocabulary has .* entries.*TeacherLabeler"):
        train(student=student, dataset=reviews, teacher=teacher)


def test_students_that_cannot_be_taught_are_refused(train, make_student):
    with pytest.raises(ValueError, match="weights are float16"):
        train(student=make_student().half())
    with pytest.raises(ValueError, match="weights are bfloat16"):
        train(student=make_student().bfloat16())
    student = make_student()
    student.config.problem_type = "multi_label_classification"
    with pytest.raises(TypeError, match="a student with several labels a row needs a list of label numbers a row"):
        train(student=student, hard_label_weight=1.0)
    student.config.problem_type = "ranking"
    with pytest.raises(ValueError, match="problem_type='ranking': choose one of single_label_classification"):
        train(student=student)


def test_wrong_types_and_empty_data_sets_are_refused(make_student, make_args, signal, tokenizer, train, tmp_path):
    with pytest.raises(TypeError, match="args is a TrainingArguments"):
        DistillationTrainer(make_student(), TrainingArguments(str(tmp_path), report_to="none"))
    with pytest.raises(TypeError, match="train_dataset is a list"):
        train(dataset=[{"sentence": "good"}])
    with pytest.raises(TypeError, match="eval_dataset is a IterableDataset"):
        train(eval_dataset=signal.to_iterable_dataset())
    with pytest.raises(ValueError, match="train_dataset has no rows"):
        train(dataset=signal.select([]))
    with pytest.raises(ValueError, match="processing_class=None"):
        DistillationTrainer(make_student(), make_args(), train_dataset=signal)
    with pytest.raises(ValueError, match="holds texts, and processing_class is None"):
        collator = DistillationCollator(tokenizer)
        DistillationTrainer(make_student(), make_args(), train_dataset=signal, data_collator=collator)
    with pytest.raises(TypeError, match="compute_loss_func"):
        DistillationTrainer(make_student(), make_args(), processing_class=tokenizer, compute_loss_func=len)


def test_the_rows_given_are_left_unchanged(train, signal):
    columns, first = signal.column_names, dict(signal[0])
    train(max_steps=1, hard_label_weight=1.0, eval_dataset=signal)
    assert isinstance(signal, Dataset)
    assert (signal.column_names, signal[0]) == (columns, first)


def test_a_collator_without_attention_masks_will_do_for_logits(
    train, make_student, make_args, tokenizer, reviews, teacher
):
    rows = reviews.map(lambda row: tokenizer(row["sentence"], padding="max_length", max_length=12, truncation=True))
    rows = rows.remove_columns(["attention_mask", "token_type_ids"])
    cached = _with_signal(rows, predict_logits(torch_runner(teacher), tokenizer, reviews["sentence"][:]))

    def make(dataset, teacher=None, **given):
        args = make_args(max_steps=1, **given)
        return DistillationTrainer(make_student(), args, dataset, teacher=teacher, data_collator=default_data_collator)

    make(cached).train()
    make(rows, teacher).train()
    with pytest.raises(ValueError, match="The batch has no attention_mask .*padding would count as text"):
        make(rows, teacher, hidden_loss_weight=1.0).train()


def test_a_transform_that_would_be_left_out_is_refused(train, signal):
    with pytest.raises(ValueError, match="train_dataset has a transform .*run it with `dataset.map`"):
        train(dataset=signal.with_transform(lambda batch: batch))
    with pytest.raises(ValueError, match="eval_dataset has a transform"):
        train(eval_dataset=signal.with_transform(lambda batch: batch))


def test_tokens_beyond_a_models_positions_are_refused(train, signal, reviews, tokenizer, make_student, teacher):
    long = ["good " * 90] + signal["sentence"][1:]
    tokens = [tokenizer(text, truncation=False)["input_ids"] for text in long]
    with pytest.raises(
        ValueError, match=r"train_dataset: row 0 has 92 tokens \(input_ids\), and the student has.* 80"
    ):
        train(dataset=signal.add_column("input_ids", tokens))
    with pytest.raises(ValueError, match="eval_dataset: row 0 has 92 tokens"):
        train(eval_dataset=reviews.add_column("input_ids", tokens))
    student = make_student()
    config = copy.deepcopy(teacher.config)
    config.max_position_embeddings = 6
    tokens = [tokenizer(text)["input_ids"] for text in reviews["sentence"]]
    with pytest.raises(ValueError, match="and the teacher has positions for 6"):
        train(student, reviews.add_column("input_ids", tokens), BertForSequenceClassification(config))


def test_an_online_teacher_without_label_names_is_taken_in_order_with_a_warning(train, reviews, teacher, caplog):
    teacher.config.id2label = {0: "LABEL_0", 1: "LABEL_1"}
    with caplog.at_level(logging.WARNING, logger="distil_trainer.compatibility"):
        train(dataset=reviews, teacher=teacher, max_steps=1)
    assert "teacher= has no names for its labels (LABEL_0, ...)" in caplog.text


def test_other_labels_do_not_matter_where_states_alone_are_learned(train, reviews, teacher, make_student):
    only_states = {"dataset": reviews, "teacher": teacher, "logit_loss_weight": 0.0, "hidden_loss_weight": 1.0}
    train(student=make_student(names=["bad", "good"]), max_steps=1, **only_states)
    train(student=make_student(names=["a", "b", "c"]), max_steps=1, **only_states)


@pytest.mark.parametrize("online", [False, True])
def test_students_and_teachers_that_are_no_transformers_learn_logits(train, reviews, tokenizer, teacher, online):
    def network(seed):
        torch.manual_seed(seed)
        config = FNetConfig(vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, intermediate_size=16)
        return FNetForSequenceClassification(config)

    given = {"max_steps": 1}
    if online:
        train(network(1), reviews, network(2), **given)
        with pytest.raises(ValueError, match="does not say num_attention_heads"):
            train(network(1), reviews, teacher, hidden_loss_weight=1.0)
    else:
        train(network(1), **given)
