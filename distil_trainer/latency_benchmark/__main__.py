"""The latency benchmark as a command: `python -m distil_trainer.latency_benchmark out/onnx --texts texts.txt`."""

import argparse
import json
import sys
from pathlib import Path

import numpy as np

from distil_trainer.latency_benchmark.benchmark import benchmark_latency
from distil_trainer.latency_benchmark.plot import check_can_plot, plot_latency
from distil_trainer.latency_benchmark.table import latency_table
from distil_trainer.report import write_atomically


def main(arguments=None):
    """Time models on the lines of a file, write the table to standard output, and JSON and a plot where asked.

    Args:
        arguments (`list[str]`, *optional*): words of the command line without the program's name; by default, this
            process's.

    Returns:
        `int`: 0, or 1 after an error, which is written to standard error with its cause.
    """
    options = _parser().parse_args(arguments)
    try:
        for file in filter(None, (options.output, options.plot)):
            if Path(file).is_dir():
                raise ValueError(f"{file} is a folder: give the name of a file.")
        if options.plot:
            check_can_plot()
        texts, text_pairs = _read_files(options)
        result = benchmark_latency(
            options.models,
            texts,
            text_pairs,
            threads=options.threads,
            instances=options.instances,
            max_length=options.max_length,
            pad_to=options.pad_to,
            max_texts=options.max_texts,
            throughput_texts=options.throughput_texts,
            tokens_per_batch=options.tokens_per_batch,
            price_per_core_hour=options.price_per_core_hour,
            trust_remote_code=options.trust_remote_code,
            seed=options.seed,
        )
        sys.stdout.write(latency_table(result) + "\n")
        if options.output:
            content = json.dumps(result, indent=2, ensure_ascii=False, allow_nan=False)
            write_atomically(options.output, content + "\n")
        if options.plot:
            plot_latency(result, options.plot)
    except (ImportError, OSError, RuntimeError, TypeError, ValueError) as error:
        cause = f"\nThe cause: {error.__cause__}" if error.__cause__ else ""
        sys.stderr.write(f"latency_benchmark: {error}{cause}\n")
        return 1
    return 0


def _parser():
    parser = argparse.ArgumentParser(
        prog="python -m distil_trainer.latency_benchmark",
        description="Time models: one text at a time, in batches, and one process on each core.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "models",
        nargs="+",
        help="folders that `ship` wrote (the file that it chose), ONNX files, and folders or Hub ids for PyTorch",
    )
    parser.add_argument("--texts", required=True, help="a file of real texts, one a line")
    parser.add_argument("--text_pairs", help="a file of their second texts")
    parser.add_argument("--threads", type=int, nargs="+", help="numbers of threads; by default 1 and all cores")
    parser.add_argument("--instances", type=int, help="processes of one thread; by default one a core; 0 for none")
    parser.add_argument("--max_length", type=int, default=128, help="tokens kept of each text")
    parser.add_argument("--pad_to", type=int, help="time texts padded to so many tokens as well")
    parser.add_argument("--max_texts", type=int, default=200, help="texts for the time of one text")
    parser.add_argument("--throughput_texts", type=int, default=2000, help="texts for the texts a second")
    parser.add_argument("--tokens_per_batch", type=int, default=2048, help="tokens of a batch, padding counted")
    parser.add_argument("--price_per_core_hour", type=float, help="dollars, for the columns of cost")
    parser.add_argument("--trust_remote_code", action="store_true", help="run the Python files of model folders")
    parser.add_argument("--seed", type=int, default=0, help="seed of the drawn texts")
    parser.add_argument("--output", help="write all figures to this JSON file")
    parser.add_argument("--plot", help="draw them in this PNG file")
    return parser


def _read_files(options):
    """Read the lines that are timed, and no more: a file may be larger than the memory."""
    files = [file for file in (options.texts, options.text_pairs) if file]
    counts = [sum(1 for _ in _lines(file)) for file in files]
    if counts[0] != counts[-1]:
        raise ValueError(
            f"{files[0]} has {counts[0]} lines, {files[1]} has {counts[1]}: a pair is the lines of the same number, "
            "so there must be as many."
        )
    if not counts[0]:
        raise ValueError(f"{options.texts} is empty: give real texts, one a line.")
    drawn = np.random.default_rng(options.seed).permutation(counts[0])[: max(options.throughput_texts, 0)]
    drawn = set(drawn.tolist())
    read = [[line for number, line in enumerate(_lines(file)) if number in drawn] for file in files]
    return read[0], read[1] if options.text_pairs else None


def _lines(path):
    """Yield the lines of a file, none of them empty."""
    number = 0
    try:
        with open(path, encoding="utf-8", newline="\n") as file:
            for number, line in enumerate(file, 1):
                text = line.rstrip("\r\n")
                if not text.strip():
                    raise ValueError(
                        f"{path}: line {number} is empty. Nobody serves such texts, and they would make every model "
                        "look faster: remove it (of pairs, in both files)."
                    )
                yield text
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 after line {number} ({error.reason}). Convert it with iconv.") from error


if __name__ == "__main__":
    sys.exit(main())
