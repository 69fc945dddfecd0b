"""Teachers: several that teach together, any architecture beside the student, and that training leaves them alone."""

import copy
import math

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, List, Value
from foreign_tokenizers import byte_level_tokenizer
from loss_terms import PLAIN_DESCENT, largest_difference, make_student
from scipy.special import expit, softmax
from tokenizers import processors
from transformers import GPT2Config, GPT2ForSequenceClassification, TrainerCallback

from distil_trainer.arguments import DistillationArguments
from distil_trainer.collator import DistillationCollator
from distil_trainer.inference import predict_logits, torch_runner
from distil_trainer.teachers import OnlineTeacher, average_logits, average_teachers, forward_names
from distil_trainer.trainer import DistillationTrainer

CLASSES = ["bad", "fair", "good"]
# In which order each of three teachers has them.
ORDERS = [[0, 1, 2], [2, 0, 1], [1, 0, 2]]
MULTI_LABEL = "multi_label_classification"
SINGLE_LABEL = "single_label_classification"


def make_model(names=CLASSES, seed=1, **given):
    labels = {"id2label": dict(enumerate(names)), "label2id": {name: index for index, name in enumerate(names)}}
    return make_student(seed=seed, initializer_range=0.2, **labels, **given).eval()


def in_order(order, seed, **given):
    """Make the model of a seed with its labels, and its head, in another order."""
    model, turned = make_model(seed=seed, **given), make_model([CLASSES[label] for label in order], seed, **given)
    turned.load_state_dict(model.state_dict())
    with torch.no_grad():
        turned.classifier.weight.copy_(model.classifier.weight[order])
        turned.classifier.bias.copy_(model.classifier.bias[order])
    return turned


@pytest.fixture
def make_trainer(tokenizer, reviews, tmp_path):
    def make(student, teacher=None, dataset=None, callbacks=None, teacher_processing_class=None, **given):
        given = {"save_strategy": "no", "use_cpu": True, "disable_tqdm": True, "logging_steps": 1, **given}
        return DistillationTrainer(
            student,
            DistillationArguments(str(tmp_path / "out"), **{"per_device_train_batch_size": 8, **given}),
            train_dataset=reviews.remove_columns("label") if dataset is None else dataset,
            processing_class=tokenizer,
            teacher=teacher,
            teacher_processing_class=teacher_processing_class,
            callbacks=callbacks,
        )

    return make


@pytest.fixture
def batch(tokenizer, reviews):
    rows = [{"input_ids": tokenizer(text)["input_ids"]} for text in reviews["sentence"][:8]]
    return DistillationCollator(tokenizer)(rows)


def _online(models, permutations=None, weights=None, average="logits", task=SINGLE_LABEL):
    teacher = OnlineTeacher(models, prepare=lambda model: model, task=task, own_tokens=False)
    teacher.plan(permutations or [None] * len(models), weights, average)
    return teacher


def _own_logits(model, batch):
    with torch.no_grad():
        return copy.deepcopy(model).eval()(**batch).logits.double().numpy()


# The mean of logits


def test_logits_are_averaged_by_shares_worked_out_by_hand():
    first, second = torch.tensor([[0.0, 4.0], [1.0, 1.0]]), torch.tensor([[4.0, 0.0], [1.0, -7.0]])
    averaged = average_logits([first, second], [1.0, 3.0], "logits", SINGLE_LABEL)
    assert averaged.tolist() == [[3.0, 1.0], [1.0, -5.0]]


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_probabilities_are_averaged_at_the_temperature_worked_out_by_hand(temperature):
    """3/4 and 1/4 at a share of one quarter, even halves at three quarters: 9/16 and 7/16."""
    first, second = torch.tensor([[temperature * math.log(3), 0.0]]), torch.tensor([[5.0, 5.0]])
    averaged = average_logits([first, second], [0.5, 1.5], "probabilities", SINGLE_LABEL, temperature)
    assert (averaged / temperature).softmax(dim=-1).tolist() == [pytest.approx([9 / 16, 7 / 16], rel=1e-6)]


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_probabilities_of_several_labels_are_averaged_one_by_one(temperature):
    first, second = torch.tensor([[temperature * math.log(3), 0.0]]), torch.tensor([[0.0, -temperature * math.log(3)]])
    averaged = average_logits([first, second], [1.0, 3.0], "probabilities", MULTI_LABEL, temperature)
    assert (averaged / temperature).sigmoid().tolist() == [pytest.approx([9 / 16, 5 / 16], rel=1e-6)]


