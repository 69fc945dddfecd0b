"""Small students of each architecture, and a toy task that they learn in a few steps."""

import numpy as np
import torch
from transformers import ElectraConfig

from distil_trainer.students import (
    BilstmConfig,
    BilstmForSequenceClassification,
    DensenetCnnConfig,
    DensenetCnnForSequenceClassification,
    DensenetDsaConfig,
    DensenetDsaForSequenceClassification,
    EmbeddingBagConfig,
    EmbeddingBagForSequenceClassification,
    GloveCnnConfig,
    GloveCnnForSequenceClassification,
    TransformerCnnConfig,
    TransformerCnnForSequenceClassification,
)

# More rows than the tests' tokenizer has words, so that the file is mostly weights.
_COMMON = dict(vocab_size=3000, id2label={0: "negative", 1: "positive"}, label2id={"negative": 0, "positive": 1})
_TABLE = dict(embedding_size=32, **_COMMON)
_BLOCK = dict(first_filters=24, growth_filters=16, block_size=32, block_dropout=0.0, embedding_dropout=0.0)


def make_student(architecture, pairs=False):
    """Make a small student with random weights; pairs are compared by siamese students, and by an encoder."""
    torch.manual_seed(0)
    types = {"type_vocab_size": 2} if pairs else {}
    if architecture == "glove_cnn":
        config = GloveCnnConfig(kernel_sizes=[2, 3, 4], num_filters=32, classifier_size=32, **_TABLE, **types)
        return GloveCnnForSequenceClassification(config)
    if architecture == "densenet_cnn":
        config = DensenetCnnConfig(
            block_kernel_sizes=[[1, 1], [3, 5]], kernel_sizes=[2, 3], num_filters=32, **_TABLE, **_BLOCK
        )
        return DensenetCnnForSequenceClassification(config)
    if architecture == "densenet_dsa":
        config = DensenetDsaConfig(
            block_kernel_sizes=[[1, 1], [3, 5]], num_heads=2, head_size=32, classifier_size=32, **_TABLE, **_BLOCK
        )
        return DensenetDsaForSequenceClassification(config)
    if architecture == "bilstm":
        return BilstmForSequenceClassification(BilstmConfig(lstm_size=32, classifier_size=32, **_TABLE, **types))
    if architecture == "embedding_bag":
        return EmbeddingBagForSequenceClassification(EmbeddingBagConfig(classifier_size=32, **_TABLE, **types))
    encoder = ElectraConfig(
        vocab_size=6000,
        embedding_size=32,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=80,
        type_vocab_size=2 if pairs else 1,
    )
    labels = {name: _COMMON[name] for name in ("id2label", "label2id")}
    config = TransformerCnnConfig(encoder, kernel_sizes=[2, 3], num_filters=32, classifier_size=32, **labels)
    return TransformerCnnForSequenceClassification(config)


_POSITIVE = "great good fine brilliant charming moving funny warm".split()
_NEGATIVE = "bad poor dull awful tedious slow sad cold".split()
_NEUTRAL = "the a film movie plot actor is was but and with of in it this story scene script i we you they".split()


def toy_rows(number, seed):
    """Make texts of 2 to 12 words, some of which praise or blame, and their labels."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 2, number)
    texts = []
    for label in labels:
        words = [*generator.choice(_POSITIVE if label else _NEGATIVE, generator.integers(1, 4))]
        words += [*generator.choice(_NEUTRAL, generator.integers(1, 10))]
        texts.append(" ".join(generator.permutation(words)))
    return texts, labels.tolist()


def train_student(architecture, tokenizer, pairs=False):
    """Make a small student that knows the toy task; a pair is positive where both of its texts are."""
    model = make_student(architecture, pairs).train()
    texts, labels = toy_rows(512, seed=1)
    seconds, second_labels = toy_rows(512, seed=2) if pairs else (None, labels)
    batch = tokenizer(texts, seconds, padding=True, return_tensors="pt")
    if not pairs:
        del batch["token_type_ids"]
    labels = torch.tensor(labels) & torch.tensor(second_labels)
    rate, steps = (0.002, 80) if architecture == "transformer_cnn" else (0.01, 120 if pairs else 40)
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        rows = torch.randint(0, 512, (64,), generator=generator)
        inputs = {name: values[rows] for name, values in batch.items()}
        model(**inputs, labels=labels[rows]).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()
