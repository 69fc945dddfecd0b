"""What the student learns in a step: labels drawn from the teacher, or its probabilities."""

from torch.nn import functional as F

from distil_trainer.objective import DistillationObjective


class PseudoLabelObjective(DistillationObjective):
    """The distillation objective, for which labels are drawn in every batch.

    With `student_targets="sampled"` its logit term is the cross-entropy with the drawn labels; with "soft" it stays
    what `logit_loss` says. How often student and teacher give the same answer is among the terms that are logged.

    Args:
        args (`MetaPseudoLabelsArguments`): as in `DistillationObjective`.
        task (`str`): likewise.
        draw (`Callable`): given a batch and the teacher's logits, returns pseudo-labels of shape `(batch_size,)`.
    """

    def __init__(self, args, task, draw):
        super().__init__(args, task, matches=[], projected=set())
        self._draw = draw

    def __call__(self, student, teacher, batch, project, progress):
        """Compute the loss of a batch; see `DistillationObjective`."""
        batch = {**batch, "pseudo_labels": self._draw(batch, teacher.logits)}
        loss, terms = super().__call__(student, teacher, batch, project, progress)
        same = student.logits.detach().argmax(dim=-1) == teacher.logits.argmax(dim=-1)
        return loss, {**terms, "teacher_student_agreement": same.float().mean()}

    def _logit_term(self, student_logits, teacher_logits, batch, temperature):
        if self._args.student_targets == "soft":
            return super()._logit_term(student_logits, teacher_logits, batch, temperature)
        return "pseudo_label_cross_entropy", F.cross_entropy(student_logits.float(), batch["pseudo_labels"])
