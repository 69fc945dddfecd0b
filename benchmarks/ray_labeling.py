"""Label the same parquet files on Ray with two workers, and with `map_shards` in two processes.

python benchmarks/ray_labeling.py --output ray_labeling.json

Seconds are from the command to the last file, since starting is what Ray costs on one machine.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow.dataset
from datasets import Dataset, disable_progress_bars

from distil_trainer import TeacherLabeler, load_classifier
from distil_trainer.sharded_map import map_shards

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--teacher", default=str(SHARED / "models" / "minilm-sst2"))
    parser.add_argument("--train_file", default=str(SHARED / "data" / "sst2" / "train.parquet"))
    parser.add_argument("--rows", type=int, default=8192)
    parser.add_argument("--files", type=int, default=8)
    parser.add_argument("--output", help="write the figures to this JSON file")
    parser.add_argument("--shards_of", help="internal: label the files of this folder as one of several processes")
    arguments = parser.parse_args()
    for path in (arguments.teacher, arguments.train_file):
        if not Path(path).exists():
            sys.exit(f"{path} does not exist. Name a teacher with --teacher and its texts with --train_file.")
    if arguments.shards_of:
        label_shards(arguments.teacher, Path(arguments.shards_of))
        return

    disable_progress_bars()
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        write_input(arguments, folder)
        seconds = {
            "map_shards, 2 processes": run(
                [*torchrun(2), __file__, "--teacher", arguments.teacher, "--shards_of", str(folder)], folder
            ),
            "Ray, 2 workers": run(
                [
                    *(sys.executable, str(ROOT / "recipes" / "label_with_ray.py"), "--num_workers", "2"),
                    *("--input", str(folder / "input"), "--output", str(folder / "ray"), "--dtype", "float32"),
                    *("--teacher_model_name_or_path", arguments.teacher),
                    *("--rows_per_block", str(arguments.rows // arguments.files), "--batch_size", "1024"),
                ],
                folder,
            ),
        }
        rows = {
            name: pyarrow.dataset.dataset(folder / output, exclude_invalid_files=True).count_rows()
            for name, output in (("map_shards, 2 processes", "shards"), ("Ray, 2 workers", "ray"))
        }
        in_ray = json.loads((folder / "ray" / "label_with_ray.json").read_text())["seconds"]
    assert set(rows.values()) == {arguments.rows}, rows
    result = {
        "rows": arguments.rows,
        "seconds": seconds,
        "rows_per_s": {name: round(arguments.rows / value, 1) for name, value in seconds.items()},
        "seconds_in_ray_data": in_ray,
        "load_average": os.getloadavg()[0],
    }
    for name, value in seconds.items():
        print(f"{name:26} {value:7.1f} s {arguments.rows / value:7.0f} rows/s")
    print(
        f"{arguments.rows} rows, float32, one thread a process; of Ray's seconds {in_ray:.1f} after its start; "
        f"load average {result['load_average']:.1f}"
    )
    if arguments.output:
        Path(arguments.output).parent.mkdir(parents=True, exist_ok=True)
        Path(arguments.output).write_text(json.dumps(result, indent=2) + "\n")


def write_input(arguments, folder):
    (folder / "input").mkdir()
    rows = Dataset.from_parquet(arguments.train_file, cache_dir=str(folder / "cache")).select_columns(["sentence"])
    rows = rows.shuffle(seed=0).select(range(arguments.rows))
    for number in range(arguments.files):
        part = rows.shard(arguments.files, number, contiguous=True)
        part.to_parquet(folder / "input" / f"{number:03d}.parquet")


def label_shards(teacher, folder):
    labeler = TeacherLabeler(*load_classifier(teacher), dtype="float32")
    map_shards(f"{folder}/input/*", labeler, folder / "shards", features=labeler.features, batch_size=1024)


def torchrun(number):
    return [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={number}"]


def run(command, folder):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_DATASETS_CACHE": str(folder / "cache")}
    start = time.perf_counter()
    done = subprocess.run(command, env={**environment, "RAY_USAGE_STATS_ENABLED": "0"}, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr[-3000:])
    return round(time.perf_counter() - start, 1)


if __name__ == "__main__":
    main()
