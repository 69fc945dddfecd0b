"""SST-2: every rung from a padded PyTorch teacher to an int8 student, with speed and accuracy, on one CPU in one run.

    python recipes/sst2_fastformers_ladder.py [--any_argument ...] [--of_transformer "..."] [--of_networks "..."]

The ladder is that of Kim and Awadalla, FastFormers (arXiv 2010.13382): the teacher padded to 128 tokens, at real
lengths, as ONNX and in int8; distilled; pruned and recovered; one process on each core. Convolutions over word vectors
and a bag of them are further rungs. Each student is a run of its own in a folder of the output folder, with its
control and its card. Arguments of recipes go to all of them; those within `--of_transformer` or `--of_networks` go to
one kind:

    --of_transformer "--student_layers 2 4 6 --max_steps 3000" --of_networks "--max_steps 2000"

`--price_per_core_hour 0.04` adds what each rung costs. A start that was cut off goes on where it was.
"""

import argparse
import json
import shlex
from pathlib import Path

from network_defaults import NETWORK_DEFAULTS
from sst2_electra_to_distilbert import DEFAULTS as TRANSFORMER_DEFAULTS

from distil_trainer import (
    RECIPE_ARGUMENTS,
    benchmark_latency,
    closing_table,
    latency_table,
    load_classifier,
    load_teacher_and_splits,
    make_report,
    measure,
    onnx_contender,
    open_run,
    parse_arguments,
    plot_accuracy_against_latency,
    plot_latency,
    pytorch_contender,
    read_report,
    run_recipe,
    ship_once,
    write_report,
)

SHARES = (0.99, 0.96)
COMMON = {name: TRANSFORMER_DEFAULTS[name] for name in ("dataset_name", "teacher_model_name_or_path", "seed")}


def main(argv=None):
    """Run the ladder; return its report."""
    own, shared = ladder_arguments(argv)
    out = Path(own.output_dir)
    keep_arguments(out, own)
    transformer = out / "transformer"
    defaults = {**TRANSFORMER_DEFAULTS, "output_dir": str(transformer)}
    if "--prune_" not in own.of_transformer:
        defaults["prune_keep"] = 0.5
    run_recipe(defaults, [*shared, *shlex.split(own.of_transformer)], recipe=__file__)
    fine_tuned = transformer / "work" / "teacher"
    if fine_tuned.is_dir():
        shared += ["--teacher_model_name_or_path", str(fine_tuned), "--train_teacher", "False"]
    for kind in own.networks:
        defaults = {**NETWORK_DEFAULTS, **COMMON, "student_type": kind, "output_dir": str(out / kind)}
        run_recipe(defaults, [*shared, *shlex.split(own.of_networks)], recipe=__file__)

    arguments = parse_arguments(RECIPE_ARGUMENTS, shared, {**COMMON, "output_dir": str(out / "rungs")})
    training, data, models, *_, shipping = arguments
    teacher, tokenizer, splits = load_teacher_and_splits(models, data, training)
    run = open_run(arguments)

    def shipped(model, its_tokenizer, whose):
        rungs, _ = ship_once(
            run, model, its_tokenizer, splits["train"], splits["validation"], training, shipping, whose=whose
        )
        return rungs

    trained = transformer / "work" / "student"
    student, student_tokenizer = load_classifier(trained)
    contenders = [
        pytorch_contender("teacher", teacher, tokenizer, path=models.teacher_model_name_or_path),
        *shipped(teacher, tokenizer, "teacher "),
        pytorch_contender("student", student, student_tokenizer, path=str(trained)),
        *shipped(student, student_tokenizer, "student "),
        chosen_file(transformer, "pruned student", shipping),
        *(chosen_file(out / kind, kind, shipping) for kind in own.networks),
    ]
    evaluation_splits = {name: splits[name] for name in ("validation", "test") if name in splits}
    pairs = [(each.role, "teacher") for each in contenders[1:]]
    rows, comparisons = measure(run, contenders, evaluation_splits, training, shipping, pairs=pairs)
    timed = f"speed_at_{shipping.price_per_core_hour}"  # the price is no setting of a run, and stands in the figures
    speed = run.value(timed, lambda: time_rungs(contenders, splits["validation"], own, training, shipping))
    report = make_report(
        name="FastFormers' ladder",
        run={
            "recipe": Path(__file__).name,
            "seed": training.seed,
            "price_per_core_hour": shipping.price_per_core_hour,
        },
        task={"max_length": training.max_length},
        teacher={"name": models.teacher_model_name_or_path},
        student={"base": "several"},
        models=with_speed(rows, speed),
        comparisons=comparisons,
    )
    write_report(report, out)
    plot_accuracy_against_latency(report, out / "ladder.png")
    plot_latency(speed, out / "latency.png")
    print("\n\n".join([closing_table(report), "\n".join(fastest_rungs(report)), latency_table(speed)]))
    return report


