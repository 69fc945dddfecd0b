"""The kinds of task: several labels a row, scores, pairs of texts; and what gold labels do in each."""

import copy
import math

import numpy as np
import pytest
import torch
from datasets import ClassLabel, List, Value
from loss_terms import PLAIN_DESCENT, largest_difference, make_student
from scipy import stats
from scipy.special import expit, log_softmax, softmax
from sklearn import metrics as scores
from transformers import BertConfig

from distil_trainer.arguments import DistillationArguments
from distil_trainer.inference import predict_logits, torch_runner
from distil_trainer.matches import Match
from distil_trainer.objective import DistillationObjective, Signals
from distil_trainer.tasks import problem_type
from distil_trainer.trainer import DistillationTrainer

TOPICS = ["praise", "plot", "humour"]
PERMUTED = ["humour", "praise", "plot"]
SCORES = ["polarity", "strength"]


@pytest.fixture
def make_model():
    """A function from label names and a task to a tiny BERT whose logits differ from row to row."""

    def make(names, task, seed=1):
        labels = {"id2label": dict(enumerate(names)), "label2id": {name: index for index, name in enumerate(names)}}
        return make_student(seed=seed, initializer_range=0.2, problem_type=task, **labels).eval()

    return make


@pytest.fixture
def make_trainer(tokenizer, tmp_path):
    def make(student, dataset=None, teacher=None, eval_dataset=None, **given):
        given = {"save_strategy": "no", "use_cpu": True, "disable_tqdm": True, "logging_steps": 1, **given}
        return DistillationTrainer(
            student,
            DistillationArguments(str(tmp_path / "out"), **given),
            train_dataset=dataset,
            eval_dataset=eval_dataset,
            processing_class=tokenizer,
            teacher=teacher,
        )

    return make


@pytest.fixture
def topics(reviews):
    """Reviews with lists of topics; every third row is unlabelled, and row 1 has none."""
    labels = [None if row % 3 == 0 else [number for number in range(3) if row >> number + 1 & 1] for row in range(48)]
    return _with_labels(reviews, labels, List(ClassLabel(names=TOPICS)))


@pytest.fixture
def pairs(reviews):
    seconds = reviews["sentence"][5:] + reviews["sentence"][:5]
    return reviews.add_column("second", seconds)


def _with_labels(dataset, labels, feature):
    dataset = dataset.remove_columns("label").add_column("label", labels)
    return dataset.cast_column("label", feature)


def _scored(reviews, width):
    """Reviews with one score or several a row; every third row is unlabelled."""
    values = np.random.default_rng(3).normal(size=(len(reviews), width))
    labels = [None if row % 3 == 0 else values[row].tolist() for row in range(len(reviews))]
    if width == 1:
        return _with_labels(reviews, [label and label[0] for label in labels], Value("float32"))
    return _with_labels(reviews, labels, List(Value("float32"), length=width))


def _logits(model, tokenizer, dataset, second=None):
    texts = [dataset["sentence"][:], *([dataset[second][:]] if second else [])]
    return predict_logits(torch_runner(copy.deepcopy(model)), tokenizer, *texts).astype(np.float64)


def _binary_cross_entropy(targets, logits):
    return -(targets * np.log(expit(logits)) + (1 - targets) * np.log(expit(-logits)))


ONE_BATCH = {"per_device_train_batch_size": 48, "max_steps": 1}
TASKS = {
    "multi_label_classification": (TOPICS, ["kl", "mse", "soft_cross_entropy"]),
    "regression": (SCORES, ["mse"]),
    "one_score": (SCORES[:1], ["mse"]),
}


@pytest.fixture
def task_rows(topics, reviews):
    """A function from the name of a task to its kind and to rows with gold labels of it."""

    def rows(name):
        if name == "multi_label_classification":
            return name, topics
        return "regression", _scored(reviews, len(TASKS[name][0]))

    return rows


