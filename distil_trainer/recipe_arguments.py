"""The arguments that every recipe takes, and which of them make a run what it is."""

import dataclasses
import os
from dataclasses import dataclass, field

import xxhash

from distil_trainer.arguments import DistillationArguments
from distil_trainer.data import DataArguments
from distil_trainer.headline import HEADLINES
from distil_trainer.pruning_arguments import PruningArguments
from distil_trainer.transfer_arguments import TransferSetArguments

# What says how a student with fresh weights is made.
_OF_FRESH_STUDENTS = (
    "student_config", "student_tokenizer", "student_vocab_size", "student_lower", "word_vectors", "extra_words",
)  # fmt: skip


@dataclass
class ModelArguments:
    """The teacher and the student."""

    teacher_model_name_or_path: str | None = field(default=None, metadata={"help": "Teacher: Hub id or local folder."})
    teacher_revision: str | None = field(
        default=None, metadata={"help": "Commit, tag or branch of a teacher on the Hub."}
    )
    train_teacher: bool = field(default=False, metadata={"help": "Fine-tune the teacher on the training split first."})
    teacher_from_scratch: bool = field(
        default=False,
        metadata={
            "help": "Where no checkpoint can be had: make the teacher a small BERT with fresh weights and a tokenizer "
            "of its own, train it on masked words of all texts at hand, then fine-tune it."
        },
    )
    scratch_num_train_epochs: float = field(default=3.0, metadata={"help": "Its epochs on masked words."})
    scratch_max_steps: int | None = field(default=None, metadata={"help": "Steps of that, in place of epochs."})
    teacher_learning_rate: float = field(default=2e-5, metadata={"help": "Peak learning rate of that fine-tuning."})
    teacher_num_train_epochs: float = field(default=3.0, metadata={"help": "Epochs of that fine-tuning."})
    teacher_max_steps: int = field(default=-1, metadata={"help": "Steps of that fine-tuning, in place of epochs."})
    teacher_select_by: str | None = field(
        default=None,
        metadata={
            "help": "What of the validation split chooses the teacher's best epoch: accuracy, macro_f1, pearson or "
            "loss; by default the metric of the run."
        },
    )
    teacher_head: str = field(
        default="own",
        metadata={
            "help": "Head of a teacher to be fine-tuned: own, that of its class in transformers; or cnn, convolutions "
            "over all of its last hidden states."
        },
    )
    student_model_name_or_path: str | None = field(
        default=None,
        metadata={
            "help": "Student: Hub id or local folder. Not read where student_layers or student_type, which go before "
            "it, is given or is a default of the recipe; null for that in a YAML file makes way for it."
        },
    )
    student_head: str = field(
        default="own",
        metadata={"help": "Head of a student that is a checkpoint or layers of the teacher: own or cnn."},
    )
    student_layers: list[int] | None = field(
        default=None,
        metadata={"help": "Make the student of these teacher layers, counted from 1, in place of a checkpoint."},
    )
    student_type: str | None = field(
        default=None,
        metadata={
            "help": "Make the student a network with fresh weights, in place of a checkpoint: bilstm, densenet_cnn, "
            "densenet_dsa, embedding_bag, glove_cnn, or a type of transformers such as bert. Goes before "
            "student_model_name_or_path; student_layers goes before it."
        },
    )
    student_config: None | str | dict = field(
        default=None, metadata={"help": "Settings of that network that differ from its defaults: a YAML mapping."}
    )
    student_tokenizer: str = field(
        default="word",
        metadata={
            "help": "Its tokenizer: word, for whole words of the training texts; wordpiece, bpe or unigram, trained "
            "on them; or a SentencePiece file (.model)."
        },
    )
    student_vocab_size: int | None = field(
        default=None, metadata={"help": "Tokens of its tokenizer; by default all words, or 8,000 pieces."}
    )
    student_lower: bool = field(
        default=True, metadata={"help": "Its tokenizer lower-cases texts; a SentencePiece file decides that itself."}
    )
    word_vectors: str = field(
        default="teacher",
        metadata={
            "help": "Where its word vectors start: teacher, for vectors distilled from it; random; or a file of "
            "GloVe, fastText or word2vec."
        },
    )
    extra_words: int = field(
        default=0,
        metadata={
            "help": "Words that its vocabulary (of student_tokenizer word) takes from the teacher or the file beyond "
            "the training texts'."
        },
    )
    control_of: str | None = field(
        default=None,
        metadata={
            "help": "Output folder of another run whose control (gold labels alone) would be the same as this run's: "
            "it is taken from there, and not trained again. Anything that would make it another one is an error."
        },
    )
    trust_remote_code: bool = field(default=False, metadata={"help": "Run Python files that come with a model."})

    def __post_init__(self):
        if self.teacher_select_by not in (None, *HEADLINES, "loss"):
            raise ValueError(f"teacher_select_by={self.teacher_select_by!r}: choose {', '.join(HEADLINES)} or loss.")
        for name in ("teacher_head", "student_head"):
            if getattr(self, name) not in ("own", "cnn"):
                raise ValueError(f"{name}={getattr(self, name)!r}: choose own or cnn.")
        if self.teacher_head == "cnn" and not self.train_teacher:
            raise ValueError(
                "teacher_head='cnn' without train_teacher: the new head would be random, and its answers noise. Give "
                "--train_teacher too; a teacher that was saved with such a head is loaded with it as it is."
            )
        if self.teacher_from_scratch and not self.train_teacher:
            raise ValueError(
                "teacher_from_scratch without train_teacher: it would know masked words and no label, and its answers "
                "would be noise. Give --train_teacher too."
            )
        if self.teacher_from_scratch:
            self.teacher_model_name_or_path = None  # a recipe's default; nothing of it is used
        elif self.scratch_num_train_epochs != 3.0 or self.scratch_max_steps:
            raise ValueError(
                f"scratch_num_train_epochs={self.scratch_num_train_epochs}, "
                f"scratch_max_steps={self.scratch_max_steps} without --teacher_from_scratch: they would have no "
                "effect. Leave them out."
            )
        _check_at_least(self, extra_words=0)
        if self.has_fresh_student:
            _check_fresh_student_arguments(self)
        else:
            _refuse_fresh_student_arguments(self)

    @property
    def has_fresh_student(self):
        """Whether the student is a network with fresh weights (`bool`)."""
        return self.student_type is not None and not self.student_layers


