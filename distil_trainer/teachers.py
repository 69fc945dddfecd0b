"""One teacher or several: asked in every step, or averaged once over labelled data sets."""

import logging
import math

import numpy as np
import pyarrow.compute as pc
import torch
from torch.nn import functional as F

from distil_trainer.inference import forward_names
from distil_trainer.labels import dataset_label_names, label_permutation
from distil_trainer.objective import Signals
from distil_trainer.states import StateReader, head_token
from distil_trainer.tasks import REGRESSION, SINGLE_LABEL

logger = logging.getLogger(__name__)

# What accelerate writes into a model that it prepares.
_WRITTEN = ("forward", "_original_forward", "_is_accelerate_prepared")


class OnlineTeacher:
    """The teachers of a `DistillationTrainer`: frozen, in evaluation mode, asked for every batch.

    Args:
        models (`list[PreTrainedModel]`): trained classifiers that read the same tokens; frozen here.
        prepare (`Callable`): puts a model where training runs (`accelerator.prepare_model`).
        task (`str`): one of `PROBLEM_TYPES`.
        own_tokens (`bool`): whether the teachers read tokens of their own (`teacher_input_ids`, ...).

    Attributes:
        models (`list[PreTrainedModel]`): as given; between `attach` and `detach`, as prepared.
    """

    def __init__(self, models, *, prepare, task, own_tokens):
        self.input_names = set().union(*(forward_names(model) for model in models))
        self.models = self._bare_models = [model.requires_grad_(False).eval() for model in models]
        self._prepare = prepare
        self._task = task
        self._own_tokens = own_tokens
        self._head_token = head_token(models[0].config)
        self._accepted = [forward_names(model) for model in models]
        self._all_finite = None
        self._before = []
        self.plan([None] * len(models))

    def plan(self, permutations, weights=None, average="logits", wanted=()):
        """Settle how the models are asked from now on; not while they are attached.

        Args:
            permutations (`list`): for each model the order in which its logits are read, or `None`.
            weights (`list[float]`, *optional*): weights of the mean of their logits; equal by default.
            average (`str`, *optional*, defaults to `"logits"`): "logits" or "probabilities": what is averaged.
            wanted (`Collection[str]`, *optional*): states that are read of the first model, see `StateReader`.
        """
        self._permutations = permutations
        self._weights = weights or [1.0] * len(self._bare_models)
        self._average = average
        self._reader = StateReader(self._bare_models[0], wanted)

    def attach(self):
        """Prepare the models, and begin to read states. Does nothing where that is done already."""
        if self._before:
            return
        self._reader.attach()
        self._all_finite = None
        self._before = [_written_before(model) for model in self._bare_models]
        self.models = [self._prepare(model) for model in self._bare_models]

    def detach(self):
        """Leave the models as they were, but for their gradients, which stay off, their mode and their device."""
        self._reader.detach()
        for model, before in zip(self._bare_models, self._before, strict=False):
            # Mixed precision stands around the `forward` of the model itself, which is the caller's.
            for name in _WRITTEN:
                vars(model).pop(name, None)
            vars(model).update(before)
        self.models, self._before = self._bare_models, []

    def check_answers(self, reduce):
        """Refuse a teacher that gave NaN or infinite logits since the models were attached.

        Args:
            reduce (`Callable`): takes the mean of a tensor over all processes (`accelerator.reduce`), which then all
                stop together.

        Raises:
            ValueError: if one did, in any process.
        """
        if self._all_finite is not None and reduce(self._all_finite.float(), reduction="mean") < 1:
            raise ValueError(
                "The teacher gave NaN or infinite logits for a row of the training set. A single one turns every "
                "weight of the student into NaN, which the Trainer's log would hide as a loss of 0: the teacher's "
                "weights are broken, or half precision overflows. Load it in float32, or label the data ahead with "
                "`TeacherLabeler` and leave such rows out; weights saved since the last log are not to be used."
            )

    def __call__(self, batch, temperature):
        """Return the teachers' `Signals` for a batch, without gradients.

        Args:
            batch (`dict[str, torch.Tensor]`): of the collator.
            temperature (`float`): at which probabilities are averaged.
        """
        prefix = "teacher_" if self._own_tokens else ""
        inputs = {
            name: batch[f"{prefix}{name}"]
            for name in ("input_ids", "attention_mask", "token_type_ids")
            if f"{prefix}{name}" in batch
        }
        logits = []
        with torch.no_grad():
            for model, accepted, permutation in zip(self.models, self._accepted, self._permutations, strict=True):
                if model.training:
                    model.eval()
                given = {name: value for name, value in inputs.items() if name in accepted}
                outputs = model(**given, **self._reader.forward_arguments)
                logits.append(outputs.logits if permutation is None else outputs.logits[:, permutation])
            averaged = logits[0]
            if len(logits) > 1:
                averaged = average_logits(logits, self._weights, self._average, self._task, temperature)
            states = self._reader.read(outputs)
            # Kept on its device, and looked at where a log waits for the device anyway.
            finite = averaged.isfinite().all()
            self._all_finite = finite if self._all_finite is None else self._all_finite & finite
        return Signals(averaged, states, inputs.get("attention_mask"), self._head_token)