@pytest.mark.parametrize(("name", "logit_loss"), [(name, loss) for name in TASKS for loss in TASKS[name][1]])
def test_one_batch_of_eight_equals_four_accumulated_batches_of_two(
    train, label, make_model, task_rows, name, logit_loss
):
    names = TASKS[name][0]
    task, rows = task_rows(name)
    rows = label(make_model(names, task, seed=7), rows)
    common = {"logit_loss": logit_loss, "hard_label_weight": 0.5, **PLAIN_DESCENT}
    one = train(make_model(names, task), rows, per_device_train_batch_size=8, **common)
    four = train(make_model(names, task), rows, per_device_train_batch_size=2, gradient_accumulation_steps=4, **common)
    assert largest_difference(make_model(names, task).state_dict(), one.model.state_dict()) > 1e-3
    assert largest_difference(one.model.state_dict(), four.model.state_dict()) < 2e-6


@pytest.mark.parametrize(("name", "logit_loss"), [(name, loss) for name in TASKS for loss in TASKS[name][1]])
def test_a_student_that_is_the_teacher_has_nothing_to_learn(train, make_model, task_rows, name, logit_loss):
    task, rows = task_rows(name)
    teacher = make_model(TASKS[name][0], task)
    trainer = train(copy.deepcopy(teacher), rows, teacher, logit_loss=logit_loss, **ONE_BATCH, optim="sgd")
    assert largest_difference(teacher.state_dict(), trainer.model.state_dict()) < 1e-7
    loss = trainer.state.log_history[0]["loss"]
    # The teacher's entropy is left of the cross-entropy.
    assert loss > 0.1 if logit_loss == "soft_cross_entropy" else loss == pytest.approx(0.0, abs=1e-7)


@pytest.mark.parametrize(("name", "logit_loss"), [(name, loss) for name in TASKS for loss in TASKS[name][1]])
def test_cached_logits_train_as_the_teacher_itself_does(train, label, make_model, task_rows, name, logit_loss):
    names = TASKS[name][0]
    task, rows = task_rows(name)
    teacher = make_model(names, task, seed=7)
    cached_rows = label(teacher, rows)
    common = {"logit_loss": logit_loss, "temperature": 1.5, "per_device_train_batch_size": 8, **PLAIN_DESCENT}
    online = train(make_model(names, task), rows, teacher, **common)
    cached = train(make_model(names, task), cached_rows, **common)
    assert largest_difference(make_model(names, task).state_dict(), online.model.state_dict()) > 1e-3
    assert largest_difference(online.model.state_dict(), cached.model.state_dict()) < 2e-6


def test_several_labels_are_learned_by_sigmoids(train, label, make_model, tokenizer, topics):
    teacher, student = (make_model(TOPICS, "multi_label_classification", seed) for seed in (7, 1))
    logits = _logits(student, tokenizer, topics)
    targets = expit(_logits(teacher, tokenizer, topics) / 2)
    cross_entropy = _binary_cross_entropy(targets, logits / 2) - _binary_cross_entropy(
        targets, np.log(targets / (1 - targets))
    )
    log = train(student, label(teacher, topics), temperature=2.0, hard_label_weight=0.5, **ONE_BATCH)
    log = log.state.log_history[0]
    assert log["sigmoid_kl"] == pytest.approx(4 * cross_entropy.mean(), rel=1e-5)
    labelled = [row for row, given in enumerate(topics["label"]) if given is not None]
    assert len(labelled) == 32
    gold = np.array([[number in topics["label"][row] for number in range(3)] for row in labelled])
    expected = _binary_cross_entropy(gold, logits[labelled]).mean(axis=1).sum() / 48
    assert log["hard_label_binary_cross_entropy"] == pytest.approx(expected, rel=1e-5)
    assert log["loss"] == pytest.approx(log["sigmoid_kl"] + 0.5 * expected, abs=1e-4)


