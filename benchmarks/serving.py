"""A shipped folder without torch, beside `transformers.pipeline` over the same int8 file in onnxruntime.

    python benchmarks/serving.py [--folder output/onnx] [--rounds 7] [--threads 1] [--output serving.json]

A virtual environment is made with what the folder's `requirements.txt` names, and nothing else; that torch,
transformers and this package cannot be imported there is checked. Both ways then serve in turns, each time in a fresh
process: the time from the start of the process to the first printed label, the memory that is resident then, the
milliseconds of one text, tokenization and label included, in turns by blocks of 20, and the texts a second of all
validation sentences. The runtime makes its own batches; the pipeline is given all sentences too, with each of
`--batch_sizes`, of which its best counts. One process of each goes before, so that files come from memory as they do
on a server that starts anew.
Without `--folder`, the teacher is shipped first. Needs Optimum, and so transformers 4.57.
"""

import argparse
import contextlib
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

import psutil
from datasets import Dataset, disable_progress_bars

from distil_trainer import load_classifier, ship
from distil_trainer.export.onnx import optimum_is_usable
from distil_trainer.latency import cpu_name
from distil_trainer.report import write_atomically

SHARED = Path(__file__).resolve().parents[2] / "shared"
WORKER = Path(__file__).with_name("serving_worker.py")
ABSENT = ("torch", "transformers", "distil_trainer")
WAYS = ("runtime", "pipeline")
BLOCK = 20
# Dynamic int8 changes a little with the batch.
LOWEST_AGREEMENT = 0.95


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", help="what `ship` wrote; by default the teacher is shipped")
    parser.add_argument("--teacher", default=str(SHARED / "models" / "minilm-sst2"))
    parser.add_argument("--data", default=str(SHARED / "data" / "sst2"), help="folder of train and validation.parquet")
    parser.add_argument("--rounds", type=int, default=7, help="fresh processes of each way")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch_sizes", type=int, nargs="+", default=[1, 8, 32], help="of the pipeline")
    parser.add_argument("--max_validation_rows", type=int, help="for a try")
    parser.add_argument("--work", default="outputs/serving", help="keeps the environment and the shipped teacher")
    parser.add_argument("--output", default="outputs/bench/serving.json")
    options = parser.parse_args()
    if not optimum_is_usable():
        raise SystemExit("The pipeline needs Optimum's ONNX part, and so transformers 4.57: see `make .venv/ready`.")
    disable_progress_bars()
    validation = Dataset.from_parquet(f"{options.data}/validation.parquet")
    if options.max_validation_rows:
        validation = validation.select(range(options.max_validation_rows))
    folder = Path(options.folder or shipped_teacher(options, validation)).resolve()
    report = json.loads((folder / "report.json").read_text())
    file_name = "model_quantized.onnx" if "model_quantized.onnx" in report["sha256"] else report["chosen"]
    environment = make_environment(folder, Path(options.work).resolve())
    pythons = {"runtime": environment["python"], "pipeline": sys.executable}
    rounds = serve_in_turns(options, folder, file_name, report["max_length"], pythons, validation["sentence"][:])
    results = {
        "options": vars(options),
        "file": file_name,
        "size_bytes": (folder / file_name).stat().st_size,
        "cpu": cpu_name(),
        "python": platform.python_version(),
        "texts": len(validation),
        "environment": environment,
        "rounds": rounds,
        "summary": summarize(rounds),
    }
    write_atomically(options.output, json.dumps(results, indent=2) + "\n")
    print_table(results)


def shipped_teacher(options, validation):
    """Ship the teacher, once for each number of rows and threads, and return the folder."""
    folder = Path(options.work) / f"{Path(options.teacher).name}_{len(validation)}_rows_{options.threads}_threads"
    if not folder.exists():
        train = Dataset.from_parquet(f"{options.data}/train.parquet")
        calibration = train.shuffle(seed=0).select(range(512))["sentence"][:]
        model, tokenizer = load_classifier(options.teacher)
        ship(model, tokenizer, folder, validation, threads=options.threads, calibration_texts=calibration)
    return folder