@dataclass
class ShippingArguments:
    """What must hold of the exported student, how it is measured, and where it goes."""

    metric: str | None = field(
        default=None,
        metadata={
            "help": "Metric that table, plot and card are headed by, and that the teacher's best epoch and the int8 "
            "file are chosen by: accuracy or macro_f1 for labels, pearson for scores; by default accuracy, or pearson."
        },
    )
    max_accuracy_drop: float = field(
        default=0.005,
        metadata={"help": "What int8 may lose of that metric on the validation split; half a point is 0.005."},
    )
    target_latency_ms: float | None = field(
        default=None,
        metadata={"help": "Longest median time of one text, model alone, that an ONNX file may take on this machine."},
    )
    max_size_mb: float | None = field(
        default=None, metadata={"help": "Largest ONNX file that may be chosen, in millions of bytes."}
    )
    price_per_core_hour: float | None = field(
        default=None,
        metadata={"help": "Price of a core for an hour, for a column of what 100 million texts cost: 0.04, say."},
    )
    latency_threads: int = field(default=1, metadata={"help": "Threads of every model while its latency is measured."})
    latency_texts: int = field(default=200, metadata={"help": "Texts on which latency is measured."})
    language: str = field(default="en", metadata={"help": "Language of the texts, for the card."})
    license: str | None = field(default=None, metadata={"help": "Licence of the student, as a Hub identifier."})
    hub_card: str | None = field(
        default=None, metadata={"help": "Also write the card here, and its report beside it as <card>.report.json."}
    )
    hub_dataset_id: str | None = field(default=None, metadata={"help": "Also push the labelled transfer set here."})

    def __post_init__(self):
        _check_at_least(self, latency_threads=1, latency_texts=1)
        for name in ("target_latency_ms", "max_size_mb", "price_per_core_hour"):
            if getattr(self, name) is not None and not getattr(self, name) > 0:
                raise ValueError(f"{name}={getattr(self, name)} must be above 0; leave it out for none.")
        if self.metric not in (None, *HEADLINES):
            raise ValueError(f"metric={self.metric!r}: choose one of {', '.join(HEADLINES)}, or leave it out.")
        if not 0 <= self.max_accuracy_drop < 1:
            raise ValueError(
                f"max_accuracy_drop={self.max_accuracy_drop} must be at least 0 and below 1: half a percentage point "
                "is 0.005."
            )


RECIPE_ARGUMENTS = (
    DistillationArguments,
    DataArguments,
    ModelArguments,
    TransferSetArguments,
    PruningArguments,
    ShippingArguments,
)