def average_logits(logits, weights, average, task, temperature=1.0):
    """Average the logits of several teachers into those of one.

    Args:
        logits (`list[torch.Tensor]`, each of shape `(batch_size, num_labels)`): in the same label order.
        weights (`list[float]`): one for each teacher, at least 0; their sum is scaled to 1.
        average (`str`): "logits" for their weighted mean; "probabilities" for logits whose softmax (multi-label:
            sigmoid) at `temperature` is the weighted mean of the teachers' there.
        task (`str`): one of `PROBLEM_TYPES`.
        temperature (`float`, *optional*, defaults to 1.0): above 0; read for probabilities only.

    Returns:
        `torch.Tensor` of shape `(batch_size, num_labels)`, float32.

    Reference:
        Hinton et al. 2015, https://arxiv.org/abs/1503.02531, section 3 and 5: both means are in use for ensembles.
    """
    stacked = torch.stack([each.float() for each in logits])
    shares = torch.tensor(weights, dtype=torch.float32, device=stacked.device).view(-1, 1, 1)
    shares = shares / shares.sum()
    if average == "logits":
        return (shares * stacked).sum(dim=0)
    scaled, log_shares = stacked / temperature, shares.log()
    if task == SINGLE_LABEL:
        return temperature * torch.logsumexp(log_shares + F.log_softmax(scaled, dim=-1), dim=0)
    positive = torch.logsumexp(log_shares + F.logsigmoid(scaled), dim=0)
    negative = torch.logsumexp(log_shares + F.logsigmoid(-scaled), dim=0)
    return temperature * (positive - negative)


def average_teachers(labelled, weights=None, average="logits", task=SINGLE_LABEL):
    """Average the `teacher_logits` of several labelled data sets: the same rows, each labelled by another teacher.

    This is how teachers with different tokenizers teach together: each labels the data with its own
    `TeacherLabeler`. Labels are matched by name; the first data set gives their order and all other columns.

    Args:
        labelled (`list[Dataset]`): one or more, with equal rows, as `TeacherLabeler.map` gives them.
        weights (`list[float]`, *optional*): one for each; equal by default.
        average (`str`, *optional*, defaults to `"logits"`): "logits", or "probabilities" (at temperature 1).
        task (`str`, *optional*, defaults to `"single_label_classification"`): the `problem_type` of the teachers.

    Returns:
        `Dataset`: the first data set with `teacher_logits` (and, where there are labels, `teacher_label`) of the mean.

    Raises:
        ValueError: if the rows, labels or weights do not fit together.
    """
    if not labelled:
        raise ValueError("labelled=[]: give the data sets to be averaged, one for each teacher.")
    check_teacher_weights(weights, len(labelled))
    check_average(average, task)
    first = labelled[0]
    names = dataset_label_names(first, "teacher_label")
    compared = [name for name in first.column_names if name not in ("teacher_logits", "teacher_label")]
    permutations = []
    for number, dataset in enumerate(labelled):
        if "teacher_logits" not in dataset.column_names:
            raise ValueError(
                f"labelled[{number}] has no column 'teacher_logits' (its columns are "
                f"{', '.join(dataset.column_names)}): label it with `TeacherLabeler(...).map(dataset)`."
            )
        if len(dataset) != len(first) or any(name not in dataset.column_names for name in compared):
            raise ValueError(
                f"labelled[{number}] has {len(dataset)} rows and the columns {', '.join(dataset.column_names)}, "
                f"labelled[0] has {len(first)} and {', '.join(first.column_names)}. Each must be the same data set, "
                "labelled by another teacher."
            )
        own_names = dataset_label_names(dataset, "teacher_label")
        if (names is None) != (own_names is None):
            logger.warning(
                "labelled[%d] or labelled[0] has no ClassLabel column 'teacher_label', so their logits are taken to "
                "be in one order, unchecked. `TeacherLabeler` writes that column.",
                number,
            )
        permutations.append(
            label_permutation(own_names, names, given=f"labelled[{number}]", wanted="labelled[0]")
            if names and own_names
            else None
        )
    return first.map(
        _average_batch,
        batched=True,
        with_indices=True,
        fn_kwargs={
            "tables": [dataset.with_format("arrow") for dataset in labelled],
            "permutations": permutations,
            "weights": weights or [1.0] * len(labelled),
            "average": average,
            "task": task,
            "num_labels": len(first["teacher_logits"][0]),
            "labelled": names is not None,
            "compared": compared,
        },
        features=first.features,
        desc="Averaging teachers",
    )


