"""SST-2 classifiers of every family that can be exported and of every student, all distilled from one fine-tuned BERT.

No checkpoint of RoBERTa, ELECTRA or DistilBERT is at hand. So the weights of BERT's encoder are put into each of these
architectures, which gives the same hidden states (that is checked), and keep BERT's tokenizer. The heads are the
families' own, and new; encoder and head then learn BERT's logits of the training sentences. The same holds for the
Transformer-CNN, and for BERT pruned in two ways. The networks over word vectors start from vectors distilled from BERT
and learn its logits of the same sentences. BERT itself is taken as it is.
"""

import shutil
import tempfile
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import torch
from datasets import Dataset
from transformers import AutoConfig, AutoModelForSequenceClassification, set_seed

from distil_trainer import (
    DistillationArguments,
    DistillationTrainer,
    TeacherLabeler,
    drop_duplicates_and_leaks,
    load_classifier,
    prune,
    word_vectors,
)
from distil_trainer.students import TransformerCnnForSequenceClassification

SEED = 1
MAX_LENGTH = 128
# BERT's name of a part -> DistilBERT's. The first that fits counts, so longer names stand first.
DISTILBERT_NAMES = {
    "encoder.layer": "transformer.layer",
    "attention.self.query": "attention.q_lin",
    "attention.self.key": "attention.k_lin",
    "attention.self.value": "attention.v_lin",
    "attention.output.dense": "attention.out_lin",
    "attention.output.LayerNorm": "sa_layer_norm",
    "intermediate.dense": "ffn.lin1",
    "output.dense": "ffn.lin2",
    "output.LayerNorm": "output_layer_norm",
}


class Recipe(NamedTuple):
    """How one model comes about: `start` makes it of a `TrainedModels`, with its tokenizer; it is then trained."""

    start: Callable
    steps: int
    batch_size: int
    learning_rate: float


class TrainedModels:
    """The models by name, trained on first use and kept.

    Args:
        teacher (`str`): folder of a fine-tuned classifier of the BERT family.
        data (`str`): folder of `train.parquet` and `validation.parquet`.
        work (`str`): where each model has a folder; one that is there is taken as it is.
        steps (`int`): training steps of every model that is trained; `None` for each model's own number.
    """

    def __init__(self, teacher, data, work, steps):
        self.teacher, self.tokenizer = load_classifier(teacher)
        self.data, self.work, self.steps = Path(data), Path(work), steps

    @cached_property
    def train(self):
        validation = Dataset.from_parquet(str(self.data / "validation.parquet"))["sentence"]
        train = Dataset.from_parquet(str(self.data / "train.parquet"))
        return drop_duplicates_and_leaks(train, validation, near_threshold=None)[0]

    @cached_property
    def labelled(self):
        return TeacherLabeler(self.teacher, self.tokenizer).map(self.train)

    @cached_property
    def vectors(self):
        texts = self.train["sentence"]
        return word_vectors(texts, (self.teacher, self.tokenizer), size=300, model_max_length=MAX_LENGTH)

    def steps_of(self, name):
        """Return the training steps of a model (`int`); 0 for one that is not trained here."""
        own = MODELS[name].steps
        return own if self.steps is None or not own else self.steps

    def folder(self, name):
        """Return the folder (`Path`) of everything that belongs to a model of so many steps."""
        return self.work / f"{name}_{self.steps_of(name)}_steps"

    def get(self, name):
        """Return a model and its tokenizer, both read from its folder."""
        folder = self.folder(name) / "model"
        if not folder.exists():
            set_seed(SEED)
            recipe = MODELS[name]
            model, tokenizer = recipe.start(self)
            if recipe.steps:
                self._distil(name, model, tokenizer)
            partial = folder.with_name("model.partial")
            shutil.rmtree(partial, ignore_errors=True)  # of a run that was killed
            model.save_pretrained(partial)
            tokenizer.save_pretrained(partial)
            partial.rename(folder)
        return load_classifier(folder)

    def _distil(self, name, model, tokenizer):
        recipe, steps = MODELS[name], self.steps_of(name)
        with tempfile.TemporaryDirectory() as checkpoints:
            args = DistillationArguments(
                checkpoints,
                max_steps=steps,
                per_device_train_batch_size=recipe.batch_size,
                learning_rate=recipe.learning_rate,
                warmup_steps=min(100, steps // 10),
                logit_loss="mse",
                length_grouped_batches=True,
                drop_evaluation_rows=False,  # dropped already
                bf16=True,
                save_strategy="no",
                seed=SEED,
                disable_tqdm=True,
            )
            trainer = DistillationTrainer(model, args, train_dataset=self.labelled, processing_class=tokenizer)
            trainer.train()


def in_family(bert, model_type):
    """Put BERT's encoder into another family, with a new head.

    Args:
        bert (`BertForSequenceClassification`): the trained classifier; left as it is.
        model_type (`str`): "roberta", "electra" or "distilbert".

    Returns:
        `PreTrainedModel`: reads BERT's tokens, and has its hidden states for single texts.

    Raises:
        RuntimeError: if the hidden states are others.
    """
    config, weights = bert.config, bert.base_model.state_dict()
    weights = {name: weight for name, weight in weights.items() if not name.startswith("pooler.")}
    settings = {name: getattr(config, name) for name in ("vocab_size", "pad_token_id", "id2label", "label2id")}
    settings["max_position_embeddings"] = config.max_position_embeddings
    types, positions = "embeddings.token_type_embeddings.weight", "embeddings.position_embeddings.weight"
    if model_type == "distilbert":
        settings |= {
            "dim": config.hidden_size,
            "hidden_dim": config.intermediate_size,
            "n_layers": config.num_hidden_layers,
            "n_heads": config.num_attention_heads,
        }
        # It has no token types, and every token has one position.
        weights[positions] = weights[positions] + weights.pop(types)[0]
        weights = {_distilbert_name(name): weight for name, weight in weights.items()}
    else:
        same = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "layer_norm_eps")
        settings |= {name: getattr(config, name) for name in same}
        settings["type_vocab_size"] = config.type_vocab_size
    if model_type == "electra":
        settings["embedding_size"] = config.hidden_size
    if model_type == "roberta":
        # It counts positions from the one after that of padding, and knows one type.
        before = torch.zeros(config.pad_token_id + 1, config.hidden_size)
        weights[positions], weights[types] = torch.cat([before, weights[positions]]), weights[types][:1]
        settings |= {"max_position_embeddings": len(weights[positions]), "type_vocab_size": 1}
    model = AutoModelForSequenceClassification.from_config(AutoConfig.for_model(model_type, **settings))
    model.base_model.load_state_dict(weights)
    _check_states(bert, model)
    return model