@pytest.mark.parametrize("width", [1, 2])
def test_scores_are_learned_by_squares(train, label, make_model, tokenizer, reviews, width):
    rows = _scored(reviews, width)
    teacher, student = (make_model(SCORES[:width], "regression", seed) for seed in (7, 1))
    logits = _logits(student, tokenizer, rows)
    difference = logits - _logits(teacher, tokenizer, rows)
    log = train(student, label(teacher, rows), temperature=2.0, hard_label_weight=0.5, **ONE_BATCH)
    log = log.state.log_history[0]
    assert log["logit_mse"] == pytest.approx((difference**2).mean(), rel=1e-5)
    labelled = [row for row in range(48) if row % 3]
    gold = np.array([rows["label"][row] for row in labelled]).reshape(len(labelled), width)
    expected = ((logits[labelled] - gold) ** 2).mean(axis=1).sum() / 48
    assert log["hard_label_mse"] == pytest.approx(expected, rel=1e-5)


def test_several_labels_are_evaluated_by_f1_and_average_precision(make_trainer, make_model, tokenizer, topics):
    student, rows = (
        make_model(TOPICS, "multi_label_classification"),
        topics.filter(lambda row: row["label"] is not None),
    )
    logits = _logits(student, tokenizer, rows)
    gold = np.array([[number in labels for number in range(3)] for labels in rows["label"]])
    metrics = make_trainer(student, eval_dataset=rows).evaluate()
    assert metrics["eval_loss"] == pytest.approx(_binary_cross_entropy(gold, logits).mean(), rel=1e-5)
    assert metrics["eval_micro_f1"] == pytest.approx(scores.f1_score(gold, logits > 0, average="micro"))
    assert metrics["eval_macro_f1"] == pytest.approx(scores.f1_score(gold, logits > 0, average="macro"))
    assert metrics["eval_average_precision"] == pytest.approx(scores.average_precision_score(gold, logits))
    assert "eval_accuracy" not in metrics


@pytest.mark.parametrize("width", [1, 2])
def test_scores_are_evaluated_by_correlations_and_squares(make_trainer, make_model, tokenizer, reviews, width):
    student = make_model(SCORES[:width], "regression")
    rows = _scored(reviews, width).filter(lambda row: row["label"] is not None)
    logits, gold = _logits(student, tokenizer, rows), np.array(rows["label"][:]).reshape(-1, width)
    metrics = make_trainer(student, eval_dataset=rows).evaluate()
    for name, correlation in (("pearson", stats.pearsonr), ("spearman", stats.spearmanr)):
        expected = np.mean([correlation(logits[:, column], gold[:, column])[0] for column in range(width)])
        assert metrics[f"eval_{name}"] == pytest.approx(expected, abs=1e-6)
    assert metrics["eval_mse"] == pytest.approx(((logits - gold) ** 2).mean(), rel=1e-5)
    assert metrics["eval_loss"] == pytest.approx(metrics["eval_mse"], rel=1e-5)


def test_several_labels_in_another_order_are_matched_by_name(train, label, make_model, topics):
    """Gold labels and teacher logits are permuted, each in another way, and nothing changes."""
    teacher = make_model(TOPICS, "multi_label_classification", seed=7)
    turned = make_model(PERMUTED, "multi_label_classification", seed=7)
    order = [TOPICS.index(name) for name in PERMUTED]
    with torch.no_grad():
        for name in ("weight", "bias"):
            parameter = getattr(turned.classifier, name)
            parameter.copy_(getattr(teacher.classifier, name)[order])
    reversed_names = TOPICS[::-1]
    turned_labels = [labels and [2 - number for number in labels] for labels in topics["label"]]
    turned_rows = _with_labels(topics, turned_labels, List(ClassLabel(names=reversed_names)))
    common = {"hard_label_weight": 0.5, "per_device_train_batch_size": 8, **PLAIN_DESCENT}
    student = make_model(TOPICS, "multi_label_classification")
    straight = train(copy.deepcopy(student), topics, teacher, **common).model
    assert largest_difference(student.state_dict(), straight.state_dict()) > 1e-3
    online = train(copy.deepcopy(student), turned_rows, turned, **common).model
    assert largest_difference(straight.state_dict(), online.state_dict()) < 1e-6
    cached = train(copy.deepcopy(student), label(turned, turned_rows), **common).model
    assert largest_difference(straight.state_dict(), cached.state_dict()) < 2e-6


