"""A folder of generated texts in numbered shards: each is whole or absent, and all of them have one origin."""

import contextlib
import json
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import xxhash
from datasets import Dataset, concatenate_datasets

from distil_trainer.processes import process_state

_SETTINGS_FILE = "settings.json"
_COUNTS = b"counts"


class TextShards:
    """Shards as Arrow files, written by any process under a temporary name and then renamed.

    Two processes may write the same shard: it is the same then. File names hold a hash of the settings, so that two
    runs of different settings that start in the same folder at the same moment do each other no harm.

    Args:
        folder (`str` or `Path`): created when absent.
        settings (`dict`): what the texts depend on, as JSON values.

    Raises:
        OSError: if the folder cannot be written.
        ValueError: if it holds texts of other settings.
    """

    def __init__(self, folder, settings):
        self.folder = Path(folder)
        self._key = xxhash.xxh3_64_hexdigest(json.dumps(settings, sort_keys=True).encode())[:8]
        file, state = self.folder / _SETTINGS_FILE, process_state()
        if state.is_main_process and not file.exists():
            with self._clear_errors():
                self.folder.mkdir(parents=True, exist_ok=True)
                with _whole_file(file) as temporary:
                    temporary.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n")
        state.wait_for_everyone()
        earlier = json.loads(file.read_text())
        differences = [
            f"{name}: {earlier.get(name)!r} there, {value!r} now"
            for name, value in settings.items()
            if earlier.get(name) != value
        ]
        if differences:
            raise ValueError(
                f"folder={str(folder)!r} holds generated texts of another run ({'; '.join(differences)}). The rows of "
                "two runs would be mixed: give another folder, or delete that one."
            )

    def has(self, shard):
        """Tell whether a shard is there."""
        return self._file(shard).exists()

    def write(self, shard, texts, counts):
        """Write a shard.

        Args:
            shard (`int`): its number.
            texts (`dict[str, list[str]]`): columns of texts. `parent` (-1) and `operators` (`"generated"`) are added.
            counts (`dict[str, int]`): what to remember of how they came about.

        Raises:
            OSError: if it cannot be written.
        """
        columns = {column: pa.array(values, pa.string()) for column, values in texts.items()}
        num_rows = len(next(iter(columns.values())))
        columns["parent"] = pa.array(np.full(num_rows, -1, np.int64))
        columns["operators"] = pa.array(["generated"] * num_rows, pa.string())
        table = pa.table(columns).replace_schema_metadata({_COUNTS: json.dumps(counts)})
        with (
            self._clear_errors(),
            _whole_file(self._file(shard)) as temporary,
            pa.ipc.new_stream(str(temporary), table.schema) as writer,
        ):
            writer.write_table(table)

    def read(self, num_shards):
        """Return the rows of the first shards, memory-mapped, and the sums of their counts.

        Returns:
            `tuple[Dataset, dict[str, int]]`

        Raises:
            OSError: if one is absent.
        """
        shards, counts = [], Counter()
        for file in map(self._file, range(num_shards)):
            if not file.exists():
                raise OSError(
                    f"folder={str(self.folder)!r} lacks {file.name} after all processes have written theirs. All of "
                    "them must see one folder: give one on a disk that the machines share."
                )
            with pa.memory_map(str(file)) as stream:
                counts.update(json.loads(pa.ipc.open_stream(stream).schema.metadata[_COUNTS]))
            shards.append(Dataset.from_file(str(file)))
        return concatenate_datasets(shards), dict(counts)

    def _file(self, shard):
        return self.folder / f"shard-{shard:06d}-{self._key}.arrow"

    @contextlib.contextmanager
    def _clear_errors(self):
        try:
            yield
        except OSError as error:
            raise OSError(
                error.errno,
                f"folder={str(self.folder)!r} could not be written ({error}). Nothing half-written was left there; "
                "finished shards are kept. Free space or mend the permissions, then start again, to go on.",
            ) from error


@contextlib.contextmanager
def _whole_file(file):
    """Give a temporary path to write to; it becomes `file` at the end of the block, and is gone after an error."""
    temporary = file.with_name(f".{file.name}.{os.getpid()}-{os.urandom(4).hex()}.tmp")
    try:
        yield temporary
        os.replace(temporary, file)
    finally:
        temporary.unlink(missing_ok=True)
