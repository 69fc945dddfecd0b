"""A temperature inside of an ONNX file: its logits are divided in the graph, and whoever serves it does nothing."""

import math

from distil_trainer.tasks import REGRESSION, problem_type

_NODE = "calibrated_temperature"


def check_temperature(temperature, config):
    """Refuse a number that is no temperature, and a model that has no probabilities.

    Args:
        temperature (`float`): what the logits shall be divided by.
        config (`PretrainedConfig`): the model's configuration.

    Raises:
        ValueError: if the temperature is not finite and above zero, or the model is a regression.
    """
    check_has_probabilities(config, f"temperature={temperature}")
    if not (temperature > 0 and math.isfinite(temperature)):
        raise ValueError(
            f"temperature={temperature} must be finite and above 0: other numbers would turn the order of the labels "
            "round, or leave no numbers at all. `fit_temperature` finds a good one."
        )


def check_has_probabilities(config, given):
    """Refuse a regression; `given` (`str`) is what was asked for, for the error."""
    if problem_type(config) == REGRESSION:
        raise ValueError(
            f"{given}, but the model gives scores (problem_type='regression'), not probabilities: a temperature would "
            "only shrink or stretch them. Leave it out."
        )


def divide_logits(path, temperature):
    """Divide the first output of an ONNX file by a number, in one node at the end of its graph.

    In the weights of the last layer it would be for nothing, but that layer is another one for each family: a Gemm, or
    a MatMul and an Add, once or in several branches. A node at the end is right for all of them. Fusions and both
    quantizers find the graph that they know before it, and leave it as it is; it costs one division a label.

    Args:
        path (`Path`): the file, which is changed in place.
        temperature (`float`): above 0.
    """
    import numpy as np
    import onnx

    model = onnx.load(path)
    graph, output = model.graph, model.graph.output[0].name
    raw = f"{output}_before_{_NODE}"
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = [raw if name == output else name for name in names]
    graph.initializer.append(onnx.numpy_helper.from_array(np.array(temperature, dtype=np.float32), _NODE))
    graph.node.append(onnx.helper.make_node("Div", [raw, _NODE], [output], name=f"/{_NODE}/Div"))
    onnx.save(model, path)
