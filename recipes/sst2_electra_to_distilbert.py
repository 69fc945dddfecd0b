"""SST-2: distil a fine-tuned ELECTRA into DistilBERT, or into some of the teacher's own layers.

    accelerate launch recipes/sst2_electra_to_distilbert.py [--any_argument ...] [config.yaml]

The method is Tang et al., Distilling Task-Specific Knowledge from BERT into Simple Neural Networks (arXiv 1903.12136):
rule-made copies of the training sentences, labelled by the teacher, and the mean squared error of the logits.
"""

from distil_trainer import (
    RECIPE_ARGUMENTS,
    dataset_label_names,
    distil,
    fine_tuning_arguments,
    load_teacher_and_splits,
    make_student,
    open_run,
    parse_arguments,
    train_once,
    without_leaks,
)

# Each Hub id gives way to a local path or file. They are documented on their own pages under https://huggingface.co:
# datasets/stanfordnlp/sst2, howey/electra-large-sst2, distilbert/distilbert-base-uncased.
DEFAULTS = {
    "output_dir": "outputs/sst2_electra_to_distilbert",
    "dataset_name": "stanfordnlp/sst2",
    "teacher_model_name_or_path": "howey/electra-large-sst2",
    "student_model_name_or_path": "distilbert/distilbert-base-uncased",
    "copies": 20,
    "logit_loss": "mse",
    "learning_rate": 5e-5,
    "per_device_train_batch_size": 64,
    "num_train_epochs": 3.0,
    "warmup_steps": 100,
    "save_steps": 500,
    "ddp_timeout": 86400,
    "save_total_limit": 2,
    "logging_steps": 100,
    "seed": 13,
}


def main(argv=None):
    """Run the recipe; return its report."""
    arguments = parse_arguments(RECIPE_ARGUMENTS, argv, DEFAULTS)
    training, data, models, _, _ = arguments
    teacher, teacher_tokenizer, splits = load_teacher_and_splits(models, data, training)
    label_names = dataset_label_names(splits["train"], training.label_column)
    make_student(models, teacher, teacher_tokenizer, label_names, seed=0)  # so that an error comes now, not later

    run = open_run(arguments)
    if models.train_teacher:
        teacher_arguments = fine_tuning_arguments(
            training,
            models.teacher_select_by,
            learning_rate=models.teacher_learning_rate,
            num_train_epochs=models.teacher_num_train_epochs,
            max_steps=models.teacher_max_steps,
        )
        evaluation_splits = [split for name, split in splits.items() if name != "train"]
        train, _ = without_leaks(splits["train"], evaluation_splits, training)
        teacher, _ = train_once(
            run, "teacher", teacher, teacher_tokenizer, train, splits["validation"], teacher_arguments
        )
    student, tokenizer, student_facts = make_student(
        models, teacher, teacher_tokenizer, label_names, seed=training.seed
    )
    report, table = distil(
        run,
        arguments,
        recipe="sst2_electra_to_distilbert.py",
        argv=argv,
        splits=splits,
        teacher=(teacher, teacher_tokenizer),
        student=(student, tokenizer),
        student_facts=student_facts,
    )
    if training.process_index == 0:
        print(table)
    return report


if __name__ == "__main__":
    main()
