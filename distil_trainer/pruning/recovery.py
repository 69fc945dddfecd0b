"""`recover`: give a pruned classifier back the answers that it had, by distillation from the unpruned one."""

from distil_trainer.trainer import DistillationTrainer


def recover(
    pruned,
    model,
    tokenizer,
    train_dataset,
    args,
    *,
    eval_dataset=None,
    model_tokenizer=None,
    resume_from_checkpoint=None,
):
    """Distil the unpruned model into the pruned one, which is trained in place.

    It is [`DistillationTrainer`] in one call, with `model` as the teacher: what it checks, logs and saves is the same.
    `train_dataset` must not hold `teacher_logits`: where the unpruned model has labelled it already, train with the
    trainer itself, without `teacher=`.

    Args:
        pruned (`PreTrainedModel`): what `prune` or `prune_vocabulary` made of `model`.
        model (`PreTrainedModel`): the unpruned model; frozen, its weights left as they are.
        tokenizer (`PreTrainedTokenizerBase`): the tokenizer of `pruned`.
        train_dataset (`Dataset`): texts; labels are optional. The transfer set that `model` itself was distilled with
            is the best there is.
        args (`DistillationArguments`): losses, optimizer, steps. Beside logits, `hidden_loss_weight` compares the
            layers, whose widths pruning leaves equal.
        eval_dataset (`Dataset`, *optional*): labelled rows to evaluate on, as `args` say.
        model_tokenizer (`PreTrainedTokenizerBase`, *optional*): the tokenizer of `model` where it is another one, as
            it is after `prune_vocabulary`.
        resume_from_checkpoint (`str` or `bool`, *optional*): as in `Trainer.train`.

    Returns:
        `PreTrainedModel`: `pruned`, in evaluation mode.

    Raises:
        ValueError: if the models, the data and the losses do not fit together; before the first step.

    Example:

    ```python
    recovered = recover(pruned, model, tokenizer, train, DistillationArguments("out", max_steps=1000))
    ```
    """
    trainer = DistillationTrainer(
        pruned,
        args,
        train_dataset=train_dataset,
        eval_dataset=eval_dataset,
        processing_class=tokenizer,
        teacher=model,
        teacher_processing_class=model_tokenizer,
    )
    trainer.train(resume_from_checkpoint=resume_from_checkpoint)
    return trainer.model.eval()
