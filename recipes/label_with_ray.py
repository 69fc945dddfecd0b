"""Augment and label parquet files with a teacher, on a Ray cluster or on this machine.

    python recipes/label_with_ray.py --input texts --output labelled --teacher_model_name_or_path me/teacher
    python recipes/label_with_ray.py ... --num_workers 64 --gpus_per_worker 1 --address auto

Ray Data reads the files in blocks, hands them to workers that each loaded the teacher once, and writes the rows with
the columns `teacher_logits` and `teacher_label`; the order of rows is lost. What a worker that dies had in hand,
another computes. When the program itself dies, delete the output and start again: a run that must go on where it was
cut off is what `map_shards` is for. `label_with_ray.json` is written last.

With `--copies` the texts are augmented first. Random draws depend on the number of a row, which Ray does not know, so
the files need a column of row numbers (`--index_column`); the rows are then those of `Dataset.map`.
"""

import json
import math
import time
from dataclasses import asdict, dataclass, field

import fsspec
import pyarrow as pa
import pyarrow.dataset
from datasets import Dataset, Features

from distil_trainer import RuleAugmenter, TeacherLabeler, load_classifier, parse_arguments

try:
    import ray
except ImportError as error:
    raise ImportError(
        'label_with_ray.py needs Ray, which is not installed: pip install "distil_trainer[ray]". Without it, '
        "`map_shards` labels shards in any number of processes."
    ) from error

LABEL_COLUMNS = ("teacher_logits", "teacher_label")


