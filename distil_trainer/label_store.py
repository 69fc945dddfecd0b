"""A folder of computed logits: a row for each text, append-only, safe against kill -9 and several writers."""

import io
import logging
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import xxhash

from distil_trainer.shared_folder import SharedFolder

logger = logging.getLogger(__name__)

KEY_DTYPE = np.dtype("S16")
_KEYS_PER_STEP = 1_000_000


def text_keys(texts, text_pairs=None):
    """Hash texts (or pairs of texts) to 128 bits, so that one text is one key in any data set and any row order.

    Args:
        texts (`list[str]` of length `n`): texts.
        text_pairs (`list[str]` of length `n`, *optional*): second sentences.

    Returns:
        `np.ndarray` of shape `(n,)`, 16-byte strings.
    """
    digests = map(xxhash.xxh3_128_digest, map(str.encode, texts))
    if text_pairs is not None:
        pair_digests = map(xxhash.xxh3_128_digest, map(str.encode, text_pairs))
        digests = (xxhash.xxh3_128_digest(first + second) for first, second in zip(digests, pair_digests, strict=True))
    return np.frombuffer(b"".join(digests), dtype=KEY_DTYPE)


class LogitStore:
    """Logits by text key, in shards: `.npy` files of (key, logits) rows, each named by the hash of its content.

    A shard appears when it is whole; two processes that write the same shard write the same name; a shard whose
    content does not match its name is set aside as `*.corrupt`.

    Args:
        folder (`str` or `Path`): a path or an fsspec URL; created when absent. It belongs to one teacher, tokenizer
            and maximum length.
        num_labels (`int`): length of a row of logits.
        copies (`str` or `Path`, *optional*): a folder on this machine's disk, needed where `folder` is not on one:
            shards are read from the disk, so each is copied there, once.

    Raises:
        OSError: if a folder cannot be created.
    """

    def __init__(self, folder, num_labels, copies=None):
        self.folder = SharedFolder(folder)
        self.folder.make()
        self._disk = Path(str(self.folder) if self.folder.is_local else copies)
        self._disk.mkdir(parents=True, exist_ok=True)
        self.dtype = np.dtype([("key", KEY_DTYPE), ("logits", "<f4", (num_labels,))])
        self._opened = {}

    def write(self, keys, logits):
        """Add one shard.

        Args:
            keys (`np.ndarray` of shape `(n,)`): from `text_keys`.
            logits (`np.ndarray` of shape `(n, num_labels)`): one row for each key.

        Raises:
            OSError: if it cannot be written.
        """
        rows = np.empty(len(keys), dtype=self.dtype)
        rows["key"], rows["logits"] = keys, logits
        # Not straight to the file: on a full disk numpy 2.4 may lose a file's end and raise nothing.
        content = io.BytesIO()
        np.save(content, rows, allow_pickle=False)
        shard = self._disk / f"{xxhash.xxh3_128_hexdigest(content.getbuffer())}.npy"
        temporary = self._disk / f"{os.getpid()}-{os.urandom(4).hex()}.tmp"
        try:
            with SharedFolder(self._disk).clear_errors("written"):  # with a URL, it may be the disk that is full
                temporary.write_bytes(content.getbuffer())
                os.replace(temporary, shard)
        finally:
            temporary.unlink(missing_ok=True)
        if not self.folder.is_local:
            self.folder.put(shard, shard.name)

    def read(self):
        """Open all shards that stand in the folder now.

        Returns:
            `StoredLogits`
        """
        self.new_keys()
        return StoredLogits([self._opened[name] for name in sorted(self._opened)], self.dtype)

    def new_keys(self):
        """Open the shards that have come since the last reading.

        Returns:
            `np.ndarray` of shape `(n,)`: the keys in them.
        """
        new = {name: self._open(name) for name in self.folder.names(".npy") if name not in self._opened}
        new = {name: shard for name, shard in new.items() if shard is not None}
        self._opened.update(new)
        return _concatenate_keys(new.values())

    def _open(self, name):
        path = self._disk / name
        try:
            if not self.folder.is_local and not (path.exists() and _content_hash(path) == path.stem):
                self.folder.get(name, path)
            if _content_hash(path) == path.stem:
                shard = _map_into_memory(path)
                if shard.dtype == self.dtype:
                    return shard
        except FileNotFoundError:  # another process set it aside first
            return None
        logger.warning("%s is damaged: set aside as *.corrupt, its texts are labelled again.", self.folder.file(name))
        self.folder.rename(name, path.with_suffix(".corrupt").name)
        return None


class StoredLogits:
    """The rows of some shards, found by key. Keeps 24 bytes a row in memory; the logits stay on disk, memory-mapped.

    Args:
        shards (`list[np.ndarray]`): arrays of (key, logits) rows.
        dtype (`np.dtype`): the type of such a row.
    """

    def __init__(self, shards, dtype):
        self._shards = shards
        self._starts = np.cumsum([0] + [len(shard) for shard in shards])
        self._num_labels = dtype["logits"].shape[0]
        keys = _concatenate_keys(shards)
        self._order = np.argsort(keys, kind="stable")
        self._sorted_keys = keys[self._order]

    def __len__(self):
        return len(self._sorted_keys)

    def find(self, keys):
        """Find where the logits of texts stand.

        Args:
            keys (`np.ndarray` of shape `(n,)`): from `text_keys`.

        Returns:
            `np.ndarray` of shape `(n,)`, int64: positions for `take`; -1 for a text that is not here.
        """
        positions = np.full(len(keys), -1, dtype=np.int64)
        for start in range(0, len(keys) if len(self) else 0, _KEYS_PER_STEP):
            part = slice(start, start + _KEYS_PER_STEP)
            places = np.minimum(np.searchsorted(self._sorted_keys, keys[part]), len(self) - 1)
            found = self._sorted_keys[places] == keys[part]
            positions[part][found] = self._order[places[found]]
        return positions

    def take(self, positions):
        """Read logits.

        Args:
            positions (`np.ndarray` of shape `(n,)`): from `find`, none of them -1.

        Returns:
            `np.ndarray` of shape `(n, num_labels)`, float32.
        """
        logits = np.empty((len(positions), self._num_labels), dtype=np.float32)
        shard_numbers = np.searchsorted(self._starts, positions, side="right") - 1
        by_shard = np.argsort(shard_numbers, kind="stable")
        numbers, first = np.unique(shard_numbers[by_shard], return_index=True)
        for number, rows in zip(numbers, np.split(by_shard, first[1:]), strict=False):
            logits[rows] = self._shards[number]["logits"][positions[rows] - self._starts[number]]
        return logits


def _map_into_memory(path):
    # `np.load(mmap_mode="r")` would keep a file descriptor for each shard, and most systems allow a process 1,024.
    # Arrow closes the file and keeps the mapping as long as the buffer lives.
    with open(path, "rb") as file:
        np.lib.format.read_magic(file)
        _, _, dtype = np.lib.format.read_array_header_1_0(file)
        offset = file.tell()
    with pa.memory_map(str(path)) as mapped:
        return np.frombuffer(mapped.read_buffer(), dtype=dtype, offset=offset)


def _concatenate_keys(shards):
    return np.concatenate([np.empty(0, dtype=KEY_DTYPE), *(shard["key"] for shard in shards)])


def _content_hash(path):
    digest = xxhash.xxh3_128()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