def ladder_arguments(argv):
    """Return the ladder's own arguments, and those that go to every student."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", default="outputs/sst2_fastformers_ladder")
    parser.add_argument("--of_transformer", default="", help="arguments of the recipe for the transformer alone")
    parser.add_argument("--of_networks", default="", help="arguments of the recipe for the networks alone")
    parser.add_argument("--networks", nargs="+", default=["glove_cnn", "embedding_bag"], help="their student types")
    parser.add_argument("--pad_to", type=int, default=128, help="tokens of every text where the first rung is timed")
    parser.add_argument("--instances", type=int, help="processes of one thread each; by default one on each core")
    return parser.parse_known_args(argv)


def keep_arguments(out, own):
    """Refuse to go on with rungs that are measured in part, with other arguments of the ladder's own.

    The folder of each run refuses other arguments of recipes, but the rungs would keep the figures of the old models.
    """
    file, asked = out / "ladder.json", {name: value for name, value in vars(own).items() if name != "output_dir"}
    begun = (out / "rungs").is_dir() and file.is_file()
    earlier = json.loads(file.read_text(encoding="utf-8")) if begun else asked
    for name, value in asked.items():
        if earlier[name] != value:
            raise ValueError(
                f"--{name} {value!r}: the rungs in {str(out / 'rungs')!r} were begun with {earlier[name]!r}, and "
                "would keep the figures of then. Give another --output_dir; or delete that folder, to measure anew."
            )
    out.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(asked), encoding="utf-8")


def chosen_file(folder, role, shipping):
    """Return the ONNX file that a run chose, as a rung."""
    model, tokenizer = load_classifier(folder)
    chosen = read_report(folder / "onnx")
    name = f"{role} onnx, {chosen['chosen_rung']}"
    return onnx_contender(role, folder / "onnx" / chosen["chosen"], model, tokenizer, shipping.latency_threads, name)


def time_rungs(contenders, validation, own, training, shipping):
    """Time every rung on the validation texts: alone, padded, in batches, and in one process on each core."""
    return benchmark_latency(
        {each.role: each.path for each in contenders},
        validation[training.text_column],
        None if training.text_pair_column is None else validation[training.text_pair_column],
        threads=[shipping.latency_threads],
        instances=own.instances,
        max_length=training.max_length,
        max_texts=shipping.latency_texts,
        pad_to=own.pad_to,
        price_per_core_hour=shipping.price_per_core_hour,
        seed=training.seed,
    )


def with_speed(rows, speed):
    """Return the rungs with their times, below the first: the teacher as published figures time it, padded."""
    times = {each["model"]: each for each in speed["rows"] if each["processes"] == 1 and not each["pinned"]}
    first = {**rows[0], "name": f"teacher padded to {speed['pad_to']}", "latency": times["teacher"]["padded"]}
    second = {"role": "teacher at real lengths", "name": None}
    rungs = [{**row, "latency": times[row["role"]]["latency"]} for row in rows]
    return [first, {**rungs[0], **second}, *rungs[1:]]


def fastest_rungs(report):
    """Say which rung is the fastest of those that keep a share of the teacher's accuracy."""
    split = "validation"  # a test split chooses nothing
    accuracies = [row["evaluation"][split]["accuracy"] for row in report["models"]]
    for share in SHARES:
        good = [row for row, each in zip(report["models"], accuracies, strict=True) if each >= share * accuracies[0]]
        best = max(good, key=lambda row: row["speedup"])
        kept = best["evaluation"][split]["accuracy"] / accuracies[0]
        yield (
            f"Of those that keep {share:.0%} of the teacher's accuracy or more, {best['name'] or best['role']} is the "
            f"fastest: {best['speedup']:.1f} times the padded teacher, with {kept:.1%} of its accuracy ({split})."
        )


if __name__ == "__main__":
    main()