@dataclass
class RayArguments:
    """What to label, with which teacher, on how many workers."""

    input: list[str] = field(metadata={"help": "Parquet files, or one folder of them; paths or URLs."})
    output: str = field(metadata={"help": "New folder or URL for the labelled parquet files."})
    teacher_model_name_or_path: str = field(metadata={"help": "Hub id or folder of the teacher."})
    text_column: str = field(default="sentence", metadata={"help": "Column of texts."})
    text_pair_column: str | None = field(default=None, metadata={"help": "Column of second sentences."})
    max_length: int = field(default=128, metadata={"help": "Tokens the teacher reads of a text."})
    dtype: str = field(default="auto", metadata={"help": "auto, float32, bfloat16 or float16."})
    rows_per_block: int = field(default=65536, metadata={"help": "Rows that a worker takes: what its death costs."})
    batch_size: int = field(default=4096, metadata={"help": "Rows that a worker sorts by length at a time."})
    num_workers: int = field(default=2, metadata={"help": "Processes that each load the teacher."})
    cpus_per_worker: float = field(default=1.0, metadata={"help": "CPU cores for each of them."})
    gpus_per_worker: float = field(default=0.0, metadata={"help": "GPUs for each of them."})
    address: str | None = field(default=None, metadata={"help": "A Ray cluster; default: start one on this machine."})
    copies: int = field(default=0, metadata={"help": "Augmented copies of each text; 0 for none."})
    index_column: str = field(default="row", metadata={"help": "Column of row numbers, needed with copies."})
    analyzer: str | None = field(default=None, metadata={"help": "spaCy pipeline for same-tag replacement."})
    corpus_rows: int = field(default=1_000_000, metadata={"help": "First rows, whose words replace others."})
    seed: int = field(default=13, metadata={"help": "Seed of augmentation."})

    def __post_init__(self):
        for name in ("num_workers", "rows_per_block", "batch_size", "corpus_rows"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1.")

    def text_columns(self):
        return {"text_column": self.text_column, "text_pair_column": self.text_pair_column}


class Labeler:
    """What a worker runs: the teacher, loaded once, and the batches that come."""

    def __init__(self, arguments, input_features):
        teacher, tokenizer = load_classifier(arguments.teacher_model_name_or_path)
        self.labeler = TeacherLabeler(
            teacher, tokenizer, max_length=arguments.max_length, dtype=arguments.dtype, **arguments.text_columns()
        )
        # Ray loses the label names of the input; columns that are there already are replaced.
        self.input_features = {name: input_features[name] for name in input_features if name not in LABEL_COLUMNS}
        self.texts = [column for column in arguments.text_columns().values() if column is not None]

    def __call__(self, batch):
        """Add the two columns to an Arrow table, with the types and label names that `TeacherLabeler.map` gives."""
        labels = self.labeler({name: batch[name].to_pylist() for name in self.texts})
        logits = labels["teacher_logits"]
        batch = batch.drop_columns([name for name in LABEL_COLUMNS if name in batch.column_names])
        features = self.labeler.features(Dataset(batch))
        features = Features({name: self.input_features.get(name, feature) for name, feature in features.items()})
        batch = batch.append_column(
            "teacher_logits", pa.FixedSizeListArray.from_arrays(logits.ravel(), logits.shape[1])
        )
        batch = batch.append_column("teacher_label", pa.array(labels["teacher_label"]))
        return batch.cast(features.arrow_schema)


def augment(batch, augmenter, index_column):
    """Rewrite the texts of an Arrow table."""
    return pa.table(augmenter(batch.to_pydict(), batch[index_column].to_pylist()))


def main(argv=None):
    """Run the recipe; return its facts."""
    (arguments,) = parse_arguments(RayArguments, argv)
    paths = arguments.input[0] if len(arguments.input) == 1 else arguments.input
    try:
        source = pyarrow.dataset.dataset(paths, format="parquet")
    except (OSError, pa.ArrowInvalid) as error:
        raise ValueError(
            f"--input {' '.join(arguments.input)} could not be read as parquet: {error}. Give parquet files, or one "
            "folder of them."
        ) from error
    files, folder = fsspec.url_to_fs(arguments.output)
    refuse_bad_input(arguments, source, files, folder)
    num_rows, input_features = source.count_rows(), Features.from_arrow_schema(source.schema)
    augmenter = make_augmenter(arguments, source) if arguments.copies else None

    if arguments.address is None:  # a core for each worker, and one to read and write
        cores = math.ceil(arguments.num_workers * arguments.cpus_per_worker) + 1
        ray.init(address="local", num_cpus=cores, include_dashboard=False)
    else:
        ray.init(address=arguments.address)
    start = time.perf_counter()
    # Ray reads small files into one block, and a block is what one worker works on.
    rows = ray.data.read_parquet(paths).repartition(target_num_rows_per_block=arguments.rows_per_block)
    if augmenter is not None:
        rows = rows.map_batches(
            augment,
            batch_size=max(1, arguments.batch_size // (arguments.copies + 1)),
            batch_format="pyarrow",
            fn_kwargs={"augmenter": augmenter, "index_column": arguments.index_column},
        )
    rows = rows.map_batches(
        Labeler,
        fn_constructor_args=[arguments, input_features],
        batch_size=arguments.batch_size,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=arguments.num_workers),
        num_cpus=arguments.cpus_per_worker,
        num_gpus=arguments.gpus_per_worker,
    )
    try:
        rows.write_parquet(arguments.output)
    finally:
        ray.shutdown()
    seconds = time.perf_counter() - start
    written = count_labelled(arguments, num_rows, files, folder)
    facts = {"rows": written, "seconds": round(seconds, 1), "arguments": asdict(arguments)}
    with files.open(f"{folder}/label_with_ray.json", "w") as file:
        json.dump(facts, file, indent=2)
    return facts


def refuse_bad_input(arguments, source, files, folder):
    """Refuse before Ray starts what would fail, or go wrong, in its workers."""
    columns = source.schema.names
    needed = {"text_column": arguments.text_column}
    if arguments.text_pair_column is not None:
        needed["text_pair_column"] = arguments.text_pair_column
    if arguments.copies:
        needed["index_column"] = arguments.index_column
    for name, column in needed.items():
        if column not in columns:
            reason = ""
            if name == "index_column":
                reason = (
                    " Random draws depend on row numbers, and Ray numbers no rows: add them once, with "
                    f"dataset.add_column({column!r}, range(len(dataset))).to_parquet(...), or set --copies 0."
                )
            raise ValueError(f"--{name} {column} is not in --input, which has the columns {columns}.{reason}")
    if files.exists(folder) and files.ls(folder):
        raise ValueError(
            f"--output {arguments.output} is not empty: rows of two runs would be mixed. Give a new folder, or delete "
            "what a run left that was cut off."
        )


def count_labelled(arguments, num_rows, files, folder):
    """Count the rows written; refuse a result that lacks rows of the input or has some twice."""
    labelled = pyarrow.dataset.dataset(folder, format="parquet", filesystem=files)
    # The copies of a text vary in number, but each row of the input is once in the result as it was.
    is_input = pyarrow.dataset.field("operators") == "original" if arguments.copies else None
    found = labelled.count_rows(filter=is_input)
    if found != num_rows:
        what = "rows of texts as they were" if arguments.copies else "rows"
        raise OSError(
            f"--output {arguments.output} has {found} {what}, --input {num_rows} rows: rows are missing or double. "
            "Delete the output and start again."
        )
    return labelled.count_rows()


def make_augmenter(arguments, source):
    corpus = source.head(arguments.corpus_rows, columns=[arguments.text_column])[arguments.text_column].to_pylist()
    return RuleAugmenter.from_corpus(
        corpus,
        analyzer=arguments.analyzer,
        copies=arguments.copies,
        replace_probability=0.1 if arguments.analyzer else 0.0,
        seed=arguments.seed,
        **arguments.text_columns(),
    )


if __name__ == "__main__":
    main()