def test_pairs_are_evaluated_by_f1_and_correlation_too(make_trainer, make_model, tokenizer, pairs):
    student = make_model(["different", "same"], "single_label_classification")
    pairs = pairs.cast_column("label", ClassLabel(names=["different", "same"]))
    logits = _logits(student, tokenizer, pairs, "second")
    predicted, gold = logits.argmax(axis=1), np.array(pairs["label"][:])
    metrics = make_trainer(student, eval_dataset=pairs, text_pair_column="second").evaluate()
    assert metrics["eval_accuracy"] == pytest.approx((predicted == gold).mean())
    assert metrics["eval_f1"] == pytest.approx(scores.f1_score(gold, predicted))
    assert metrics["eval_mcc"] == pytest.approx(scores.matthews_corrcoef(gold, predicted), abs=1e-6)
    cross_entropy = -log_softmax(logits, axis=1)[np.arange(48), gold].mean()
    assert metrics["eval_loss"] == pytest.approx(cross_entropy, rel=1e-5)
    assert metrics["eval_perplexity"] == pytest.approx(math.exp(cross_entropy), rel=1e-5)
    alone = make_trainer(student, eval_dataset=pairs).evaluate()
    assert "eval_mcc" not in alone and alone["eval_loss"] != pytest.approx(cross_entropy, rel=1e-5)


def test_f1_of_pairs_is_of_the_datas_label_one_whatever_the_students_order(make_trainer, make_model, tokenizer, pairs):
    student = make_model(["same", "different"], "single_label_classification")
    rows = pairs.select(range(31)).cast_column("label", ClassLabel(names=["different", "same"]))
    predicted, gold = 1 - _logits(student, tokenizer, rows, "second").argmax(axis=1), np.array(rows["label"][:])
    metrics = make_trainer(student, eval_dataset=rows, text_pair_column="second").evaluate()
    assert metrics["eval_f1"] == pytest.approx(scores.f1_score(gold, predicted))
    assert scores.f1_score(gold, predicted) != pytest.approx(scores.f1_score(1 - gold, 1 - predicted))


def test_pairs_train_the_same_from_cached_logits_and_online(train, label, make_model, tokenizer, pairs):
    teacher, student = (make_model(["negative", "positive"], "single_label_classification", seed) for seed in (7, 1))
    cached_rows = label(teacher, pairs, text_pair_column="second")
    assert np.abs(np.array(cached_rows["teacher_logits"]) - _logits(teacher, tokenizer, pairs)).max() > 0.01
    common = {"text_pair_column": "second", **PLAIN_DESCENT}
    common |= {"per_device_train_batch_size": 8, "hard_label_weight": 0.2}
    online = train(copy.deepcopy(student), pairs, teacher, **common).model
    cached = train(copy.deepcopy(student), cached_rows, **common).model
    assert largest_difference(student.state_dict(), online.state_dict()) > 1e-3
    assert largest_difference(online.state_dict(), cached.state_dict()) < 2e-6


def test_pairs_differ_from_their_first_texts(train, make_model, pairs):
    teacher, student = (make_model(["negative", "positive"], "single_label_classification", seed) for seed in (7, 1))
    both = train(copy.deepcopy(student), pairs, teacher, text_pair_column="second", **ONE_BATCH)
    one = train(copy.deepcopy(student), pairs, teacher, **ONE_BATCH)
    assert both.state.log_history[0]["soft_target_kl"] != pytest.approx(one.state.log_history[0]["soft_target_kl"])


@pytest.mark.parametrize(
    ("task", "logit_loss"),
    [
        ("regression", "kl"),
        ("regression", "soft_cross_entropy"),
        ("regression", "decoupled"),
        ("multi_label_classification", "decoupled"),
    ],
)
def test_losses_that_a_task_does_not_have_are_refused(make_trainer, make_model, topics, reviews, task, logit_loss):
    rows = topics if task == "multi_label_classification" else _scored(reviews, 3)
    teacher, student = make_model(TOPICS, task, seed=7), make_model(TOPICS, task)
    legal = "kl or mse or soft_cross_entropy" if task == "multi_label_classification" else "mse"
    with pytest.raises(ValueError, match=f"logit_loss='{logit_loss}' with problem_type='{task}'.* Choose {legal},"):
        make_trainer(student, rows, teacher, logit_loss=logit_loss)


