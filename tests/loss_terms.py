"""Every loss term by itself, as arguments, and a student: for the tests that hold for each term."""

import torch
from transformers import BertConfig, BertForSequenceClassification
from vocabulary import LABELS, WORDS


def _match(what, loss, **given):
    return {"logit_loss_weight": 0.0, "matches": [{"what": what, "loss": loss, **given}]}


# Means over rows: the same however a batch is cut.
TERMS = {
    "kl": {"logit_loss": "kl"},
    "logit_mse": {"logit_loss": "mse"},
    "soft_cross_entropy": {"logit_loss": "soft_cross_entropy"},
    "decoupled": {"logit_loss": "decoupled"},
    "gold_labels": {"logit_loss_weight": 0.0, "hard_label_weight": 1.0},
    "hidden_mse": _match("hidden_states", "mse", teacher_layer=2, student_layer=1),
    "hidden_cosine": _match("hidden_states", "cosine"),
    "embeddings": _match("hidden_states", "mse", teacher_layer=0, student_layer=0),
    "attention_mse": _match("attentions", "mse"),
    "attention_cosine": _match("attentions", "cosine"),
    "attention_kl": _match("attentions", "kl"),
    "query_relations": _match("query_relations", "kl"),
    "key_relations": _match("key_relations", "kl"),
    "value_relations": _match("value_relations", "kl", relation_heads=8),
    "cls_pkd": _match("cls_states", "pkd"),
    "cls_mse": _match("cls_states", "mse"),
    "cls_cosine": _match("cls_states", "cosine"),
    "pooled_mse": _match("pooled_states", "mse"),
    "pooled_cosine": _match("pooled_states", "cosine"),
    "short_forms": {"hidden_loss_weight": 1.0, "attention_loss_weight": 1.0, "relation_loss_weight": 1.0},
}
# They compare the rows of a batch with each other, so that they depend on how it is cut.
ROW_TERMS = {
    "similarity_preserving": _match("pooled_states", "similarity_preserving"),
    "rkd_distance": _match("pooled_states", "rkd_distance"),
    "rkd_angle": _match("pooled_states", "rkd_angle"),
}
# With a student of another width, these train a projection.
PROJECTED = [
    "hidden_mse",
    "hidden_cosine",
    "embeddings",
    "cls_pkd",
    "cls_mse",
    "cls_cosine",
    "pooled_mse",
    "pooled_cosine",
]
FREE_OF_WIDTH = ["query_relations", "key_relations", "value_relations", "attention_kl"]
PLAIN_DESCENT = {"max_steps": 3, "optim": "sgd", "learning_rate": 0.1, "max_grad_norm": 0.0}


def make_student(width=32, dropout=0.0, seed=1, **given):
    """Make a tiny BERT of two layers, with random weights."""
    torch.manual_seed(seed)
    config = {
        "vocab_size": len(WORDS) + 5,
        "hidden_size": width,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 32,
        "max_position_embeddings": 80,
        "hidden_dropout_prob": dropout,
        "attention_probs_dropout_prob": dropout,
        "pad_token_id": 0,
        "id2label": dict(enumerate(LABELS)),
        "label2id": {name: index for index, name in enumerate(LABELS)},
        **given,
    }
    return BertForSequenceClassification(BertConfig(**config))


def trained_weights(trainer):
    """Return copies of the weights of a trainer's student and projections, by name."""
    weights = dict(trainer.model.state_dict())
    if trainer._projections is not None:
        weights |= {f"projections.{name}": value for name, value in trainer._projections.state_dict().items()}
    return {name: value.clone() for name, value in weights.items()}


def largest_difference(first, second):
    """Return the largest difference between two dictionaries of weights."""
    assert first.keys() == second.keys()
    return max((first[name] - second[name]).abs().max().item() for name in first)
