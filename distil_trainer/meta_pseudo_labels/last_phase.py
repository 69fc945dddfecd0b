"""The last phase of Meta Pseudo Labels: the student, which has seen no label until then, learns from labelled rows.

Pham et al. 2020, https://arxiv.org/abs/2003.10580, section 2.
"""

from distil_trainer.fine_tuning import fine_tuning_arguments


def last_phase_arguments(args, **changes):
    """Return the arguments of the last phase: on gold labels alone, without warm-up, to the last weights.

    Args:
        args (`MetaPseudoLabelsArguments`): those of the first phase.
        **changes: fields to set besides, such as `output_dir`.

    Returns:
        `MetaPseudoLabelsArguments`
    """
    return fine_tuning_arguments(
        args,
        select_by=None,
        num_train_epochs=args.fine_tuning_epochs,
        max_steps=-1,
        learning_rate=args.fine_tuning_learning_rate or args.learning_rate,
        warmup_steps=0,
        warmup_ratio=0.0,  # of 4.57; nothing reads it in 5.x
        **changes,
    )
