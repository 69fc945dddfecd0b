"""Whether an ONNX file is its PyTorch model: the logits of both, at shapes that the exporter has not seen."""

import logging

import numpy as np

from distil_trainer.inference import torch_runner

logger = logging.getLogger(__name__)

TOLERANCE = 1e-4


def check_parity(model, tokenizer, names, run_onnx, *, max_length, temperature=1.0):
    """Refuse an ONNX file whose logits are not its model's, at three shapes, with padding.

    Args:
        model (`PreTrainedModel`): the model, float32 on the CPU in evaluation mode.
        tokenizer (`PreTrainedTokenizerFast`): its tokenizer.
        names (`list[str]`): inputs of the graph.
        run_onnx (`Callable`): a runner of the file.
        max_length (`int`): the length of the longest shape.
        temperature (`float`, *optional*, defaults to 1.0): what the logits of the file are divided by. They are
            multiplied by it before they are compared: a large one would make any two files alike.

    Returns:
        `dict`: `max_abs_difference`, `tolerance`, `shapes`.

    Raises:
        ValueError: if the model cannot read `max_length` tokens.
        RuntimeError: if a logit differs by more than `TOLERANCE`, times the largest absolute logit where that is above
            1.
    """
    run_torch = torch_runner(model)
    shapes = [(1, min(5, max_length)), (3, min(11, max_length)), (4, max_length)]
    difference, tolerance = 0.0, TOLERANCE
    for seed, (batch_size, length) in enumerate(shapes):
        inputs = _ragged_batch(model, tokenizer, batch_size, length, seed)
        inputs = {name: inputs[name] for name in names}
        try:
            expected = run_torch(inputs)
        except (IndexError, RuntimeError) as error:
            raise ValueError(
                f"max_length={max_length}: the PyTorch model itself cannot read {length} tokens (the cause is above), "
                "so a served text of that length would fail: give the model's own limit, such as "
                "`tokenizer.model_max_length`."
            ) from error
        difference = max(difference, float(np.abs(run_onnx(inputs) * temperature - expected).max()))
        tolerance = max(tolerance, TOLERANCE * float(np.abs(expected).max()))
    if not difference <= tolerance:
        raise RuntimeError(
            f"The ONNX file is not the model: its logits differ from PyTorch's by up to {difference:.2g} at the "
            f"shapes {shapes}, where {tolerance:.2g} is allowed. Nothing was written. The exporter has fixed "
            "something that depends on the input, such as a length: look for Python conditions on tensors in the "
            "model's forward."
        )
    logger.info("ONNX equals PyTorch to %.2g at the shapes %s.", difference, shapes)
    return {"max_abs_difference": difference, "tolerance": tolerance, "shapes": [list(shape) for shape in shapes]}


def _ragged_batch(model, tokenizer, batch_size, length, seed):
    """Random words in rows of different lengths, padded on the right; each row's second half is a second segment."""
    generator = np.random.default_rng(seed)
    special = set(tokenizer.all_special_ids)
    words = np.array([token for token in range(len(tokenizer)) if token not in special])
    lengths = np.linspace(length, max(1, length // 3), batch_size).astype(np.int64)[:, None]
    positions = np.arange(length)[None, :]
    mask = (positions < lengths).astype(np.int64)
    segments = max(getattr(model.config, "type_vocab_size", 1), 1)
    return {
        "input_ids": np.where(mask, generator.choice(words, size=(batch_size, length)), tokenizer.pad_token_id),
        "attention_mask": mask,
        "token_type_ids": mask * np.minimum(positions >= lengths // 2, segments - 1),
    }