@pytest.mark.filterwarnings("ignore:Label smoothing is not compatible")  # transformers says so before
@pytest.mark.parametrize("task", ["multi_label_classification", "regression"])
def test_label_smoothing_is_refused_where_it_would_be_ignored(make_trainer, make_model, topics, reviews, task):
    rows = topics if task == "multi_label_classification" else _scored(reviews, 3)
    with pytest.raises(ValueError, match=f"label_smoothing_factor=0.1 with problem_type='{task}'"):
        make_trainer(
            make_model(TOPICS, task), rows, make_model(TOPICS, task), hard_label_weight=1.0, label_smoothing_factor=0.1
        )


def test_probabilities_of_scores_cannot_be_averaged(make_trainer, make_model, reviews):
    student, *teachers = (make_model(SCORES, "regression", seed) for seed in range(3))
    with pytest.raises(ValueError, match="average='probabilities' with problem_type='regression'"):
        make_trainer(student, _scored(reviews, 2), teachers, teacher_average="probabilities")


def test_the_task_is_that_of_the_configuration():
    assert problem_type(BertConfig(num_labels=1)) == "regression"
    assert problem_type(BertConfig(num_labels=4)) == "single_label_classification"
    for task in ("single_label_classification", "multi_label_classification", "regression"):
        assert problem_type(BertConfig(num_labels=4, problem_type=task)) == task


def test_an_unknown_task_is_refused():
    config = BertConfig(num_labels=4)
    config.problem_type = "ranking"
    with pytest.raises(ValueError, match="problem_type='ranking': choose one of single_label_classification, "):
        problem_type(config)


def _decoupled(student, teacher, targets, temperature, target_weight, non_target_weight):
    """Equation 7 of Zhao et al. 2022, row by row, from probabilities."""
    total = 0.0
    for own, other, target in zip(student, teacher, targets, strict=True):
        own, other = softmax(own / temperature), softmax(other / temperature)
        rest = [number for number in range(len(own)) if number != target]
        binary = np.array([[each[target], each[rest].sum()] for each in (own, other)])
        total += target_weight * (binary[1] * np.log(binary[1] / binary[0])).sum()
        own, other = own[rest] / own[rest].sum(), other[rest] / other[rest].sum()
        total += non_target_weight * (other * np.log(other / own)).sum()
    return temperature**2 * total / len(targets)


@pytest.mark.parametrize("labelled", ["all", "some", "none"])
def test_decoupling_takes_gold_labels_and_where_there_are_none_the_teachers(
    train, make_model, tokenizer, reviews, labelled
):
    teacher, student = (make_model(TOPICS, "single_label_classification", seed) for seed in (7, 1))
    logits, targets = _logits(teacher, tokenizer, reviews), _logits(teacher, tokenizer, reviews).argmax(axis=1)
    # Gold labels in another order, all of them other than the teacher's.
    gold = (targets + 1) % 3
    rows = reviews.remove_columns("label")
    given = {"all": np.ones(48, bool), "some": np.arange(48) % 2 == 0, "none": np.zeros(48, bool)}[labelled]
    if labelled != "none":
        numbers = [PERMUTED.index(TOPICS[label]) if has else None for label, has in zip(gold, given, strict=True)]
        rows = rows.add_column("label", numbers).cast_column("label", ClassLabel(names=PERMUTED))
    expected = _decoupled(_logits(student, tokenizer, reviews), logits, np.where(given, gold, targets), 2.0, 0.5, 4.0)
    log = train(
        student,
        rows,
        teacher,
        logit_loss="decoupled",
        temperature=2.0,
        target_class_weight=0.5,
        non_target_class_weight=4.0,
        **ONE_BATCH,
    ).state.log_history[0]
    assert log["decoupled_kd"] == pytest.approx(expected, rel=1e-5)
    assert "hard_label_cross_entropy" not in log