# What says where and how a run works, but does not change its result.
_NOT_SETTINGS = {
    "output_dir", "logging_dir", "overwrite_output_dir", "run_name", "use_cpu", "push_to_hub", "hub_model_id",
    "hub_token", "hub_private_repo", "hub_strategy", "hub_always_push", "hub_revision", "hub_dataset_id", "hub_card",
    "license", "language", "augmentation_num_proc", "report_to", "disable_tqdm", "log_level", "log_level_replica",
    "logging_first_step", "dataloader_num_workers", "dataloader_pin_memory", "ddp_timeout", "ddp_backend",
    "local_rank", "per_device_eval_batch_size", "price_per_core_hour", "control_of",
}  # fmt: skip
# A name, or the path of a file.
_MAY_BE_FILES = {"word_vectors", "student_tokenizer"}
_BYTES_PER_READ = 1 << 24
# These decide which checkpoint is best, where the best one is kept.
_SETTINGS_OF_BEST_CHECKPOINT = {"save_steps", "save_total_limit", "logging_steps"}


def run_settings(arguments):
    """Return what decides a run's result: every argument that differs from its default, and each input file's hash.

    Args:
        arguments (`tuple`): instances of `RECIPE_ARGUMENTS`, in that order.

    Returns:
        `dict` of JSON values, for `RunFolder`.
    """
    settings = {}
    not_settings = _NOT_SETTINGS
    if not arguments[0].load_best_model_at_end:
        not_settings = _NOT_SETTINGS | _SETTINGS_OF_BEST_CHECKPOINT
    for instance in arguments:
        for each in dataclasses.fields(instance):
            value = getattr(instance, each.name)
            default = each.default if each.default_factory is dataclasses.MISSING else each.default_factory()
            if not each.init or each.name in not_settings or value == default or not _is_json(value):
                continue
            settings[each.name] = value
            if each.name == "unlabelled_files":
                settings[f"{each.name}_xxh64"] = [_file_hash(file) for file in value if os.path.isfile(file)]
            if (each.name.endswith("_file") or each.name in _MAY_BE_FILES) and os.path.isfile(value):
                settings[f"{each.name}_xxh64"] = _file_hash(value)
    return settings


def _check_fresh_student_arguments(models):
    name = models.student_tokenizer
    if models.student_head != "own":
        raise ValueError(
            f"student_head={models.student_head!r} with student_type={models.student_type!r}: that network has a head "
            "of its own, and this one would be left out in silence. Leave it out, or give --student_layers; for a "
            "checkpoint in a recipe that has a student_type, put `student_type: null` in a YAML file."
        )
    if name.endswith(".model") and (models.student_vocab_size is not None or not models.student_lower):
        raise ValueError(
            f"student_tokenizer={name!r} with student_vocab_size={models.student_vocab_size} and "
            f"student_lower={models.student_lower}: a SentencePiece file has its size, and lower-cases or not, since "
            "it was trained, so both would be ignored. Leave them out."
        )
    if models.extra_words and (name != "word" or models.word_vectors == "random"):
        raise ValueError(
            f"extra_words={models.extra_words} with student_tokenizer={name!r} and "
            f"word_vectors={models.word_vectors!r}: only a vocabulary of whole words takes more of them, and only "
            "with vectors from the teacher or a file, so none would be added. Leave it out."
        )


def _refuse_fresh_student_arguments(models):
    defaults = {each.name: each.default for each in dataclasses.fields(models)}
    names = [name for name in _OF_FRESH_STUDENTS if getattr(models, name) != defaults[name]]
    if names:
        given = ", ".join(f"{name}={getattr(models, name)!r}" for name in names)
        why = f"with student_layers={models.student_layers}" if models.student_layers else "without student_type"
        raise ValueError(
            f"{given} {why}: this describes a network with fresh weights, and there is none, so it would be ignored. "
            "Give --student_type, and no --student_layers; or leave it out."
        )


def _file_hash(path):
    digest = xxhash.xxh64()
    with open(path, "rb") as file:  # in parts: files of word vectors have gigabytes
        while part := file.read(_BYTES_PER_READ):
            digest.update(part)
    return digest.hexdigest()


def _check_at_least(arguments, **smallest):
    for name, least in smallest.items():
        if getattr(arguments, name) < least:
            raise ValueError(f"{name}={getattr(arguments, name)} must be at least {least}.")


def _is_json(value):
    return value is None or isinstance(value, str | int | float | list | dict)
