"""Teacher logits as data set columns: each text computed once, by one process or many, whatever interrupts."""

import logging
import os
import time
from pathlib import Path

import datasets
import huggingface_hub
import numpy as np
import pyarrow as pa
import torch
import xxhash
from accelerate.utils import gather_object
from datasets import ClassLabel, Dataset, Features, Sequence, Value
from datasets.utils._dill import pklregister
from tqdm.auto import tqdm

from distil_trainer.columns import check_columns_differ
from distil_trainer.inference import predict_logits, torch_runner
from distil_trainer.input_checks import check_padding, check_pairs, padding_side
from distil_trainer.label_store import KEY_DTYPE, LogitStore, text_keys
from distil_trainer.labeled_dataset import describe_teacher
from distil_trainer.processes import check_shared, process_device, process_state
from distil_trainer.teacher_key import name_teacher, resolve_dtype, teacher_key
from distil_trainer.text import check_texts

logger = logging.getLogger(__name__)

_ROWS_PER_READ = 10_000
_SECONDS_BETWEEN_LOOKS = 1.0
_SECONDS_BETWEEN_WARNINGS = 600.0


class TeacherLabeler:
    """Add a teacher's logits to a data set, as columns `teacher_logits` and `teacher_label`.

    `labeler.map(dataset)` is durable: logits lie in a store that any later run, data set or row order reads first.
    The labeler is also a plain callable for `dataset.map(labeler, batched=True, features=labeler.features(dataset))`,
    without store and without work sharing.

    `teacher_logits` is a float32 list of fixed length, in the teacher's label order. `teacher_label` is their argmax,
    a `ClassLabel` with the teacher's label names, so that names and order travel with the data set. Columns of these
    names that are there already are replaced.

    Args:
        teacher (`PreTrainedModel`): a trained sequence classifier, of any architecture; moved to this process's device
            (accelerate's choice) and put into evaluation mode when it first runs.
        tokenizer (`PreTrainedTokenizerFast`): the teacher's tokenizer.
        text_column (`str`, *optional*, defaults to `"sentence"`): column of texts.
        text_pair_column (`str`, *optional*): column of second sentences.
        max_length (`int`, *optional*, defaults to 128): tokens kept, special tokens included; never more than
            `tokenizer.model_max_length`.
        tokens_per_batch (`int`, *optional*): tokens in a batch, padding counted. Default: 2048 on a CPU (measured best
            there), 32768 on an accelerator (not measured).
        dtype (`str` or `torch.dtype`, *optional*, defaults to `"auto"`): `"float32"`, or `"bfloat16"` or `"float16"`
            for autocast. `"auto"` is the teacher's own type when that is not float32, else bfloat16 where the device
            multiplies it natively, else float32. On SST-2 validation and a CPU with AVX-512 BF16, bfloat16 was 3 times
            as fast, moved a logit by at most 0.032 (mean size of a logit 2.2), and changed no prediction. On machines
            of different kinds say which: `"auto"` may differ between them, and their work then does not fit together.
        cache_dir (`str` or `Path`, *optional*): holds the stores, one folder for each key; a path, or a URL that
            fsspec knows, such as `s3://bucket/logits`. Default: `distil_trainer/teacher_logits` under the Hugging Face
            home, outside the `datasets` cache; shards of a URL are copied there to be read. Under a launcher with
            several machines it must be a folder that all of them share.
        rows_per_shard (`int`, *optional*, defaults to 4096): texts sorted by length together and written together;
            an interruption loses at most this many for each process. On an object store, or for more than 100 million
            texts, rather 65536: each shard is a file to be listed and mapped.
        teacher_name (`str`, *optional*): how cards name the teacher. Default: its Hub id, or the name of its folder.

    Raises:
        ValueError: if an argument is out of range, the teacher's type contradicts `dtype`, or the teacher would read
            padding as text.
        TypeError: if the tokenizer is not a fast one.

    Example:

    ```python
    >>> labeler = TeacherLabeler(teacher, tokenizer)
    >>> transfer = labeler.map(transfer)
    >>> transfer.column_names
    ['sentence', 'label', 'teacher_logits', 'teacher_label']
    ```
    """

    def __init__(
        self,
        teacher,
        tokenizer,
        text_column="sentence",
        text_pair_column=None,
        max_length=128,
        tokens_per_batch=None,
        dtype="auto",
        cache_dir=None,
        rows_per_shard=4096,
        teacher_name=None,
    ):
        if not tokenizer.is_fast:
            raise TypeError(
                f"tokenizer={type(tokenizer).__name__} is a slow one. The store of logits is keyed by the content of "
                "tokenizer.json, which only fast tokenizers have: load it with `AutoTokenizer.from_pretrained`."
            )
        check_padding(teacher.config, tokenizer)
        check_pairs(teacher.config, tokenizer, text_pair_column)
        check_columns_differ(text_column=text_column, text_pair_column=text_pair_column)
        for name, value in (
            ("max_length", max_length),
            ("tokens_per_batch", 1 if tokens_per_batch is None else tokens_per_batch),
            ("rows_per_shard", rows_per_shard),
        ):
            if value < 1:
                raise ValueError(f"{name}={value} must be at least 1.")
        self.device = process_device()  # joining a group is for `map`: others may have RANK and WORLD_SIZE only
        self.teacher = teacher
        self.tokenizer = tokenizer
        self.text_column = text_column
        self.text_pair_column = text_pair_column
        self.max_length = min(max_length, tokenizer.model_max_length)
        self.tokens_per_batch = tokens_per_batch or (2048 if self.device.type == "cpu" else 32_768)
        self.dtype = resolve_dtype(dtype, teacher.dtype, self.device)
        self.cache_dir = cache_dir
        self.rows_per_shard = rows_per_shard
        self._process_id = os.getpid()
        self.label_names = [teacher.config.id2label[index] for index in range(teacher.config.num_labels)]
        self.teacher_name = teacher_name or name_teacher(teacher.config)

    @property
    def fingerprint(self):
        """What the logits depend on besides the text, hashed (`str`): weights, configuration, tokenizer, length, type.

        Computed anew at each call (0.03 s for 100 MB), because a teacher may be trained between two of them.
        """
        return teacher_key(
            self.teacher,
            self.tokenizer,
            max_length=self.max_length,
            dtype=self.dtype,
            pairs=self.text_pair_column is not None,
        )

    def features(self, dataset):
        """Return the features of a data set with the two columns added.

        Args:
            dataset (`Dataset`): the data set to be labelled.

        Returns:
            `Features`
        """
        features = Features(dataset.features)
        features["teacher_logits"] = Sequence(Value("float32"), length=len(self.label_names))
        features["teacher_label"] = ClassLabel(names=self.label_names)
        return features

    def __call__(self, batch):
        """Label one batch of `Dataset.map(..., batched=True)`, or of Ray Data's `map_batches`.

        In another process than the one that made the labeler, as with `num_proc`, the teacher computes on one thread.

        Args:
            batch (`dict[str, list]` or `dict[str, np.ndarray]`): columns of the data set.

        Returns:
            `dict[str, np.ndarray]`: `teacher_logits` of shape `(batch_size, num_labels)`, float32, and
            `teacher_label` of shape `(batch_size,)`, int64.

        Raises:
            ValueError: if a column is missing, a text is empty, or a logit is NaN or infinite. Row numbers count from
                the start of the batch.
            TypeError: if a text is not a string.
        """
        table = {name: pa.array(_given_column(batch, name)) for name in self._columns(list(batch))}
        logits = self._logits(*self._texts(table, first_row=0), rows=range(len(batch[self.text_column])))
        return {"teacher_logits": logits, "teacher_label": logits.argmax(axis=1)}

    def map(self, dataset):
        """Label a data set, computing only texts that the store does not have.

        Under `torchrun` or `accelerate launch` call it on every process with the same data set: each computes its
        share of the missing texts, all wait, and all return the whole data set. If processes are killed, start again,
        with as many as you like: what was computed is found. About 80 bytes of memory for each row at the peak (1.6 GB
        for 20 million rows) in each process; label more rows than that shard by shard, with `map_shards`.

        Args:
            dataset (`Dataset`): rows in any order; columns are kept as they are.

        Returns:
            `Dataset`: the same rows with the two columns, memory-mapped from the `datasets` cache.

        Raises:
            TypeError: if `dataset` is not a `Dataset`, or a text is not a string.
            ValueError: if a column is missing, a text is empty, or a logit is NaN or infinite (with its row number).
            OSError: if `cache_dir` cannot be written, or the processes do not all see one `cache_dir`.
        """
        if not isinstance(dataset, Dataset):
            raise TypeError(
                f"dataset is a {type(dataset).__name__}; TeacherLabeler.map needs a datasets.Dataset. Label each "
                "split of a DatasetDict by itself; a streamed data set takes `dataset.map(labeler, batched=True)`."
            )
        if not len(dataset):
            raise ValueError("dataset has no rows: there is nothing to label.")
        columns = self._columns(dataset.column_names)
        texts = dataset.select_columns(columns).with_format("arrow")
        keys = np.empty(len(dataset), dtype=KEY_DTYPE)
        for start, batch in _batches(texts):
            keys[start : start + len(batch)] = text_keys(*self._texts(batch, start))

        fingerprint = self.fingerprint
        store = LogitStore(self._cache_folder(fingerprint), len(self.label_names), copies=_disk_folder(fingerprint))
        self._compute_missing(texts, keys, store)
        return self._with_logits(dataset, keys, store, fingerprint)

    def _compute_missing(self, texts, keys, store):
        state = process_state()
        distinct, first_rows = np.unique(keys, return_index=True)
        absent = store.read().find(distinct) < 0
        # The key says who computes a text, so the shares fit together even if another run adds to the store meanwhile.
        owners = distinct.view(np.uint64)[::2] % state.num_processes
        rows = np.sort(first_rows[absent & (owners == state.process_index)])
        others = distinct[absent & (owners != state.process_index)]
        if state.is_main_process:
            logger.info(
                "Teacher logits: %d rows, %d distinct texts, %d found in %s, %d to compute on %d process(es).",
                len(keys),
                len(distinct),
                len(distinct) - absent.sum(),
                store.folder,
                absent.sum(),
                state.num_processes,
            )
        if any(gather_object([bool(absent.any())])):
            check_shared(store.folder, "cache_dir")
        with tqdm(
            total=len(rows), desc="Teacher logits", unit=" texts", disable=not len(rows) or not state.is_main_process
        ) as bar:
            for start in range(0, len(rows), self.rows_per_shard):
                shard = rows[start : start + self.rows_per_shard]
                shard_texts = self._texts(texts[shard.tolist()], first_row=None)
                store.write(keys[shard], self._logits(*shard_texts, rows=shard, bar=bar))
        _wait_for(others, store)

    def _with_logits(self, dataset, keys, store, fingerprint):
        stored = store.read()
        positions = stored.find(keys)
        missing = int((positions < 0).sum())
        if missing:
            raise OSError(
                f"cache_dir={str(self._cache_root())!r} lacks the logits of {missing} of {len(keys)} rows after they "
                "were written there: something else deletes or damages its files. Give a cache_dir of its own, and "
                "start again."
            )
        # Rows and their order are in the texts' hashes; the data set's own fingerprint stands for the other columns.
        content = f"{dataset._fingerprint} {xxhash.xxh3_128_hexdigest(keys)} {fingerprint}"

        features = self.features(dataset)
        replaced = [name for name in ("teacher_logits", "teacher_label") if name in dataset.column_names]

        def add_columns(table, rows):
            logits = stored.take(positions[rows])
            values = pa.FixedSizeListArray.from_arrays(pa.array(logits.reshape(-1)), logits.shape[1])
            table = table.drop_columns(replaced)
            return table.append_column("teacher_logits", values).append_column(
                "teacher_label", pa.array(logits.argmax(axis=1))
            )

        new_fingerprint = xxhash.xxh3_64_hexdigest(content.encode())
        cache_file_name = None
        if not dataset.cache_files:  # `datasets` would keep the result of an in-memory data set in memory
            folder = Path(datasets.config.HF_DATASETS_CACHE) / "distil_trainer"
            folder.mkdir(parents=True, exist_ok=True)
            cache_file_name = str(folder / f"cache-{new_fingerprint}.arrow")
        with process_state().local_main_process_first():
            labelled = dataset.with_format("arrow").map(
                add_columns,
                with_indices=True,
                batched=True,
                batch_size=_ROWS_PER_READ,
                features=Features({name: features[name] for name in _order(dataset.column_names, replaced)}),
                new_fingerprint=new_fingerprint,
                cache_file_name=cache_file_name,
                desc="Adding teacher logits",
            )
        labelled = labelled.with_format(dataset.format["type"], **dataset.format["format_kwargs"])
        describe_teacher(labelled, self._card_facts(fingerprint))
        return labelled

    def _card_facts(self, fingerprint):
        return {
            "teacher": self.teacher_name,
            "fingerprint": f"`{fingerprint}` (weights, configuration, tokenizer, length and type, hashed)",
            "labels, in the order of the logits": ", ".join(self.label_names),
            "texts read from": " and ".join(f"`{name}`" for name in self._columns_read()),
            "most tokens of a text": str(self.max_length),
            "computed in": str(self.dtype).removeprefix("torch."),
        }

    def _columns_read(self):
        return [name for name in (self.text_column, self.text_pair_column) if name is not None]

    def _columns(self, given):
        columns = self._columns_read()
        for column in columns:
            if column not in given:
                argument = "text_column" if column == self.text_column else "text_pair_column"
                raise ValueError(f"{argument}={column!r} is not in the data set. Its columns are {given}.")
        return columns

    def _texts(self, table, first_row):
        """Return the text columns as lists; check them unless `first_row` is None."""
        lists = []
        for name in self._columns_read():
            if first_row is not None:
                check_texts(table[name], source="dataset", column=name, first_row=first_row)
            lists.append(table[name].to_pylist())
        return lists if len(lists) == 2 else (lists[0], None)

    def _logits(self, texts, text_pairs, rows, bar=None):
        if self._process_id != os.getpid() and self.device.type == "cpu":
            # A forked process that uses more threads waits for ever for those that its parent had:
            # https://github.com/pytorch/pytorch/issues/17199
            torch.set_num_threads(1)
        self.teacher.to(self.device)
        runner = torch_runner(self.teacher, None if self.dtype == self.teacher.dtype else self.dtype)

        def counting_runner(inputs):
            logits = runner(inputs)
            if bar is not None:
                bar.update(len(logits))
            return logits

        logits = predict_logits(
            counting_runner,
            self.tokenizer,
            texts,
            text_pairs,
            max_length=self.max_length,
            tokens_per_batch=self.tokens_per_batch,
            padding_side=padding_side(self.teacher.config),
        )
        broken = np.flatnonzero(~np.isfinite(logits).all(axis=1))
        if len(broken):
            first = broken[0]
            raise ValueError(
                f"The teacher {self.teacher_name} gave logits {logits[first].tolist()} for row {rows[first]} "
                f"({texts[first][:60]!r}), with dtype={self.dtype}. A student trained on them would "
                "have NaN weights after one step. Check the teacher's weights; if it is float16 that overflows, load "
                "it with dtype=torch.float32."
            )
        return logits

    def _cache_root(self):
        return _disk_folder() if self.cache_dir is None else self.cache_dir

    def _cache_folder(self, fingerprint):
        return f"{str(self._cache_root()).rstrip('/')}/{fingerprint}"


