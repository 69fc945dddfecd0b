"""Tokenizers of small students: whole words, pieces trained on the texts, or those of a SentencePiece file."""

from distil_trainer.small_tokenizers.sentencepiece_files import sentencepiece_tokenizer
from distil_trainer.small_tokenizers.trained import train_tokenizer
from distil_trainer.small_tokenizers.word_level import add_words, word_level_tokenizer

__all__ = ["add_words", "sentencepiece_tokenizer", "train_tokenizer", "word_level_tokenizer"]
