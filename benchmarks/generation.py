"""Measure generation: tokens per second of batched sampling, beside plain `model.generate` one by one and in batches.

All three sample from the whole distribution of one GPT-2 of 4 x 256, trained on SST-2 for a minute, each with as many
texts of the same prefixes a round, in turns. One thread, so that the ratio is not one of threads.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset, disable_progress_bars
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainingArguments

from distil_trainer.augmentation.decoding import sample_texts
from distil_trainer.augmentation.draws import uniform
from distil_trainer.augmentation.generation import first_token_counts
from distil_trainer.augmentation.language_model import fine_tune_language_model
from distil_trainer.augmentation.small_gpt2 import small_gpt2
from distil_trainer.report import write_atomically

SHARED = Path(__file__).resolve().parents[2] / "shared"
MAX_LENGTH = 128
ARMS = ("plain, one by one", "plain, in batches", "ours")


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train_file", default=str(SHARED / "data" / "sst2" / "train.parquet"))
    parser.add_argument("--text_column", default="sentence")
    parser.add_argument("--model", help="folder of a fine-tuned language model; default: a small one is trained")
    parser.add_argument("--train_steps", type=int, default=150, help="steps of 64 texts that the small one is trained")
    parser.add_argument("--rows", type=int, default=1024, help="texts of each arm in a round")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--batch_size", type=int, default=256)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", help="write the figures to this JSON file")
    options = parser.parse_args(argv)
    if not Path(options.train_file).exists():
        sys.exit(f"{options.train_file} does not exist. Name a parquet file of texts with --train_file.")
    torch.set_num_threads(options.threads)
    disable_progress_bars()
    texts = Dataset.from_parquet(options.train_file)[options.text_column]
    model, tokenizer = language_model(options, texts)
    report = measure(options, model, tokenizer, first_token_counts(texts, tokenizer))
    print_table(report)
    if options.output:
        write_atomically(options.output, json.dumps(report, indent=2) + "\n")
    return report


def language_model(options, texts):
    """Load the language model, or make and train a small one."""
    if options.model:
        return AutoModelForCausalLM.from_pretrained(options.model).eval(), AutoTokenizer.from_pretrained(options.model)
    model, tokenizer = small_gpt2(texts, max_length=MAX_LENGTH)
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder,
            max_steps=options.train_steps,
            per_device_train_batch_size=16,
            gradient_accumulation_steps=4,
            learning_rate=1e-3,
            use_cpu=True,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            dataloader_pin_memory=False,
        )
        dataset = Dataset.from_dict({"text": texts[:]})
        return fine_tune_language_model(model, tokenizer, dataset, arguments, "text")[0], tokenizer


def measure(options, model, tokenizer, token_counts):
    """Let the arms write in turns; return the seconds and tokens of each round."""
    tokens, counts = map(np.array, zip(*token_counts.items(), strict=True))
    ends = np.cumsum(counts)
    arms = {
        ARMS[0]: lambda prefixes, rows: plain(model, prefixes, 1),
        ARMS[1]: lambda prefixes, rows: plain(model, prefixes, options.batch_size),
        ARMS[2]: lambda prefixes, rows: ours(model, prefixes, rows, options.batch_size),
    }
    rounds = {name: [] for name in arms}
    torch.manual_seed(0)
    for number in range(options.rounds + 1):  # round 0 is for warming up, with few rows
        rows = np.arange(options.rows if number else 8) + number * options.rows
        first = tokens[np.searchsorted(ends, uniform(0, rows) * ends[-1])]
        for name, write in arms.items():
            start, cpu_start = time.perf_counter(), time.process_time()
            num_tokens = write([[int(token)] for token in first], rows)
            if number:
                seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
                rounds[name].append({"tokens": num_tokens, "seconds": seconds, "cpu_seconds": cpu_seconds})
    return {
        "rows": options.rows,
        "batch_size": options.batch_size,
        "threads": options.threads,
        "parameters": model.num_parameters(),
        "rounds": rounds,
        "ratio": {kind: ratio(rounds, kind) for kind in ("seconds", "cpu_seconds")},
        "load_average": os.getloadavg(),
        "torch": torch.__version__,
    }


def ours(model, prefixes, rows, batch_size):
    texts = sample_texts(
        model,
        prefixes,
        rows,
        end_token_id=model.config.eos_token_id,
        max_length=MAX_LENGTH,
        batch_size=batch_size,
    )
    # One token more for the end of a text; of an unfinished one, all but the prefix.
    return sum(MAX_LENGTH - 1 if text is None else len(text) for text in texts)


def plain(model, prefixes, batch_size):
    """Sample with `model.generate` alone; return the tokens written, ends included."""
    end, num_tokens = model.config.eos_token_id, 0
    for start in range(0, len(prefixes), batch_size):
        prefix = torch.tensor(prefixes[start : start + batch_size])
        written = model.generate(
            prefix,
            attention_mask=torch.ones_like(prefix),
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            max_length=MAX_LENGTH,
            pad_token_id=end,
        )[:, prefix.shape[1] :]
        before_end = (written != end).cumprod(dim=1).sum(dim=1)
        num_tokens += int((before_end + 1).clamp(max=written.shape[1]).sum())
    return num_tokens


def ratio(rounds, kind):
    """Return by arm how many times as many tokens it writes as plain `generate` one by one, the median of rounds."""

    def per_second(entry):
        return entry["tokens"] / entry[kind]

    return {
        name: statistics.median(
            per_second(mine) / per_second(other) for mine, other in zip(entries, rounds[ARMS[0]], strict=True)
        )
        for name, entries in rounds.items()
    }


def print_table(report):
    print(
        f"GPT-2 of {report['parameters'] / 1e6:.1f} M parameters, {report['rows']} texts a round, "
        f"batch {report['batch_size']}, {report['threads']} thread(s)"
    )
    print(f"| {'model.generate':<18} | {'tokens/s':>8} | {'tokens/CPU s':>12} | {'times':>6} | {'times, CPU':>10} |")
    print(f"|{'-' * 20}|{'-' * 9}:|{'-' * 13}:|{'-' * 7}:|{'-' * 11}:|")
    for name, entries in report["rounds"].items():
        tokens, seconds, cpu_seconds = (
            sum(entry[key] for entry in entries) for key in ("tokens", "seconds", "cpu_seconds")
        )
        print(
            f"| {name:<18} | {tokens / seconds:>8.0f} | {tokens / cpu_seconds:>12.0f} "
            f"| {report['ratio']['seconds'][name]:>6.1f} | {report['ratio']['cpu_seconds'][name]:>10.1f} |"
        )
    print(f"load average {report['load_average'][0]:.1f}")


if __name__ == "__main__":
    main()