@pklregister(TeacherLabeler)
def _hash_by_fingerprint(pickler, labeler):
    # `datasets` names cache files by pickling the mapped callable with this pickler, which would write out all
    # weights. Workers get the labeler through another pickler, whole.
    facts = f"{labeler.fingerprint} {labeler.text_column} {labeler.text_pair_column}"
    pickler.save_reduce(str, (facts,), obj=labeler)


def _wait_for(keys, store):
    """Wait until other processes have written the logits of these texts."""
    # Not at a barrier: that of gloo gives up after half an hour, and a process may take that much longer than another.
    next_warning = time.monotonic() + _SECONDS_BETWEEN_WARNINGS
    while len(keys):
        new_keys = store.new_keys()
        keys = keys[~np.isin(keys, new_keys)] if len(new_keys) else keys
        if not len(keys):
            return
        if time.monotonic() > next_warning:
            next_warning += _SECONDS_BETWEEN_WARNINGS
            logger.warning("Still waiting for the logits of %d texts that other processes compute.", len(keys))
        time.sleep(_SECONDS_BETWEEN_LOOKS)


def _disk_folder(name=""):
    return Path(huggingface_hub.constants.HF_HOME) / "distil_trainer" / "teacher_logits" / name


def _given_column(batch, name):
    for row, value in enumerate(batch[name]):
        if not isinstance(value, str):
            raise TypeError(
                f"Column {name!r} holds {value!r} in row {row} of the batch; a teacher reads strings only."
            )
    return batch[name]


def _batches(texts):
    start = 0
    for batch in texts.iter(batch_size=_ROWS_PER_READ):
        yield start, batch
        start += len(batch)


def _order(column_names, replaced):
    return [name for name in column_names if name not in replaced] + ["teacher_logits", "teacher_label"]