@pytest.mark.parametrize("task", [SINGLE_LABEL, MULTI_LABEL])
def test_the_mean_probability_of_sure_teachers_is_finite_and_right(task):
    sure, other = torch.tensor([[400.0, -400.0]]), torch.tensor([[-400.0, 400.0]])
    averaged = average_logits([sure, other], [1.0, 3.0], "probabilities", task)
    assert averaged.isfinite().all()
    probabilities = averaged.softmax(dim=-1) if task == SINGLE_LABEL else averaged.sigmoid()
    assert probabilities.tolist() == [pytest.approx([0.25, 0.75], rel=1e-5)]


@pytest.mark.parametrize("average", ["logits", "probabilities"])
@pytest.mark.parametrize("task", [SINGLE_LABEL, MULTI_LABEL])
def test_a_teacher_of_weight_zero_is_not_heard(average, task):
    first, second = torch.tensor([[1.0, -2.0, 1.0]]), torch.tensor([[30.0, 0.0, 5.0]])
    averaged = average_logits([first, second], [2.0, 0.0], average, task)
    if average == "probabilities" and task == SINGLE_LABEL:
        first = first.log_softmax(dim=-1)
    torch.testing.assert_close(averaged, first)


# Online


@pytest.mark.parametrize("weights", [None, [1.0, 3.0, 4.0]])
@pytest.mark.parametrize(
    ("average", "task"), [("logits", SINGLE_LABEL), ("probabilities", SINGLE_LABEL), ("probabilities", MULTI_LABEL)]
)
def test_several_teachers_answer_with_their_mean_each_read_in_the_students_order(batch, weights, average, task):
    models = [in_order(order, seed, problem_type=task) for seed, order in zip((3, 4, 5), ORDERS, strict=True)]
    permutations = [torch.tensor([order.index(label) for label in range(3)]) for order in ORDERS]
    temperature, shares = 2.0, np.array(weights or [1.0, 1.0, 1.0])
    logits = np.stack([_own_logits(make_model(seed=seed), batch) for seed in (3, 4, 5)])
    shares = (shares / shares.sum())[:, None, None]
    answer = _online(models, permutations, weights, average, task)(batch, temperature)
    if average == "logits":
        np.testing.assert_allclose(answer.logits, (shares * logits).sum(axis=0), atol=1e-5)
    else:
        squash = expit if task == MULTI_LABEL else lambda values: softmax(values, axis=-1)
        expected = (shares * squash(logits / temperature)).sum(axis=0)
        np.testing.assert_allclose(squash(answer.logits.double().numpy() / temperature), expected, atol=1e-6)
    assert answer.states == {} and answer.head_token == "first"
    assert answer.attention_mask.tolist() == batch["attention_mask"].tolist()


