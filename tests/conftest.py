"""Tiny random models and tokenizers: everything a test needs without the network."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import copy
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from datasets import ClassLabel, Dataset, Features, Value
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    ElectraConfig,
    ElectraForSequenceClassification,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForSequenceClassification,
)
from vocabulary import LABELS, WORDS
from zoo import ARCHITECTURES, make_teacher, make_tokenizer

from distil_trainer.labeling import TeacherLabeler

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(autouse=True)
def _private_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "datasets_cache")
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path / "hf_home"))


@pytest.fixture(autouse=True)
def _own_accelerator(monkeypatch):
    # `TrainingArguments(bf16=True)` writes this variable, and every later `Accelerator` of the process reads it.
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="session")
def tokenizer():
    """A word-level fast tokenizer with BERT's special tokens."""
    vocabulary = {token: i for i, token in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=64,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


_SIZES = dict(hidden_size=32, num_hidden_layers=4, num_attention_heads=4, intermediate_size=64)
_LABEL_MAPS = dict(
    id2label=dict(enumerate(LABELS)), label2id={name: i for i, name in enumerate(LABELS)}, max_position_embeddings=80
)


@pytest.fixture(scope="session")
def _families():
    torch.manual_seed(0)
    size = len(WORDS) + 5
    common = dict(vocab_size=size, pad_token_id=0, **_LABEL_MAPS)
    return {
        "bert": BertForSequenceClassification(BertConfig(**_SIZES, **common)),
        "roberta": RobertaForSequenceClassification(RobertaConfig(**_SIZES, **common)),
        "electra": ElectraForSequenceClassification(ElectraConfig(embedding_size=16, **_SIZES, **common)),
        "distilbert": DistilBertForSequenceClassification(
            DistilBertConfig(dim=32, n_layers=4, n_heads=4, hidden_dim=64, **common)
        ),
    }


@pytest.fixture(params=["bert", "roberta", "electra", "distilbert"])
def any_family_model(request, _families):
    """A tiny 4-layer classifier of each family, in evaluation mode; a fresh copy for each test."""
    return copy.deepcopy(_families[request.param]).eval()


@pytest.fixture
def teacher(_families):
    """A tiny 4-layer BERT classifier with labels negative, positive."""
    return copy.deepcopy(_families["bert"]).eval()


@pytest.fixture(scope="session")
def _zoo():
    return {}


@pytest.fixture
def teacher_zoo(_zoo):
    """A function from the name of an architecture to fresh copies of its tiny 3-layer classifier and tokenizer."""

    def by_name(name):
        if name not in _zoo:
            _zoo[name] = make_teacher(name).eval(), make_tokenizer(name)
        return copy.deepcopy(_zoo[name])

    return by_name


@pytest.fixture(params=ARCHITECTURES)
def any_teacher(request, teacher_zoo):
    """A tiny 3-layer classifier of each architecture that can teach, and its tokenizer; fresh copies for each test."""
    return teacher_zoo(request.param)


@pytest.fixture
def reviews():
    """A labelled data set of 48 short reviews with columns `sentence` and `label`."""
    generator = torch.Generator().manual_seed(7)
    rows = []
    for index in range(48):
        length = 3 + int(torch.randint(0, 9, (1,), generator=generator))
        words = [WORDS[int(i)] for i in torch.randint(0, len(WORDS), (length,), generator=generator)]
        rows.append({"sentence": " ".join(words), "label": index % 2})
    return Dataset.from_list(rows, features=Features({"sentence": Value("string"), "label": ClassLabel(names=LABELS)}))


@pytest.fixture(scope="session")
def sst2_folder():
    """The folder of the real SST-2 files; tests that ask for it skip where it is absent."""
    folder = SHARED / "data" / "sst2"
    if not folder.is_dir():
        pytest.skip(f"needs the real data in {folder}")
    return folder


@pytest.fixture(scope="session")
def minilm_folder():
    """The folder of the real teacher; tests that ask for it skip where it is absent."""
    folder = SHARED / "models" / "minilm-sst2"
    if not folder.is_dir():
        pytest.skip(f"needs the real teacher in {folder}")
    return folder


@pytest.fixture
def sst2_arguments(tmp_path, teacher, tokenizer, reviews):
    """Arguments of the SST-2 recipe for a tiny teacher and 48 rows, and two steps of training."""
    teacher.save_pretrained(tmp_path / "teacher")
    tokenizer.save_pretrained(tmp_path / "teacher")
    reviews.to_parquet(tmp_path / "train.parquet")
    validation = Dataset.from_dict(
        {"sentence": [f"the {text} film" for text in reviews["sentence"]], "label": reviews["label"]},
        features=reviews.features,
    )
    validation.to_parquet(tmp_path / "validation.parquet")
    return [
        *("--teacher_model_name_or_path", str(tmp_path / "teacher")),
        *("--train_file", str(tmp_path / "train.parquet")),
        *("--validation_file", str(tmp_path / "validation.parquet")),
        *("--output_dir", str(tmp_path / "out")),
        *("--student_layers", "2", "4"),
        *("--copies", "2", "--max_steps", "2", "--per_device_train_batch_size", "8", "--warmup_steps", "0"),
        *("--latency_texts", "4", "--max_accuracy_drop", "0.9", "--disable_tqdm", "True"),
    ]


@pytest.fixture
def train(make_trainer):
    """A function that trains with what the test's file calls `make_trainer`, and returns the trainer."""

    def run(*models_and_data, **given):
        trainer = make_trainer(*models_and_data, **given)
        trainer.train()
        return trainer

    return run


@pytest.fixture
def label(tokenizer, tmp_path):
    """A function that adds a teacher's logits to a data set."""

    def run(teacher, dataset, teacher_tokenizer=None, **given):
        folder = tmp_path / "labels"
        return TeacherLabeler(teacher, teacher_tokenizer or tokenizer, dtype="float32", cache_dir=folder, **given).map(
            dataset
        )

    return run
