"""Distillation from the unpruned model brings a pruned one nearer to its answers."""

import copy

import pytest
import torch
from gated import assert_same, logits_of

from distil_trainer.arguments import DistillationArguments
from distil_trainer.evaluation import evaluate_logits
from distil_trainer.inference import predict_logits, torch_runner
from distil_trainer.pruning import prune, prune_vocabulary, recover


@pytest.fixture
def args(tmp_path):
    return DistillationArguments(
        str(tmp_path / "out"),
        max_steps=30,
        learning_rate=5e-3,
        per_device_train_batch_size=16,
        save_strategy="no",
        drop_evaluation_rows=False,
        disable_tqdm=True,
        logit_loss="mse",
        use_cpu=True,
    )


@pytest.mark.parametrize("given", [{"num_heads": 2, "intermediate_size": 16}, {"keep": 0.5, "seed": 1}])
def test_recovery_brings_the_answers_back(model, tokenizer, reviews, args, given):
    before = copy.deepcopy(model.state_dict())
    pruned = prune(model, importance="random", **given)
    texts, distances = reviews["sentence"][:], []
    expected = predict_logits(torch_runner(model), tokenizer, texts)
    distances.append(abs(predict_logits(torch_runner(pruned), tokenizer, texts) - expected).mean())
    recovered = recover(pruned, model, tokenizer, reviews.remove_columns("label"), args)
    distances.append(abs(predict_logits(torch_runner(recovered), tokenizer, texts) - expected).mean())
    assert distances[1] < 0.5 * distances[0]
    assert recovered is pruned and not recovered.training
    assert all(torch.equal(model.state_dict()[name], weight) for name, weight in before.items())


def test_a_pruned_vocabulary_learns_from_the_model_with_the_whole_one(model, tokenizer, reviews, args):
    args.max_steps = 2
    pruned, smaller = prune_vocabulary(model, tokenizer, reviews["sentence"][:20])
    recovered = recover(pruned, model, smaller, reviews, args, eval_dataset=reviews, model_tokenizer=tokenizer)
    logits = predict_logits(torch_runner(recovered), smaller, reviews["sentence"][:])
    assert evaluate_logits(logits, reviews["label"][:])["n"] == 48


def test_it_does_not_move_a_model_that_lost_nothing(model, tokenizer, reviews, args):
    for name in ("hidden_dropout_prob", "attention_probs_dropout_prob"):
        setattr(model.config, name, 0.0)
    unpruned = prune(model, importance="magnitude", keep=1.0)
    args.max_steps = 2
    assert_same(logits_of(recover(unpruned, model, tokenizer, reviews, args)), logits_of(model), atol=1e-6)


def test_what_does_not_fit_together_is_refused_before_the_first_step(model, tokenizer, reviews, args):
    pruned, smaller = prune_vocabulary(model, tokenizer, ["the film"])
    with pytest.raises(ValueError, match="Pass its own tokenizer as teacher_processing_class="):
        recover(pruned, model, smaller, reviews, args)