def test_an_answer_carries_no_gradient(batch):
    model = make_model()
    assert not _online([model])(batch, 1.0).logits.requires_grad
    assert not any(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize(
    ("architecture", "reads_token_types"),
    [("bert", True), ("electra", True), ("xlnet", True), ("roberta", False), ("gpt2", False), ("bart", False)],
)
def test_a_model_reads_token_types_where_it_has_some_of_its_own(teacher_zoo, architecture, reads_token_types):
    names = forward_names(teacher_zoo(architecture)[0])
    assert {"input_ids", "attention_mask"} <= names
    assert ("token_type_ids" in names) == reads_token_types
    assert not names & {"labels", "kwargs", "self"}


@pytest.mark.parametrize("average", ["logits", pytest.param("probabilities", marks=pytest.mark.slow)])
def test_teachers_with_labels_in_other_orders_train_as_if_all_had_the_students(train, average):
    common = {"teacher_average": average, "teacher_weights": [1.0, 2.0, 3.0], **PLAIN_DESCENT}
    straight = train(make_model(), [make_model(seed=seed) for seed in (3, 4, 5)], **common).model.state_dict()
    turned = [in_order(order, seed) for seed, order in zip((3, 4, 5), ORDERS, strict=True)]
    assert largest_difference(make_model().state_dict(), straight) > 1e-3
    assert largest_difference(straight, train(make_model(), turned, **common).model.state_dict()) < 1e-6
    # And the names of the student decide, not those of the first teacher.
    other_first = train(make_model(), [turned[2], turned[1], turned[0]], **{**common, "teacher_weights": [3.0, 2, 1]})
    assert largest_difference(straight, other_first.model.state_dict()) < 1e-6


def test_the_weights_and_the_mean_that_were_asked_for_reach_the_loss(train, tokenizer, reviews):
    student, *teachers = (make_model(seed=seed) for seed in (1, 3, 4))
    own, first, second = (
        predict_logits(torch_runner(model), tokenizer, reviews["sentence"]).astype(float)
        for model in (student, *teachers)
    )
    own = softmax(own / 2, axis=-1)
    for average, target in (
        ("logits", softmax((0.25 * first + 0.75 * second) / 2, axis=-1)),
        ("probabilities", 0.25 * softmax(first / 2, axis=-1) + 0.75 * softmax(second / 2, axis=-1)),
    ):
        trainer = train(
            copy.deepcopy(student),
            teachers,
            teacher_weights=[0.5, 1.5],
            teacher_average=average,
            temperature=2.0,
            per_device_train_batch_size=48,
            max_steps=1,
        )
        expected = 4 * (target * np.log(target / own)).sum(axis=-1).mean()
        assert trainer.state.log_history[0]["soft_target_kl"] == pytest.approx(expected, rel=1e-5)


def test_weights_that_are_not_one_for_each_teacher_are_refused(make_trainer):
    teachers = [make_model(seed=seed) for seed in (3, 4)]
    with pytest.raises(ValueError, match=r"teacher_weights=\[1.0\] for 2 teacher\(s\): give one weight for each"):
        make_trainer(make_model(), teachers, teacher_weights=[1.0])


def test_teachers_with_other_vocabularies_are_refused(make_trainer):
    teachers = [make_model(), make_model(vocab_size=90)]
    with pytest.raises(ValueError, match="The teacher's vocabulary has 90 entries, the student's"):
        make_trainer(make_model(), teachers)
    foreign = byte_level_tokenizer()
    teachers = [make_model(vocab_size=320, pad_token_id=1), make_model(vocab_size=330, pad_token_id=1)]
    with pytest.raises(ValueError, match="vocabularies of 320 and 330 entries.*`average_teachers`"):
        make_trainer(make_model(), teachers, teacher_processing_class=foreign)


def test_states_of_several_teachers_are_refused(make_trainer):
    with pytest.raises(ValueError, match="2 teachers are given together with a loss on hidden states"):
        make_trainer(make_model(), [make_model(), make_model()], hidden_loss_weight=1.0)


# Frozen


class _TrainMode(TrainerCallback):
    """Someone puts teachers into training mode after every step."""

    def __init__(self, teachers):
        self.teachers = teachers

    def on_step_end(self, args, state, control, **kwargs):
        for teacher in self.teachers:
            teacher.train()


def test_teachers_are_frozen_and_never_trained(train):
    teachers = [make_model(seed=seed, dropout=0.5).train() for seed in (3, 4)]
    before = [copy.deepcopy(teacher.state_dict()) for teacher in teachers]
    student = make_model()
    trainer = train(student, teachers, weight_decay=0.5, **{**PLAIN_DESCENT, "optim": "adamw_torch"})
    assert largest_difference(make_model().state_dict(), student.state_dict()) > 1e-3
    trained = {id(parameter) for group in trainer.optimizer.param_groups for parameter in group["params"]}
    for teacher, weights in zip(teachers, before, strict=True):
        assert not any(module.training for module in teacher.modules())
        assert not any(parameter.requires_grad or parameter.grad is not None for parameter in teacher.parameters())
        assert not trained & {id(parameter) for parameter in teacher.parameters()}
        assert largest_difference(weights, teacher.state_dict()) == 0.0


def test_a_teacher_that_someone_puts_into_training_mode_is_put_back(train):
    straight, disturbed = (
        train(
            make_model(),
            teachers,
            callbacks=[_TrainMode(teachers if disturb else [])],
            **PLAIN_DESCENT,
        ).model.state_dict()
        for disturb in (False, True)
        for teachers in [[make_model(seed=seed, dropout=0.5) for seed in (3, 4)]]
    )
    assert largest_difference(straight, disturbed) == 0.0


# Any architecture


@pytest.mark.parametrize("pairs", [False, True], ids=["texts", "pairs"])
def test_a_teacher_of_any_architecture_teaches_online_what_it_says_alone(
    make_trainer, label, any_teacher, reviews, pairs
):
    teacher, teacher_tokenizer = any_teacher
    given = {"text_pair_column": "second"} if pairs else {}
    reviews = reviews.remove_columns("label")
    if pairs:
        reviews = reviews.add_column("second", reviews["sentence"][7:] + reviews["sentence"][:7])
    labelled = label(copy.deepcopy(teacher), reviews, teacher_tokenizer, **given)

    def small_student():
        return make_model(["negative", "positive"])

    trainer = make_trainer(
        small_student(),
        teacher,
        dataset=reviews,
        teacher_processing_class=teacher_tokenizer,
        **given,
        **PLAIN_DESCENT,
    )
    batch = trainer.data_collator([trainer.train_dataset[row] for row in range(48)])
    expected = np.array(labelled["teacher_logits"])
    assert np.ptp(expected, axis=0).min() > 0.1
    np.testing.assert_allclose(trainer.teacher(batch, 1.0).logits, expected, atol=2e-5)
    before = copy.deepcopy(teacher.state_dict())
    trainer.train()
    online = trainer.model.state_dict()
    assert largest_difference(small_student().state_dict(), online) > 1e-3
    assert all((before[name] == value).all() for name, value in teacher.state_dict().items())
    cached = make_trainer(small_student(), dataset=labelled, **given, **PLAIN_DESCENT)
    cached.train()
    assert largest_difference(online, cached.model.state_dict()) < 1e-5


def test_gpt2_gets_no_token_types_that_its_tokenizer_does_not_give_it(make_trainer, label, reviews):
    """Its forward takes them and would look them up among its words, while its tokenizer leaves them out."""
    tokenizer = byte_level_tokenizer(pad_token="</s>", model_input_names=["input_ids", "attention_mask"])
    # As in GPT-2's own file: the second text of a pair is marked, though no one reads the mark.
    tokenizer.backend_tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    torch.manual_seed(3)
    teacher = GPT2ForSequenceClassification(
        GPT2Config(vocab_size=320, n_embd=32, n_layer=2, n_head=4, pad_token_id=2, num_labels=3, initializer_range=0.2)
    )
    reviews = reviews.remove_columns("label").add_column("second", reviews["sentence"][:])
    labelled = label(teacher, reviews, tokenizer, text_pair_column="second")
    trainer = make_trainer(
        make_model(), teacher, dataset=reviews, teacher_processing_class=tokenizer, text_pair_column="second"
    )
    batch = trainer.data_collator([trainer.train_dataset[row] for row in range(48)])
    np.testing.assert_allclose(trainer.teacher(batch, 1.0).logits, labelled["teacher_logits"], atol=2e-5)


# Averaged once


def _labelled(logits, names=CLASSES, **columns):
    logits = np.array(logits, dtype=np.float32)
    dataset = Dataset.from_dict({"sentence": [f"text {row}" for row in range(len(logits))], **columns})
    dataset = dataset.add_column("teacher_logits", logits.tolist())
    dataset = dataset.cast_column("teacher_logits", List(Value("float32"), length=logits.shape[1]))
    if names is None:
        return dataset
    dataset = dataset.add_column("teacher_label", logits.argmax(axis=1).tolist())
    return dataset.cast_column("teacher_label", ClassLabel(names=names))


def test_teachers_are_averaged_by_name_worked_out_by_hand():
    first = _labelled([[0.0, 4.0, 8.0], [1.0, 1.0, 1.0]], label=[2, 0])
    # bad 8, fair 0, good 4 in the first row; 1, 5, 9 in the second.
    second = _labelled([[4.0, 8.0, 0.0], [9.0, 1.0, 5.0]], names=["good", "bad", "fair"], label=[2, 0])
    averaged = average_teachers([first, second], weights=[1.0, 3.0])
    assert averaged["teacher_logits"][:] == [[6.0, 1.0, 5.0], [1.0, 4.0, 7.0]]
    assert averaged["teacher_label"][:] == [0, 2]
    assert averaged.features == first.features
    assert averaged["sentence"][:] == first["sentence"][:] and averaged["label"][:] == [2, 0]
    assert average_teachers([first, second])["teacher_logits"][0] == [4.0, 2.0, 6.0]


def test_probabilities_of_labelled_data_are_averaged_by_hand():
    first, second = _labelled([[math.log(3), 0.0]], names=["no", "yes"]), _labelled([[0.0, 0.0]], names=["no", "yes"])
    averaged = np.array(average_teachers([first, second], [1.0, 3.0], "probabilities")["teacher_logits"])
    np.testing.assert_allclose(softmax(averaged, axis=-1), [[9 / 16, 7 / 16]], rtol=1e-6)
    averaged = np.array(average_teachers([first, second], [1.0, 3.0], "probabilities", MULTI_LABEL)["teacher_logits"])
    np.testing.assert_allclose(expit(averaged), [[9 / 16, 1 / 2]], rtol=1e-6)


def test_teachers_averaged_once_train_as_they_do_together(train, label, reviews):
    reviews = reviews.remove_columns("label")
    teachers = [in_order(order, seed) for seed, order in zip((3, 4, 5), ORDERS, strict=True)]
    weights = [1.0, 2.0, 3.0]
    online = train(make_model(), teachers, teacher_weights=weights, **PLAIN_DESCENT).model.state_dict()
    averaged = average_teachers([label(teacher, reviews) for teacher in teachers], weights)
    cached = train(make_model(), dataset=averaged, **PLAIN_DESCENT).model.state_dict()
    assert largest_difference(make_model().state_dict(), online) > 1e-3
    assert largest_difference(online, cached) < 2e-6


def test_rows_in_an_order_of_their_own_and_in_many_batches_are_averaged():
    logits = np.random.default_rng(0).normal(size=(2500, 3)).astype(np.float32)
    order = np.random.default_rng(1).permutation(2500)
    first, second = (_labelled(values).select(order).select(range(7, 2400)) for values in (logits, 3 * logits))
    averaged = np.array(average_teachers([first, second.with_format("torch")])["teacher_logits"])
    np.testing.assert_allclose(averaged, 2 * logits[order][7:2400], rtol=1e-6)


def test_labels_without_names_are_averaged_in_their_order():
    first, second = _labelled([[0.0, 2.0]], names=None), _labelled([[4.0, 0.0]], names=None)
    averaged = average_teachers([first, second])
    assert averaged["teacher_logits"][:] == [[2.0, 1.0]]
    assert "teacher_label" not in averaged.column_names


def test_labels_that_only_one_teacher_names_are_averaged_in_their_order_with_a_warning(caplog):
    average_teachers([_labelled([[0.0, 2.0, 1.0]]), _labelled([[4.0, 0.0, 1.0]])])
    assert not caplog.records
    averaged = average_teachers([_labelled([[0.0, 2.0, 1.0]]), _labelled([[4.0, 0.0, 1.0]], names=None)])
    assert averaged["teacher_logits"][:] == [[2.0, 1.0, 1.0]]
    assert [record.args for record in caplog.records if "unchecked" in record.message] == [(1,)]


def test_unlabelled_rows_of_scores_are_the_same_row():
    """A missing score may be written as NaN, which equals nothing."""
    first, second = (_labelled([[value], [value]], names=None, label=[math.nan, 0.5]) for value in (1.0, 3.0))
    averaged = average_teachers([first, second], task="regression")
    assert averaged["teacher_logits"][:] == [[2.0], [2.0]]
    assert np.isnan(averaged["label"][0])


def test_data_without_teacher_logits_cannot_be_averaged():
    labelled = _labelled([[1.0, 2.0, 3.0]])
    with pytest.raises(ValueError, match=r"labelled\[1\] has no column 'teacher_logits' \(its columns are sentence, "):
        average_teachers([labelled, labelled.remove_columns("teacher_logits")])


def test_nothing_cannot_be_averaged():
    with pytest.raises(ValueError, match=r"labelled=\[\]"):
        average_teachers([])


def test_other_rows_and_other_columns_cannot_be_averaged():
    labelled = _labelled([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0]], label=[0, 1])
    with pytest.raises(ValueError, match=r"labelled\[1\] has 1 rows and the columns .*labelled\[0\] has 2"):
        average_teachers([labelled, labelled.select([0])])
    with pytest.raises(ValueError, match=r"labelled\[1\] has 2 rows and the columns sentence, teacher_logits"):
        average_teachers([labelled, labelled.remove_columns("label")])
    with pytest.raises(ValueError, match=r"labelled\[1\] differs from labelled\[0\] in column 'sentence'"):
        average_teachers([labelled, labelled.select([1, 0])])
    other_labels = labelled.remove_columns("label").add_column("label", [0, 0])
    with pytest.raises(ValueError, match=r"labelled\[1\] differs from labelled\[0\] in column 'label'"):
        average_teachers([labelled, other_labels])


