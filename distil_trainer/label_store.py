"""A folder of computed logits: a row for each text, append-only, safe against kill -9 and several writers."""

import contextlib
import logging
import os
from pathlib import Path

import numpy as np
import xxhash

logger = logging.getLogger(__name__)

KEY_DTYPE = np.dtype("S16")


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

    A shard is written under a temporary name and then renamed, so it is whole or absent; two processes that write the
    same shard write the same name; a shard whose content does not match its name is set aside as `*.corrupt`.

    Args:
        folder (`str` or `Path`): created when absent. It belongs to one teacher, tokenizer and maximum length.
        num_labels (`int`): length of a row of logits.
    """

    def __init__(self, folder, num_labels):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.dtype = np.dtype([("key", KEY_DTYPE), ("logits", "<f4", (num_labels,))])

    def write(self, keys, logits):
        """Add one shard.

        Args:
            keys (`np.ndarray` of shape `(n,)`): from `text_keys`.
            logits (`np.ndarray` of shape `(n, num_labels)`): one row for each key.
        """
        rows = np.empty(len(keys), dtype=self.dtype)
        rows["key"], rows["logits"] = keys, logits
        temporary = self.folder / f"{os.getpid()}-{os.urandom(4).hex()}.tmp"
        try:
            with open(temporary, "wb") as file:
                np.save(file, rows, allow_pickle=False)
            os.replace(temporary, self.folder / f"{_content_hash(temporary)}.npy")
        finally:
            temporary.unlink(missing_ok=True)

    def read(self):
        """Open all shards that stand in the folder now.

        Returns:
            `StoredLogits`
        """
        shards = (self._open(path) for path in sorted(self.folder.glob("*.npy")))
        return StoredLogits([shard for shard in shards if shard is not None], self.dtype)

    def _open(self, path):
        try:
            if _content_hash(path) == path.stem:
                shard = np.load(path, mmap_mode="r", allow_pickle=False)
                if shard.dtype == self.dtype:
                    return shard
        except FileNotFoundError:  # another process set it aside first
            return None
        logger.warning("%s is damaged: set aside as *.corrupt, its texts are labelled again.", path)
        with contextlib.suppress(FileNotFoundError):
            os.replace(path, path.with_suffix(".corrupt"))
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
        keys = np.concatenate([np.empty(0, dtype=KEY_DTYPE), *(shard["key"] for shard in shards)])
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
        if not len(self):
            return np.full(len(keys), -1, dtype=np.int64)
        places = np.minimum(np.searchsorted(self._sorted_keys, keys), len(self) - 1)
        return np.where(self._sorted_keys[places] == keys, self._order[places], -1)

    def take(self, positions):
        """Read logits.

        Args:
            positions (`np.ndarray` of shape `(n,)`): from `find`, none of them -1.

        Returns:
            `np.ndarray` of shape `(n, num_labels)`, float32.
        """
        logits = np.empty((len(positions), self._num_labels), dtype=np.float32)
        shard_numbers = np.searchsorted(self._starts, positions, side="right") - 1
        for number in np.unique(shard_numbers):
            rows = shard_numbers == number
            logits[rows] = self._shards[number]["logits"][positions[rows] - self._starts[number]]
        return logits


def _content_hash(path):
    digest = xxhash.xxh3_128()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
