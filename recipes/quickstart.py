"""Distil a classifier end to end in under three minutes on two cores, with no network and no download.

    python recipes/quickstart.py [--output_dir DIR] [--any_argument ...] [config.yaml]

The corpus is generated (see `review_language.py`). A small BERT learns it from 14,000 labelled reviews: the good, slow
teacher that a user already has. The user's own labelled set is smaller, 1,500 reviews; a narrower student learns from
rewritten copies of them, labelled by the teacher, and goes to int8 ONNX. The control is the same student on the 1,500
gold labels alone.
"""

from review_language import LABEL_NAMES, analyze, make_reviews
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast, set_seed

from distil_trainer import (
    RECIPE_ARGUMENTS,
    DataArguments,
    ModelArguments,
    distil,
    gold_label_arguments,
    open_run,
    parse_arguments,
    train_once,
    without_leaks,
)

DEFAULTS = {
    "output_dir": "outputs/quickstart",
    "copies": 8,
    "mask_probability": 0.1,
    "replace_probability": 0.2,
    "logit_loss": "mse",
    "learning_rate": 2e-3,
    "per_device_train_batch_size": 64,
    "per_device_eval_batch_size": 256,
    "max_steps": 1200,
    "warmup_steps": 100,
    "weight_decay": 0.01,
    "save_steps": 500,
    "save_total_limit": 2,
    "logging_steps": 250,
    "max_length": 48,
    "seed": 13,
}
TEACHER_STEPS = 1200


def main(argv=None):
    """Run the quickstart; return its report."""
    arguments = parse_arguments(RECIPE_ARGUMENTS, argv, DEFAULTS)
    training, data, _, transfer, _, _ = arguments
    refuse_what_is_fixed(arguments)
    splits = {
        "train": make_reviews(data.max_train_samples or 1500, seed=1),
        "validation": make_reviews(data.max_validation_samples or 2000, seed=2),
    }
    near_threshold = transfer.near_duplicate_threshold
    teacher_corpus, _ = without_leaks(make_reviews(14_000, seed=3), [splits["validation"]], training, near_threshold)
    tokenizer = train_tokenizer(teacher_corpus["sentence"])

    run = open_run(arguments)
    set_seed(training.seed)
    teacher_arguments = gold_label_arguments(training, max_steps=min(TEACHER_STEPS, training.max_steps))
    teacher, _ = train_once(
        run, "teacher", bert(tokenizer, width=96), tokenizer, teacher_corpus, splits["validation"], teacher_arguments
    )
    set_seed(training.seed)
    student = bert(tokenizer, width=64)
    report, table = distil(
        run,
        arguments,
        recipe="quickstart.py",
        argv=argv,
        splits=splits,
        teacher=(teacher, tokenizer),
        student=(student, tokenizer),
        student_facts={"base": "a BERT of 2 layers, 64 wide, with random weights"},
        teacher_name="a BERT of 2 layers, 96 wide",
        analyzer=analyze,
    )
    if training.process_index == 0:
        print(table)
    return report


def refuse_what_is_fixed(arguments):
    """Refuse arguments that other recipes read: the quickstart makes its own data, teacher and student."""
    _, data, models, augmentation, _, _ = arguments
    given = {**vars(data), **vars(models), "analyzer": augmentation.analyzer}
    fixed = {**vars(DataArguments()), **vars(ModelArguments()), "analyzer": None}
    changed = [name for name in given if given[name] != fixed[name] and not name.endswith("_samples")]
    if changed:
        raise ValueError(
            f"The quickstart makes its own data, teacher, student and analyzer, and would ignore {changed}: leave "
            "them out, or use another recipe."
        )


def train_tokenizer(texts):
    """Train a word-level tokenizer with BERT's special tokens."""
    backend = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special_tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    backend.train_from_iterator(texts, trainers.WordLevelTrainer(special_tokens=special_tokens, show_progress=False))
    backend.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=64,
        model_input_names=["input_ids", "attention_mask"],
    )


def bert(tokenizer, *, width):
    """Make a BERT classifier of two layers with random weights."""
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=2 * width,
        max_position_embeddings=64,
        id2label=dict(enumerate(LABEL_NAMES)),
        label2id={name: index for index, name in enumerate(LABEL_NAMES)},
    )
    return BertForSequenceClassification(config)


if __name__ == "__main__":
    main()