def test_decoupling_partly_labelled_rows_is_the_same_however_a_batch_is_cut(train, make_model, reviews):
    teacher = make_model(TOPICS, "single_label_classification", seed=7)
    rows = _with_labels(reviews, [row % 5 if row % 5 < 3 else -1 for row in range(48)], Value("int64"))
    common = {"logit_loss": "decoupled", **PLAIN_DESCENT}
    one, four = (
        train(make_model(TOPICS, "single_label_classification"), rows, teacher, **cut, **common).model.state_dict()
        for cut in (
            {"per_device_train_batch_size": 8},
            {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4},
        )
    )
    assert largest_difference(one, four) < 2e-6


# Row 1 has two tokens, row 2 one; what stands in its padding must not count.
_MASK = torch.tensor([[1, 1], [1, 0]])
_STUDENT = {
    "hidden_states": (torch.zeros(2, 2, 1), torch.tensor([[[1.0], [2.0]], [[3.0], [99.0]]])),
    "attentions": (torch.tensor([[[[0.5, 0.5], [1.0, 0.0]]], [[[1.0, 0.0], [0.3, 0.7]]]]),),
    "values": (torch.zeros(2, 2, 1),),
}
_TEACHER = {
    "hidden_states": (torch.zeros(2, 2, 1), torch.tensor([[[0.0], [0.0]], [[1.0], [-99.0]]])),
    "attentions": (torch.tensor([[[[1.0, 0.0], [1.0, 0.0]]], [[[1.0, 0.0], [0.7, 0.3]]]]),),
    "values": (torch.tensor([[[math.log(3) ** 0.5], [0.0]], [[5.0], [7.0]]]),),
}
_LAYER_1 = {"teacher_layer": 1, "student_layer": 1}


def _objective(tmp_path, task, planned=(), **given):
    args = DistillationArguments(str(tmp_path), use_cpu=True, **{"temperature": 1.0, **given})
    return DistillationObjective(args, task, list(planned), projected=set())


def _signals(logits, states=None):
    return Signals(torch.tensor(logits), states or {}, _MASK, "first")


def test_the_objective_is_the_weighted_sum_worked_out_by_hand(tmp_path):
    """Halfway through training, where weights that move are halfway too."""
    matches = [
        Match("hidden_states", "mse", weight=3.0, **_LAYER_1),
        Match("attentions", "mse", weight=10.0, final_weight=20.0, **_LAYER_1),
        Match("value_relations", "kl", weight=100.0, relation_heads=1, **_LAYER_1),
        Match("pooled_states", "mse", weight=0.1, **_LAYER_1),
        Match("cls_states", "mse", weight=0.2, **_LAYER_1),
    ]
    objective = _objective(
        tmp_path,
        "single_label_classification",
        matches,
        temperature=3.0,
        final_temperature=1.0,
        logit_loss_weight=0.5,
        hard_label_weight=2.0,
        final_hard_label_weight=0.0,
    )
    assert objective.temperature(0.5) == 2.0
    # At temperature 2 the student gives 3/4 and 1/4, then 1/2 and 1/2; the teacher the other way round.
    student = _signals([[2 * math.log(3), 0.0], [0.0, 0.0]], _STUDENT)
    teacher = _signals([[0.0, 0.0], [2 * math.log(3), 0.0]], _TEACHER)
    loss, terms = objective(student, teacher, {"labels": torch.tensor([0, -100])}, None, progress=0.5)
    expected = {
        # 4 · mean of (½ ln ⅔ + ½ ln 2) and (¾ ln 3/2 + ¼ ln ½)
        "soft_target_kl": 2 * (0.5 * math.log(4 / 3) + 0.75 * math.log(1.5) - 0.25 * math.log(2)),
        "hard_label_cross_entropy": -math.log(0.9) / 2,
        "hidden_states_mse_t1_s1": (2.5 + 4.0) / 2,
        "attentions_mse_t1_s1": (0.5 / 4 + 0.0) / 2,
        # Of the first token: the teacher's 3/4 and 1/4 against even halves; of the second: none.
        "value_relations_kl_t1_s1": (0.75 * math.log(1.5) - 0.25 * math.log(2)) / 2 / 2,
        "pooled_states_mse_t1_s1": (1.5**2 + 2.0**2) / 2,
        "cls_states_mse_t1_s1": (1.0 + 4.0) / 2,
    }
    assert {name: term.item() for name, term in terms.items()} == pytest.approx(expected, rel=1e-5)
    weights = [0.5, 1.0, 3.0, 15.0, 100.0, 0.1, 0.2]
    by_hand = sum(weight * term for weight, term in zip(weights, expected.values(), strict=True))
    assert loss.item() == pytest.approx(by_hand, rel=1e-6)
    assert loss.item() == pytest.approx(15.0976, abs=1e-4)