def _distilbert_name(name):
    for part, other in DISTILBERT_NAMES.items():
        name = name.replace(part, other)
    return name


def _check_states(bert, model):
    ids = torch.randint(1000, bert.config.vocab_size, (3, 17), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    ids[1, 9:], mask[1, 9:] = bert.config.pad_token_id, 0
    with torch.inference_mode():
        expected, states = (
            each.base_model.eval()(input_ids=ids, attention_mask=mask).last_hidden_state[mask == 1]
            for each in (bert, model)
        )
    if not torch.allclose(states, expected, atol=1e-4):
        raise RuntimeError(
            f"BERT's encoder as {type(model).__name__} has hidden states that differ by up to "
            f"{float((states - expected).abs().max()):.2g}: the table would call an untrained model trained."
        )


def _take_family(model_type):
    return lambda models: (in_family(models.teacher, model_type), models.tokenizer)


def _take_transformer_cnn(models):
    return TransformerCnnForSequenceClassification.from_encoder(models.teacher), models.tokenizer


def _prune(**sizes):
    def start(models):
        rows = models.train.shuffle(seed=SEED).select(range(1000))
        return prune(models.teacher, models.tokenizer, rows, **sizes), models.tokenizer

    return start


def _take_network(model_type):
    def start(models):
        vectors, labels = models.vectors, models.teacher.config
        config = AutoConfig.for_model(
            model_type,
            vocab_size=len(vectors.tokenizer),
            id2label=labels.id2label,
            label2id=labels.label2id,
        )
        model = AutoModelForSequenceClassification.from_config(config)
        model.set_word_vectors(vectors.matrix)
        return model, vectors.tokenizer

    return start


MODELS = {
    "bert": Recipe(lambda models: (models.teacher, models.tokenizer), 0, 0, 0.0),
    "roberta": Recipe(_take_family("roberta"), 200, 64, 1e-4),
    "electra": Recipe(_take_family("electra"), 200, 64, 1e-4),
    "distilbert": Recipe(_take_family("distilbert"), 200, 64, 1e-4),
    "transformer_cnn": Recipe(_take_transformer_cnn, 200, 64, 1e-4),
    "pruned_uniform": Recipe(_prune(num_heads=8, intermediate_size=768), 400, 64, 1e-4),
    "pruned_per_layer": Recipe(_prune(keep=0.5), 400, 64, 1e-4),
    "embedding_bag": Recipe(_take_network("embedding_bag"), 1000, 128, 1e-3),
    "glove_cnn": Recipe(_take_network("glove_cnn"), 1000, 128, 1e-3),
    "densenet_cnn": Recipe(_take_network("densenet_cnn"), 1000, 128, 1e-3),
    "densenet_dsa": Recipe(_take_network("densenet_dsa"), 1000, 128, 1e-3),
    "bilstm": Recipe(_take_network("bilstm"), 1000, 128, 1e-3),
}
