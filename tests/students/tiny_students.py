"""Tiny students of every architecture, and batches for them."""

import torch
from transformers import BertConfig

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

VOCAB_SIZE = 50
_CLASSES = {
    "bilstm": (BilstmConfig, BilstmForSequenceClassification),
    "densenet_cnn": (DensenetCnnConfig, DensenetCnnForSequenceClassification),
    "densenet_dsa": (DensenetDsaConfig, DensenetDsaForSequenceClassification),
    "embedding_bag": (EmbeddingBagConfig, EmbeddingBagForSequenceClassification),
    "glove_cnn": (GloveCnnConfig, GloveCnnForSequenceClassification),
    "transformer_cnn": (TransformerCnnConfig, TransformerCnnForSequenceClassification),
}
_TABLE = {"vocab_size": VOCAB_SIZE, "embedding_size": 12}
_BLOCK = {**_TABLE, "first_filters": 6, "growth_filters": 4, "block_size": 10}
_PAIRS = {"type_vocab_size": 2}
_BILSTM = {**_TABLE, "lstm_size": 7, "classifier_size": 9}
_GLOVE_CNN = {**_TABLE, "num_filters": 4, "classifier_size": 6}
_BAG = {**_TABLE, "classifier_size": 8}
_SIZES = {
    "bilstm": _BILSTM,
    "bilstm attention": {**_BILSTM, "pooling": "attention"},
    "bilstm pairs": {**_BILSTM, **_PAIRS},
    "densenet_cnn": {**_BLOCK, "num_filters": 3},
    "densenet_dsa": {**_BLOCK, "num_heads": 2, "head_size": 5, "classifier_size": 6},
    "embedding_bag": _BAG,
    "embedding_bag pairs": {**_BAG, **_PAIRS},
    "glove_cnn": _GLOVE_CNN,
    "glove_cnn pairs": {**_GLOVE_CNN, **_PAIRS},
    "transformer_cnn": {"num_filters": 4, "classifier_size": 6},
}
NETWORKS = list(_SIZES)
ARCHITECTURES = list(_CLASSES)
TABLE_NETWORKS = [name for name in NETWORKS if name != "transformer_cnn"]
SINGLE_NETWORKS = [name for name in NETWORKS if "pairs" not in name and name != "transformer_cnn"]
PAIR_NETWORKS = [name for name in NETWORKS if "pairs" in name]
_LENGTHS = (9, 1, 4, 0, 2)


def make_config(name, **settings):
    """Make the configuration of a tiny student."""
    settings = {**_SIZES[name], **settings}
    if name == "transformer_cnn":
        settings["encoder_config"] = BertConfig(
            vocab_size=VOCAB_SIZE,
            hidden_size=12,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=16,
            max_position_embeddings=80,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
    return _CLASSES[name.split()[0]][0](**settings)


def make_student(name, **settings):
    """Make a tiny student in evaluation mode whose biases and norms are not those of a fresh one, which hide much."""
    torch.manual_seed(0)
    student = _CLASSES[name.split()[0]][1](make_config(name, **settings))
    with torch.no_grad():
        for parameter in student.parameters():
            parameter += 0.1 * torch.randn(parameter.shape)
        student.get_input_embeddings().weight[0] = 0
    return student.eval()


def make_rows(pairs):
    """Make rows of 9, 1, 4, 0 and 2 tokens as `(token numbers, token types)`."""
    generator = torch.Generator().manual_seed(3)
    rows = []
    for length in _LENGTHS:
        ids = torch.randint(1, VOCAB_SIZE, (length,), generator=generator)
        rows.append((ids, (torch.arange(length) >= length // 2).long() * pairs))
    return rows


def make_batch(rows, side="right", width=None):
    """Pad rows to a width on a side, with garbage under the mask."""
    width = max(1, *(len(ids) for ids, _ in rows)) if width is None else width
    generator = torch.Generator().manual_seed(width)
    batch = {
        "input_ids": torch.randint(0, VOCAB_SIZE, (len(rows), width), generator=generator),
        "attention_mask": torch.zeros(len(rows), width, dtype=torch.long),
        "token_type_ids": torch.zeros(len(rows), width, dtype=torch.long),
    }
    for row, (ids, types) in enumerate(rows):
        place = slice(width - len(ids), width) if side == "left" else slice(len(ids))
        batch["input_ids"][row, place] = ids
        batch["attention_mask"][row, place] = 1
        batch["token_type_ids"][row, place] = types
        if types.any():
            batch["token_type_ids"][row, batch["attention_mask"][row] == 0] = 1
    return batch


def run(model, batch, **arguments):
    """Run a model without gradients."""
    with torch.no_grad():
        return model(**batch, **arguments)


def checkpoint_gradients(model):
    """Turn gradient checkpointing on, which transformers 5 calls activation checkpointing."""
    old_name = model.gradient_checkpointing_enable
    getattr(model, "activation_checkpointing_enable", old_name)({"use_reentrant": False})