def check_teacher_weights(weights, num_teachers):
    """Refuse weights that are not one for each teacher, or not a share.

    Raises:
        ValueError: saying which.
    """
    if weights is None:
        return
    if len(weights) != num_teachers:
        raise ValueError(
            f"teacher_weights={weights} for {num_teachers} teacher(s): give one weight for each, in their order, or "
            "none."
        )
    if not all(math.isfinite(weight) and weight >= 0 for weight in weights) or not sum(weights):
        raise ValueError(
            f"teacher_weights={weights}: each must be 0 or more and finite, and their sum above 0; they are scaled to "
            "shares."
        )


def check_average(average, task):
    """Refuse a mean that does not exist for a task.

    Raises:
        ValueError: if it does not.
    """
    if average not in ("logits", "probabilities"):
        raise ValueError(f"average={average!r}: choose logits or probabilities.")
    if average == "probabilities" and task == REGRESSION:
        raise ValueError("average='probabilities' with problem_type='regression': scores have none. Choose logits.")


def _written_before(model):
    # A `device_map` puts a `forward` there too; the usual one is that of the class.
    return {name: vars(model)[name] for name in _WRITTEN if name in vars(model)}


def _average_batch(batch, indices, tables, permutations, weights, average, task, num_labels, labelled, compared):
    rows = slice(indices[0], indices[-1] + 1)
    first, logits = tables[0][rows], []
    for number, (table, permutation) in enumerate(zip(tables, permutations, strict=True)):
        table = table[rows]
        for name in compared:
            if not _equal(table[name], first[name]):
                raise ValueError(
                    f"labelled[{number}] differs from labelled[0] in column {name!r}, in or after row {indices[0]}: "
                    "each must be the same data set in the same order, labelled by another teacher."
                )
        column = table["teacher_logits"]
        lengths = pc.if_else(pc.is_null(column), 0, pc.list_value_length(column)).to_numpy()
        if (lengths != num_labels).any():
            row = int((lengths != num_labels).argmax())
            raise ValueError(
                f"labelled[{number}]: row {indices[0] + row} has {lengths[row]} teacher_logits, but row 0 of "
                f"labelled[0] has {num_labels}. A mean needs all teachers to give all rows a logit for every label: "
                "label the data set again, by teachers with the same labels."
            )
        flat = np.concatenate([chunk.flatten().to_numpy() for chunk in column.chunks])
        values = torch.from_numpy(flat.reshape(len(table), -1))
        logits.append(values if permutation is None else values[:, permutation])
    averaged = average_logits(logits, weights, average, task).numpy()
    return {"teacher_logits": averaged} | ({"teacher_label": averaged.argmax(axis=1)} if labelled else {})


def _equal(values, others):
    # Arrow's NaN differs from itself, and it stands where a row is unlabelled; written out, it does not.
    return values.equals(others) or str(values.to_pylist()) == str(others.to_pylist())