def test_the_objective_of_several_labels_worked_out_by_hand(tmp_path):
    objective = _objective(tmp_path, "multi_label_classification", logit_loss_weight=2.0, hard_label_weight=3.0)
    # The student says 3/4, 1/2 and 1/2, 1/2; the teacher 1/2, 1/2 and 1/2, 3/4.
    student, teacher = _signals([[math.log(3), 0.0], [0.0, 0.0]]), _signals([[0.0, 0.0], [0.0, math.log(3)]])
    labels = torch.tensor([[1.0, 0.0], [math.nan, math.nan]])
    loss, terms = objective(student, teacher, {"labels": labels}, None, progress=0.0)
    kl = (0.5 * math.log(4 / 3) + 0.75 * math.log(1.5) - 0.25 * math.log(2)) / 4
    gold = (-math.log(0.75) - math.log(0.5)) / 2 / 2
    expected = {"sigmoid_kl": kl, "hard_label_binary_cross_entropy": gold}
    assert {name: term.item() for name, term in terms.items()} == pytest.approx(expected, rel=1e-5)
    assert loss.item() == pytest.approx(2 * kl + 3 * gold, rel=1e-6)


def test_the_objective_of_scores_worked_out_by_hand(tmp_path):
    objective = _objective(tmp_path, "regression", logit_loss_weight=2.0, hard_label_weight=3.0)
    labels = torch.tensor([4.0, math.nan])
    loss, terms = objective(_signals([[1.0], [2.0]]), _signals([[3.0], [2.0]]), {"labels": labels}, None, progress=0.0)
    assert {name: term.item() for name, term in terms.items()} == {"logit_mse": 2.0, "hard_label_mse": 4.5}
    assert loss.item() == 2 * 2.0 + 3 * 4.5


def test_label_smoothing_smooths_the_gold_labels_of_the_objective_alone(tmp_path):
    objective = _objective(tmp_path, "single_label_classification", hard_label_weight=1.0, label_smoothing_factor=0.2)
    student = _signals([[math.log(3), 0.0], [0.0, 0.0]])
    _, terms = objective(student, student, {"labels": torch.tensor([0, -100])}, None, progress=0.0)
    # A target of 9/10 and 1/10 for probabilities of 3/4 and 1/4.
    smoothed = -(0.9 * math.log(0.75) + 0.1 * math.log(0.25)) / 2
    assert terms["hard_label_cross_entropy"].item() == pytest.approx(smoothed, rel=1e-6)
    assert terms["soft_target_kl"].item() == 0.0


def test_a_loss_without_logits_still_reaches_every_parameter_of_the_head(tmp_path):
    """Under DDP a parameter without a gradient would stop the run."""
    objective = _objective(
        tmp_path,
        "single_label_classification",
        [Match("hidden_states", "mse", **_LAYER_1)],
        logit_loss_weight=0.0,
        matches=[{"what": "hidden_states", "loss": "mse"}],
    )
    logits = torch.ones(2, 2, requires_grad=True)
    loss, terms = objective(
        Signals(logits, _STUDENT, _MASK, "first"), _signals([[0.0, 0.0]] * 2, _TEACHER), {}, None, 0.0
    )
    loss.backward()
    assert list(terms) == ["hidden_states_mse_t1_s1"] and loss.item() == 3.25
    assert logits.grad is not None and not logits.grad.any()
