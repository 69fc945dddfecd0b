"""Every network trains in `DistillationTrainer` like any other student."""

import copy

import pytest
import torch
from datasets import Dataset
from tiny_students import NETWORKS, SINGLE_NETWORKS, make_student
from transformers import AutoModelForSequenceClassification

from distil_trainer.arguments import DistillationArguments
from distil_trainer.labeling import TeacherLabeler
from distil_trainer.small_tokenizers import word_level_tokenizer
from distil_trainer.trainer import DistillationTrainer

TEXTS = ["good film", "the film is great", "awful", "a tedious plot", "bad", "not a good script", "very slow", "great"]


@pytest.fixture
def train(tmp_path, tokenizer, teacher):
    """Train a network for some steps of plain descent without dropout; return the trainer."""

    def run(name, *, online=False, steps=2, pairs=False, **given):
        student = make_student(name, **({} if name == "transformer_cnn" else {"vocab_size": len(tokenizer)}))
        for module in student.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        rows = {"sentence": TEXTS} | ({"second": TEXTS[::-1]} if pairs else {})
        columns = {"text_pair_column": "second"} if pairs else {}
        rows = Dataset.from_dict(rows)
        if not online:
            rows = TeacherLabeler(teacher, tokenizer, **columns).map(rows)
        given = {"per_device_train_batch_size": 8, "learning_rate": 0.1, "optim": "sgd", "max_grad_norm": 0.0, **given}
        trainer = DistillationTrainer(
            student,
            DistillationArguments(
                str(tmp_path / "out"),
                max_steps=steps,
                save_strategy="no",
                lr_scheduler_type="constant",
                use_cpu=True,
                disable_tqdm=True,
                logging_steps=1,
                **columns,
                **given,
            ),
            train_dataset=rows,
            processing_class=tokenizer,
            teacher=teacher if online else None,
        )
        before = copy.deepcopy(student.state_dict())
        trainer.train()
        trainer.before = before
        return trainer

    return run


@pytest.mark.parametrize("name", NETWORKS)
def test_all_of_a_network_learns_from_cached_logits_and_is_saved_whole(name, train, tmp_path):
    trainer = train(name, pairs="pairs" in name)
    student = trainer.model
    still = [key for key, value in student.state_dict().items() if value.equal(trainer.before[key])]
    # A bias of keys moves all scores of a query alike, which softmax takes out.
    assert [key for key in still if not key.endswith("key.bias")] == []
    trainer.save_model(str(tmp_path / "saved"))
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved")
    assert all(value.equal(student.state_dict()[key]) for key, value in loaded.state_dict().items())


@pytest.mark.parametrize("name", NETWORKS)
def test_one_batch_of_eight_equals_four_accumulated_batches_of_two(name, train):
    one = train(name, steps=3, pairs="pairs" in name)
    four = train(name, steps=3, pairs="pairs" in name, per_device_train_batch_size=2, gradient_accumulation_steps=4)
    for key, value in one.model.state_dict().items():
        torch.testing.assert_close(four.model.state_dict()[key], value, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", SINGLE_NETWORKS)
@pytest.mark.parametrize("loss", ["mse", "cosine", "similarity_preserving", "rkd_distance"])
def test_losses_on_pooled_states_reach_the_network_and_its_projection(name, loss, train):
    match = {"what": "pooled_states", "loss": loss}
    trainer = train(name, online=True, matches=[match], logit_loss_weight=0.0)
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    (term,) = [key for key in logged[0] if key.startswith("pooled_states")]
    assert logged[1][term] < logged[0][term]
    embeddings = next(key for key in trainer.before if key.endswith("embeddings.weight"))
    assert not trainer.model.state_dict()[embeddings].equal(trainer.before[embeddings])


@pytest.mark.parametrize("name", ["bilstm pairs", "glove_cnn pairs"])
def test_hidden_states_of_a_pair_are_compared_token_by_token(name, train):
    trainer = train(name, online=True, pairs=True, hidden_loss_weight=1.0, logit_loss_weight=0.0)
    logged = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert logged[1] < logged[0]


def test_a_bag_has_no_layer_beyond_its_embeddings_to_be_matched(train):
    with pytest.raises(ValueError, match="student has layers 0 to 0"):
        train("embedding_bag", online=True, matches=[{"what": "hidden_states", "loss": "mse", "student_layer": 1}])


@pytest.mark.parametrize("what", ["attentions", "value_relations", "cls_states"])
def test_what_a_network_does_not_have_is_refused(what, train):
    loss = "mse" if what != "value_relations" else "kl"
    with pytest.raises(ValueError, match="head counts|no modules that are known|no Transformer|needs a Transformer"):
        train("bilstm", online=True, matches=[{"what": what, "loss": loss}])


@pytest.mark.parametrize(
    ("name", "pairs", "message"),
    [
        ("bilstm", True, "reads single texts, and would read both texts of a pair as one"),
        ("bilstm pairs", False, "it compares the two texts of a pair. Name the column"),
    ],
)
def test_single_texts_and_pairs_are_not_mixed_up(name, pairs, message, train, tokenizer):
    with pytest.raises(ValueError, match=message):
        train(name, pairs=pairs)
    with pytest.raises(ValueError, match=message):
        TeacherLabeler(make_student(name), tokenizer, text_pair_column="second" if pairs else None)


def test_a_tokenizer_that_does_not_tell_the_texts_of_a_pair_apart_is_refused():
    tokenizer = word_level_tokenizer(TEXTS)
    with pytest.raises(ValueError, match="Make it with pairs=True"):
        TeacherLabeler(make_student("bilstm pairs"), tokenizer, text_pair_column="second")
