"""Unit vectors, and the cosine distance as a distance between them."""

import torch


def unit_vectors(vectors):
    """Divide by the Euclidean length along the last axis; a zero vector stays zero and gets a finite gradient."""
    squares = vectors.square().sum(dim=-1, keepdim=True)
    return vectors / torch.where(squares > 0, squares, 1.0).sqrt()


def cosine_distance(student, teacher):
    """Compute 1 − cosine along the last axis, as half the squared distance of the unit vectors.

    The two are equal, but this form is exactly zero, and so is its gradient, where the directions are the same; the
    other loses what is smaller than 1e-7. Two zero vectors are at distance 0, a zero vector and another at ½.
    """
    return (unit_vectors(student) - unit_vectors(teacher)).square().sum(dim=-1) / 2
