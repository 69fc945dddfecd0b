"""Distillation losses: pure functions, tensors (and a mask) in, a float32 scalar out.

Each is a mean over rows, so that the mean of micro-batches of one size is the loss of the batch they make; those in
`rows`, which compare rows with each other, are the exception. Masks have the shape `(batch_size, length)`, 1 where a
position counts: padding never changes a value or a gradient.
"""

from distil_trainer.losses.attention import attention_cosine, attention_kl, attention_mse
from distil_trainer.losses.hidden import hidden_cosine, hidden_mse, pkd, pooled_cosine, pooled_mse
from distil_trainer.losses.logits import (
    decoupled_kd,
    hard_label_binary_cross_entropy,
    hard_label_cross_entropy,
    hard_label_mse,
    logit_mse,
    sigmoid_cross_entropy,
    sigmoid_kl,
    soft_cross_entropy,
    soft_target_kl,
)
from distil_trainer.losses.relations import relation_kl
from distil_trainer.losses.rows import rkd_angle, rkd_distance, similarity_preserving

__all__ = [
    "attention_cosine",
    "attention_kl",
    "attention_mse",
    "decoupled_kd",
    "hard_label_binary_cross_entropy",
    "hard_label_cross_entropy",
    "hard_label_mse",
    "hidden_cosine",
    "hidden_mse",
    "logit_mse",
    "pkd",
    "pooled_cosine",
    "pooled_mse",
    "relation_kl",
    "rkd_angle",
    "rkd_distance",
    "sigmoid_cross_entropy",
    "sigmoid_kl",
    "similarity_preserving",
    "soft_cross_entropy",
    "soft_target_kl",
]