def test_other_labels_cannot_be_averaged():
    labelled = _labelled([[1.0, 2.0, 3.0]])
    with pytest.raises(
        ValueError, match=r"labelled\[1\] names its labels \['x', 'y', 'z'\], labelled\[0\] names them"
    ):
        average_teachers([labelled, _labelled([[1.0, 2.0, 3.0]], names=["x", "y", "z"])])
    with pytest.raises(ValueError, match=r"labelled\[1\] has 2 labels \['bad', 'good'\], labelled\[0\] has 3 labels"):
        average_teachers([labelled, _labelled([[1.0, 2.0]], names=["bad", "good"])])


def test_other_numbers_of_nameless_logits_cannot_be_averaged():
    with pytest.raises(
        ValueError, match=r"labelled\[1\]: row 0 has 2 teacher_logits, but row 0 of labelled\[0\] has 3"
    ):
        average_teachers([_labelled([[1.0, 2.0, 3.0]], names=None), _labelled([[1.0, 2.0]], names=None)])


def test_missing_logits_cannot_be_averaged():
    labelled = _labelled([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0]], names=None)
    holed = labelled.map(lambda row, index: {"teacher_logits": None if index else [1.0, 2.0, 3.0]}, with_indices=True)
    with pytest.raises(ValueError, match=r"labelled\[1\]: row 1 has 0 teacher_logits, but row 0 of .* has 3"):
        average_teachers([labelled, holed])


@pytest.mark.parametrize(
    ("weights", "problem"),
    [
        ([1.0], r"for 2 teacher\(s\): give one weight for each"),
        ([], r"for 2 teacher\(s\): give one weight for each"),
        ([1.0, -1.0], "each must be 0 or more and finite, and their sum above 0"),
        ([0.0, 0.0], "each must be 0 or more and finite, and their sum above 0"),
        ([1.0, math.nan], "each must be 0 or more and finite"),
        ([1.0, math.inf], "each must be 0 or more and finite"),
    ],
)
def test_wrong_weights_are_refused(weights, problem):
    labelled = _labelled([[1.0, 2.0, 3.0]])
    with pytest.raises(ValueError, match=problem):
        average_teachers([labelled, labelled], weights)


def test_wrong_means_are_refused():
    labelled = _labelled([[1.0, 2.0, 3.0]])
    with pytest.raises(ValueError, match="average='geometric': choose logits or probabilities"):
        average_teachers([labelled, labelled], average="geometric")
    with pytest.raises(ValueError, match="average='probabilities' with problem_type='regression'"):
        average_teachers([labelled, labelled], average="probabilities", task="regression")
