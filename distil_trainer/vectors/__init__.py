"""Word vectors for the networks that start from them: read from a file, or distilled from the teacher."""

from distil_trainer.vectors.table import Coverage, WordVectors, check_source, word_vectors

__all__ = ["Coverage", "WordVectors", "check_source", "word_vectors"]
