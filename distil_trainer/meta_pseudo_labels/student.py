"""What a step of the student does to its loss on labelled rows."""

from contextlib import contextmanager

import torch
from torch.nn import functional as F

from distil_trainer.inference import forward_names
from distil_trainer.meta_pseudo_labels.feedback import euclidean_length, feedback_of_step, trial_weights


class StudentMeasure:
    """Measure the student's labelled loss before and after a step, and judge the step by it.

    The student is read in evaluation mode and in float32, also where it trains in bfloat16: the two losses differ in
    the third digit or later, which bfloat16 has not got.

    With `student_targets="soft"` the student's own step does not depend on the drawn labels, so it says nothing about
    them. A trial step is judged instead: from where the student stands after its own step, straight down the gradient
    of the drawn labels' cross-entropy, as long as the student's own. The weights are put back afterwards.

    Args:
        model (`PreTrainedModel`): the student itself, not as it was prepared.
        args (`MetaPseudoLabelsArguments`): `feedback`, `student_targets`.
        reduce (`Callable`): sums tensors over all processes (`accelerator.reduce`).
    """

    def __init__(self, model, args, reduce):
        self._model = model
        self._input_names = forward_names(model)
        self._weights = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._samples = args.student_targets == "sampled"
        self._differs = args.feedback == "difference"
        self._reduce = reduce
        self._before = self._weights_before = None

    def before_step(self, labelled, num_labelled):
        """Look at the student before its step.

        Args:
            labelled (`list[dict[str, torch.Tensor]]`): the labelled batches of this process.
            num_labelled (`int`): their rows, over all processes.
        """
        if self._samples:
            self._before = self._labelled_loss(labelled, num_labelled)
        if not (self._samples and self._differs):
            self._weights_before = self._copy_weights()

    def after_step(self, labelled, num_labelled, drawn, num_drawn):
        """Look at the student after its step, and judge that, or a trial step.

        Args:
            labelled, num_labelled: as in `before_step`.
            drawn (`list[tuple[dict[str, torch.Tensor], torch.Tensor]]`): the unlabelled batches of this process, each
                with its pseudo-labels.
            num_drawn (`int` or `torch.Tensor`): their rows, over all processes.

        Returns:
            `dict[str, torch.Tensor]`: `labelled_loss_before` and `labelled_loss_after` the step that was judged, and
            `feedback`: how far it lowered that loss. The same in all processes.
        """
        if self._samples:
            return self._judge(self._before, self._weights_before, labelled, num_labelled)
        before, stands = self._labelled_loss(labelled, num_labelled), self._copy_weights()
        moved = [after - earlier for after, earlier in zip(stands, self._weights_before, strict=True)]
        gradients = self._reduce(self._gradients(drawn, num_drawn), reduction="sum")
        self._set_weights(trial_weights(stands, gradients, euclidean_length(moved)))
        judged = self._judge(before, stands, labelled, num_labelled)
        self._set_weights(stands)
        return judged

    def _judge(self, before, weights_before, labelled, num_labelled):
        after = self._labelled_loss(labelled, num_labelled)
        if self._differs:
            feedback = before - after
        else:
            pairs = [(batch, batch["labels"]) for batch in labelled]
            # Each process has the gradients of its own rows, and all have made the same step.
            feedback = feedback_of_step(
                self._gradients(pairs, num_labelled), weights_before, [weight.detach() for weight in self._weights]
            )
            feedback = self._reduce(feedback, reduction="sum")
        self._weights_before = None
        return {"labelled_loss_before": before, "labelled_loss_after": after, "feedback": feedback}

    def _labelled_loss(self, labelled, num_labelled):
        with torch.no_grad(), self._evaluation():
            sums = [self._loss(batch, batch["labels"], num_labelled) for batch in labelled]
        return self._reduce(torch.stack(sums).sum(), reduction="sum")

    def _gradients(self, pairs, num_rows):
        # Of the mean loss over `num_rows`, as far as this process has them.
        total = [torch.zeros_like(weight) for weight in self._weights]
        # cuDNN's recurrent networks give none in evaluation mode.
        with self._evaluation(), torch.backends.cudnn.flags(enabled=False):
            for batch, labels in pairs:
                loss = self._loss(batch, labels, num_rows)
                gradients = torch.autograd.grad(loss, self._weights, allow_unused=True)
                for sum_, gradient in zip(total, gradients, strict=True):
                    if gradient is not None:
                        sum_ += gradient
        return total

    def _loss(self, batch, labels, num_rows):
        inputs = {name: batch[name] for name in self._input_names if name in batch}
        # The method of the class: accelerate puts one on the model that runs in bfloat16.
        logits = type(self._model).forward(self._model, **inputs).logits
        return F.cross_entropy(logits, labels, reduction="sum") / num_rows

    @contextmanager
    def _evaluation(self):
        trains = self._model.training
        self._model.eval()
        with torch.autocast(self._weights[0].device.type, enabled=False):
            yield
        self._model.train(trains)

    def _copy_weights(self):
        return [weight.detach().clone() for weight in self._weights]

    def _set_weights(self, values):
        with torch.no_grad():
            for weight, value in zip(self._weights, values, strict=True):
                weight.copy_(value)
