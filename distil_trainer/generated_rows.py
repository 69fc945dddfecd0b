"""The stage of a recipe in which a language model learns from the training texts and writes new ones."""

import shutil

from accelerate import PartialState
from transformers import TrainingArguments

from distil_trainer.augmentation import texts_of
from distil_trainer.augmentation.generation import first_token_counts, generate_transfer_set
from distil_trainer.augmentation.language_model import fine_tune_language_model, load_language_model
from distil_trainer.augmentation.small_gpt2 import small_gpt2
from distil_trainer.run_folder import last_complete_checkpoint
from distil_trainer.transfer_arguments import FROM_SCRATCH

# The paper's 48 rows a step, in parts of similar length.
_BATCH_SIZE, _ACCUMULATED = 12, 4
_LEARNING_RATE_FROM_SCRATCH = 1e-3


def generate_rows(run, train, evaluation_splits, transfer, training):
    """Fine-tune a language model on the training texts, once, and let it write `transfer.generated_rows` new ones.

    Args:
        run (`RunFolder`): keeps the model and what it wrote.
        train (`Dataset`): the training split.
        evaluation_splits (`list[Dataset]`): splits whose texts must not be written.
        transfer (`TransferSetArguments`): the model, how it is trained, and how it writes.
        training (`DistillationArguments`): names the columns, the longest text and the seed.

    Returns:
        `tuple[Dataset, dict[str, int]]`: see `generate_transfer_set`.
    """
    columns = training.text_column, training.text_pair_column
    model, tokenizer = _language_model(run, train, transfer, training)
    return generate_transfer_set(
        model,
        tokenizer,
        first_token_counts(train[training.text_column], tokenizer),
        transfer.generated_rows,
        run.path("generated"),
        texts_of(evaluation_splits, *columns),
        *columns,
        max_length=training.max_length,
        temperature=transfer.generation_temperature,
        top_k=transfer.generation_top_k,
        top_p=transfer.generation_top_p,
        seed=training.seed,
        near_threshold=transfer.near_duplicate_threshold,
    )


def _language_model(run, train, transfer, training):
    """Return the fine-tuned language model and its tokenizer; training goes on where an earlier start left it."""
    checkpoints = str(run.path("language_model-checkpoints"))
    if not run.is_finished("language_model"):
        from_scratch = transfer.language_model == FROM_SCRATCH
        if from_scratch:
            texts = (text for column in _columns(training) for text in train[column])
            model, tokenizer = small_gpt2(texts, max_length=training.max_length, seed=training.seed)
        else:
            model, tokenizer = load_language_model(transfer.language_model)
        default = _LEARNING_RATE_FROM_SCRATCH if from_scratch else 5e-5
        arguments = TrainingArguments(
            checkpoints,
            learning_rate=transfer.language_model_learning_rate or default,
            num_train_epochs=transfer.language_model_num_train_epochs,
            max_steps=transfer.language_model_max_steps,
            per_device_train_batch_size=_BATCH_SIZE,
            gradient_accumulation_steps=_ACCUMULATED,
            weight_decay=1e-3,
            warmup_steps=100,
            save_steps=1000,
            save_total_limit=2,
            logging_steps=200,
            seed=training.seed,
            use_cpu=training.use_cpu,
            bf16=training.bf16,
            disable_tqdm=training.disable_tqdm,
            dataloader_pin_memory=training.device.type == "cuda",
            report_to=training.report_to,
        )
        run.announce(f"Training: language_model, {len(train):,} rows")
        model, _ = fine_tune_language_model(
            model,
            tokenizer,
            train,
            arguments,
            *(training.text_column, training.text_pair_column),
            max_length=training.max_length,
            resume_from_checkpoint=last_complete_checkpoint(checkpoints),
        )

        def save(path):
            model.save_pretrained(path)
            tokenizer.save_pretrained(path)

        run.once("language_model", save)
    if PartialState().is_main_process:
        shutil.rmtree(checkpoints, ignore_errors=True)
    return load_language_model(run.path("language_model"))


def _columns(training):
    return [column for column in (training.text_column, training.text_pair_column) if column is not None]
