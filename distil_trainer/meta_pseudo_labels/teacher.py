"""A teacher that learns: asked like any other online teacher, and moved once in every step of the student."""

import os
import shutil
from pathlib import Path

import torch
from torch.nn import functional as F
from transformers import get_scheduler

from distil_trainer.inference import forward_names
from distil_trainer.loading import name_tokenizer_class
from distil_trainer.losses import soft_target_kl
from distil_trainer.meta_pseudo_labels.data import REWRITTEN
from distil_trainer.meta_pseudo_labels.feedback import feedback_loss
from distil_trainer.tasks import SINGLE_LABEL
from distil_trainer.teachers import OnlineTeacher

_STATE_FILE = "teacher_state.pt"


class LearningTeacher(OnlineTeacher):
    """An `OnlineTeacher` whose weights stay trainable, with an optimizer and a schedule of its own.

    It answers in evaluation mode, without gradients, as every teacher does here. So its pseudo-labels are drawn from
    the distribution that it has without dropout, the one it is saved and used with, and the feedback's gradient is
    that of the same distribution: with dropout in one and not in the other it would be biased. For that gradient each
    batch is run a second time. The alternative, to keep the graph of the first run, would hold the activations of all
    accumulated batches until the step ends, to save one forward pass of about eight. Labelled rows and rewritten texts
    are read in training mode, with dropout.

    Args:
        model (`PreTrainedModel`): a classifier; what of it requires a gradient is trained, in place.
        args (`MetaPseudoLabelsArguments`): its learning rate, schedule and weights of the terms.
        own_tokens (`bool`): whether it reads tokens of its own.
        accelerator (`accelerate.Accelerator`): prepares it, and averages its gradients over processes.

    Attributes:
        learning_rate (`float`): of the last step.
    """

    def __init__(self, model, args, *, own_tokens, accelerator):
        trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
        super().__init__([model], prepare=accelerator.prepare_model, task=SINGLE_LABEL, own_tokens=own_tokens)
        for parameter in trainable:
            parameter.requires_grad_(True)
        self.learning_rate = 0.0
        self._args = args
        self._trainable = trainable
        self._prefix = "teacher_" if own_tokens else ""
        self._no_sync = accelerator.no_sync
        self._optimizer = self._scheduler = None

    def begin(self, num_steps, decayed):
        """Make a new optimizer and schedule.

        Args:
            num_steps (`int`): steps of the training.
            decayed (`Collection[str]`): names of the weights to which weight decay applies.
        """
        args, (model,) = self._args, self._bare_models
        model.to(args.device)  # where the state of an optimizer that is loaded is put
        named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
        self._optimizer = torch.optim.AdamW(
            [
                {
                    "params": [parameter for name, parameter in named if (name in decayed) == decays],
                    "weight_decay": args.teacher_weight_decay if decays else 0.0,
                }
                for decays in (True, False)
            ],
            lr=args.teacher_learning_rate,
            betas=(args.adam_beta1, args.adam_beta2),
            eps=args.adam_epsilon,
        )
        self._scheduler = get_scheduler(
            args.teacher_lr_scheduler_type, self._optimizer, args.teacher_warmup_steps, num_steps
        )
        # The first step would add to what an earlier fine-tuning, or a training that broke off, left there.
        self._optimizer.zero_grad()

    def learn(self, drawn, num_drawn, labelled, num_labelled, feedback, consistency_weight):
        """Make one step down `feedback_weight · feedback · CE(pseudo-labels) + CE(labels) + weight · consistency`.

        Each term is a mean over the rows of the step, however they are cut into batches and processes.

        Args:
            drawn (`list[tuple[dict[str, torch.Tensor], torch.Tensor]]`): the unlabelled batches of this process, each
                with its pseudo-labels.
            num_drawn (`int` or `torch.Tensor`): their rows, over all processes.
            labelled (`list[dict[str, torch.Tensor]]`): the labelled batches of this process, one or more.
            num_labelled (`int`): their rows, over all processes.
            feedback (`torch.Tensor`): a scalar; `None` in a step that learns from labelled rows alone.
            consistency_weight (`float`): weight of the consistency term in this step.

        Returns:
            `dict[str, torch.Tensor]`: each term by its name, unweighted; their mean over processes is that over rows.
        """
        args, (model,) = self._args, self.models
        terms = {}

        def descend(name, loss, weight, share):
            (weight * share * loss).backward()
            terms[name] = terms.get(name, 0) + share * loss.detach()

        if feedback is None:
            drawn = []
        for batch, pseudo_labels in drawn:
            share = len(pseudo_labels) * args.world_size / num_drawn
            # The last batch of labelled rows sends the sum of all gradients to the other processes. cuDNN's recurrent
            # networks give none in evaluation mode.
            with self._no_sync(model), torch.backends.cudnn.flags(enabled=False):
                logits = self._logits(model.eval(), batch, self._prefix)
                loss = feedback_loss(logits, pseudo_labels, feedback)
                descend("teacher_feedback_loss", loss, args.feedback_weight, share)
            surprise = F.cross_entropy(logits.detach().float(), pseudo_labels)
            terms["teacher_pseudo_label_cross_entropy"] = (
                terms.get("teacher_pseudo_label_cross_entropy", 0) + share * surprise
            )
            if args.consistency_weight:
                with self._no_sync(model):
                    rewritten = self._logits(model.train(), batch, REWRITTEN)
                    loss = soft_target_kl(rewritten, logits.detach())
                    descend("teacher_consistency", loss, consistency_weight, share)
        model.train()
        for batch in labelled[:-1]:
            with self._no_sync(model):
                descend("teacher_label_cross_entropy", *self._label_loss(batch, num_labelled))
        descend("teacher_label_cross_entropy", *self._label_loss(labelled[-1], num_labelled))
        if args.max_grad_norm:
            torch.nn.utils.clip_grad_norm_(self._trainable, args.max_grad_norm)
        self.learning_rate = self._scheduler.get_last_lr()[0]
        self._optimizer.step()
        self._scheduler.step()
        self._optimizer.zero_grad()
        model.eval()
        return terms

    def save(self, folder, tokenizer):
        """Write the model, as a folder that can be loaded by itself; each file appears whole.

        Args:
            folder (`str` or `os.PathLike`): made where it does not exist.
            tokenizer (`PreTrainedTokenizerBase`, *optional*): the tokenizer it reads with.
        """
        folder = Path(folder)
        staging = folder.with_name(f".{folder.name}.partial")
        shutil.rmtree(staging, ignore_errors=True)  # of a run that was killed
        self._bare_models[0].save_pretrained(staging)
        if tokenizer is not None:
            tokenizer.save_pretrained(staging)
            name_tokenizer_class(staging)
        folder.mkdir(parents=True, exist_ok=True)
        for path in staging.iterdir():
            os.replace(path, folder / path.name)
        staging.rmdir()

    def load(self, folder):
        """Take the weights of a folder that `save` wrote.

        Raises:
            ValueError: if there is none.
        """
        (model,) = self._bare_models
        if not os.path.isfile(os.path.join(folder, "config.json")):
            raise ValueError(
                f"{os.fspath(folder)!r} holds no model: the checkpoint was not written by a MetaPseudoLabelsTrainer, "
                "and the teacher would begin anew beside a student that goes on. Resume from a checkpoint that has "
                "its teacher."
            )
        saved = type(model).from_pretrained(folder, dtype=torch.float32, local_files_only=True)
        model.load_state_dict(saved.state_dict())

    def save_state(self, folder, **others):
        """Write the state of optimizer and schedule, and `others`, into a checkpoint."""
        path = os.path.join(folder, _STATE_FILE)
        state = {"optimizer": self._optimizer.state_dict(), "scheduler": self._scheduler.state_dict(), **others}
        torch.save(state, f"{path}.tmp")
        os.replace(f"{path}.tmp", path)

    def load_state(self, folder):
        """Go on from what `save_state` wrote, and return the others (`dict`).

        Raises:
            ValueError: if there is nothing.
        """
        path = os.path.join(folder, _STATE_FILE)
        if not os.path.isfile(path):
            raise ValueError(
                f"resume_from_checkpoint={folder!r} has no {_STATE_FILE}, so the teacher's optimizer would begin "
                "anew: it was written with save_only_model=True, or by another trainer. Resume from a whole "
                "checkpoint."
            )
        # Not to the device: `load_state_dict` puts it there.
        state = torch.load(path, map_location="cpu", weights_only=True)
        self._optimizer.load_state_dict(state.pop("optimizer"))
        self._scheduler.load_state_dict(state.pop("scheduler"))
        return state

    def _label_loss(self, batch, num_labelled):
        (model,) = self.models
        loss = F.cross_entropy(self._logits(model, batch, self._prefix).float(), batch["labels"])
        return loss, 1.0, len(batch["labels"]) * self._args.world_size / num_labelled

    def _logits(self, model, batch, prefix):
        inputs = {
            name: batch[f"{prefix}{name}"]
            for name in forward_names(self._bare_models[0])
            if f"{prefix}{name}" in batch
        }
        (permutation,) = self._permutations
        logits = model(**inputs).logits
        return logits if permutation is None else logits[:, permutation]