def make_environment(folder, work):
    """Make a virtual environment of the folder's requirements alone, unless it is there, and check what it lacks."""
    requirements = (folder / "requirements.txt").read_text()
    place = work / "environment"
    python, made_of = place / "bin" / "python", place / "made_of.txt"
    if not made_of.is_file() or made_of.read_text() != requirements:
        shutil.rmtree(place, ignore_errors=True)
        venv.create(place, symlinks=True, with_pip=True)
        install = [python, "-m", "pip", "install", "--quiet", "--quiet", "--disable-pip-version-check", "-r"]
        subprocess.run([*install, folder / "requirements.txt"], check=True)
        made_of.write_text(requirements)
    for module in ABSENT:
        tried = subprocess.run(
            [python, "-c", f"import {module}"], env=plain_environment(1), cwd=work, capture_output=True, text=True
        )
        if "ModuleNotFoundError" not in tried.stderr:
            raise SystemExit(f"{place} can import {module}: nothing would be shown of serving without it.")
    listed = subprocess.run(
        [python, "-m", "pip", "list", "--format=json", "--disable-pip-version-check"],
        env=plain_environment(1),
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    packages = {each["name"]: each["version"] for each in json.loads(listed)}
    return {"python": str(python), "packages": packages, "cannot_import": list(ABSENT)}


def plain_environment(threads):
    """Return the variables of a process that finds only its own packages, and takes no more than its threads."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return variables | {
        "OMP_NUM_THREADS": str(threads),
        "RAYON_NUM_THREADS": str(threads),
        "TOKENIZERS_PARALLELISM": str(threads > 1).lower(),
        "HF_HUB_OFFLINE": "1",
        # classifier.py is imported from the shipped folder, which shall stay as it is.
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def serve_in_turns(options, folder, file_name, max_length, pythons, texts):
    """Return what was measured of each way in each round; who comes first changes by the round."""
    arguments = [str(folder), file_name, str(options.threads), str(max_length)]
    commands = {way: [pythons[way], str(WORKER), way, *arguments] for way in WAYS}
    rounds = {way: [] for way in WAYS}
    for turn in range(options.rounds + 1):
        order = WAYS if turn % 2 else WAYS[::-1]
        with contextlib.ExitStack() as stack:
            servers = {
                way: stack.enter_context(Server(commands[way], plain_environment(options.threads), folder))
                for way in order
            }
            measured = one_round(servers, texts, options.batch_sizes)
        if turn:  # before that, files may come from the disk
            for way in WAYS:
                rounds[way].append(measured[way])
    return rounds


def one_round(servers, texts, batch_sizes):
    """Measure fresh servers: each one's start, then single texts in turns by blocks, then all texts."""
    measured, milliseconds = {}, {way: [] for way in servers}
    for way, server in servers.items():
        seconds = server.start(texts[0])
        measured[way] = {"first_answer_s": seconds, "resident_mb": server.resident_mb()}
    for start in range(0, len(texts), BLOCK):
        block = texts[start : start + BLOCK]
        for way, server in servers.items():
            server.ask(answer=block[0])  # not timed: the other one has had the caches
            milliseconds[way] += server.ask(each=block)
    for way, server in servers.items():
        # The runtime makes batches of its own.
        sizes = batch_sizes if way == "pipeline" else [0]
        replies = {size: server.ask(all=texts, batch_size=size) for size in sizes}
        best = min(replies, key=lambda size: replies[size]["seconds"])
        measured[way] |= {
            "resident_after_mb": server.resident_mb(),
            "text_p50_ms": statistics.median(milliseconds[way]),
            "text_p95_ms": statistics.quantiles(milliseconds[way], n=20)[-1],
            "texts_per_s": len(texts) / replies[best]["seconds"],
            "texts_per_s_by_batch_size": {size: len(texts) / reply["seconds"] for size, reply in replies.items()},
            "best_batch_size": best,
        }
        measured[way]["labels"] = replies[best]["labels"]
    labels = [one.pop("labels") for one in measured.values()]
    agreement = sum(a == b for a, b in zip(*labels, strict=True)) / len(texts)
    if agreement < LOWEST_AGREEMENT:
        raise SystemExit(f"The two ways agree on {agreement:.1%} of the labels: they do not serve the same model.")
    for one in measured.values():
        one["agreement"] = agreement
    return measured


class Server:
    """A process that serves in one way, asked one thing after the other."""

    def __init__(self, command, variables, folder):
        self.command, self.variables, self.folder = command, variables, folder
        self.process = None
        # Messages go to a file: a pipe that nobody reads would stop the process once it is full.
        self.messages = tempfile.TemporaryFile("w+")  # noqa: SIM115  closed in __exit__

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
        self.messages.close()

    def start(self, text):
        """Start the process, ask for the label of a text, and return the seconds until it is there."""
        pipe, start = subprocess.PIPE, time.perf_counter()
        self.process = subprocess.Popen(
            self.command, env=self.variables, cwd=self.folder, stdin=pipe, stdout=pipe, stderr=self.messages, text=True
        )
        self.ask(answer=text)
        return time.perf_counter() - start

    def ask(self, **request):
        """Send a request to the worker (see serving_worker.py) and return its reply."""
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
            return json.loads(self.process.stdout.readline())
        except (BrokenPipeError, ValueError):
            self.messages.seek(0)
            raise SystemExit(f"{' '.join(self.command)} stopped:\n{self.messages.read()}") from None

    def resident_mb(self):
        """Return the memory that the process has in use now, in millions of bytes."""
        return psutil.Process(self.process.pid).memory_info().rss / 1e6


FIGURES = {
    "first_answer_s": "start to first answer, s",
    "resident_mb": "resident memory then, MB",
    "resident_after_mb": "resident memory at the end, MB",
    "text_p50_ms": "one text, median ms",
    "text_p95_ms": "one text, 95th percentile ms",
    "texts_per_s": "texts/s, all sentences at once",
}


def summarize(rounds):
    """Return for each figure the median and range of each way, and the median of the ratios, round by round."""
    summary = {}
    for figure in FIGURES:
        values = {way: [one[figure] for one in rounds[way]] for way in WAYS}
        ratios = [theirs / ours for ours, theirs in zip(values["runtime"], values["pipeline"], strict=True)]
        if figure == "texts_per_s":
            ratios = [1 / ratio for ratio in ratios]
        summary[figure] = {
            way: {"median": statistics.median(each), "range": [min(each), max(each)]} for way, each in values.items()
        } | {"times_better": statistics.median(ratios), "times_better_range": [min(ratios), max(ratios)]}
    return summary


def print_table(results):
    """Print both ways side by side."""
    options, rounds = results["options"], results["rounds"]
    print(
        f"{results['file']}, {results['size_bytes'] / 1e6:.1f} MB; {results['texts']} validation sentences, "
        f"{options['threads']} thread(s), {options['rounds']} fresh processes of each way in turns; {results['cpu']}"
    )
    print(f"{'median [range]':<34}{'runtime without torch':>28}{'pipeline with ORT':>28}{'x better':>22}")
    for figure, words in FIGURES.items():
        row = results["summary"][figure]
        cells = [f"{row[way]['median']:.4g} [{row[way]['range'][0]:.4g}, {row[way]['range'][1]:.4g}]" for way in WAYS]
        low, high = row["times_better_range"]
        ratio = f"{row['times_better']:.2f} [{low:.2f}, {high:.2f}]"
        print(f"{words:<34}{cells[0]:>28}{cells[1]:>28}{ratio:>22}")
    best = sorted({one["best_batch_size"] for one in rounds["pipeline"]})
    agreement = min(one["agreement"] for way in WAYS for one in rounds[way])
    print(
        f"the pipeline's best batch size: {', '.join(map(str, best))}; same label on {agreement:.1%} of the sentences"
    )
    packages = ", ".join(f"{name} {version}" for name, version in results["environment"]["packages"].items())
    print(f"environment without torch: {packages}")


if __name__ == "__main__":
    main()
