"""PyTorch classifier to ONNX: through Optimum where it works, through `torch.onnx` elsewhere, checked either way."""

import copy
import json
import logging
import os
import warnings
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from transformers import CONFIG_MAPPING

from distil_trainer.export.parity import check_parity
from distil_trainer.export.staging import staged_folder
from distil_trainer.export.temperature import check_temperature, divide_logits
from distil_trainer.inference import forward_names
from distil_trainer.input_checks import check_network_inputs, check_padding
from distil_trainer.loading import name_tokenizer_class
from distil_trainer.students import StudentConfig

logger = logging.getLogger(__name__)

OPSET = 17


def export_onnx(model, tokenizer, folder, *, max_length=128, temperature=None):
    """Write a classifier as `model.onnx`, with its configuration and tokenizer, and check it against PyTorch.

    A float32 copy on the CPU in evaluation mode is exported; `model` is left as it is. Batch size and length are
    dynamic. The logits of the file are compared with those of the copy at three shapes that the exporter has not seen,
    with padding. The folder appears only when they agree; an earlier export in it stays until then. The code of one of
    our students lies in it too: `ORTModelForSequenceClassification.from_pretrained(folder, trust_remote_code=True)`
    needs no package of ours.

    Args:
        model (`PreTrainedModel`): a sequence classifier.
        tokenizer (`PreTrainedTokenizerFast`): its tokenizer.
        folder (`str` or `os.PathLike`): a new folder, or one that holds an earlier export.
        max_length (`int`, *optional*, defaults to 128): the longest input to be served, in tokens; one of the shapes
            checked.
        temperature (`float`, *optional*): what the logits of the file are divided by, such as the result of
            `fit_temperature`. Labels stay the same, and whoever serves the file gets calibrated probabilities by a
            softmax. By default they are the model's.

    Returns:
        `dict`: `path` (`str`), `engine` (`"optimum"` where it is installed, fits the installed transformers and knows
        the architecture, else `"torch.onnx"`), `opset`, `temperature`, `parity` (`max_abs_difference`, `tolerance`,
        `shapes`), `size_bytes`.

    Raises:
        ImportError: if `onnx` or `onnxruntime` is not installed.
        FileExistsError: if `folder` holds anything but an earlier export.
        ValueError: if the model cannot read `max_length` tokens, or would read the tokenizer's padding as text; if
            `temperature` is not above zero, or is given for a regression.
        RuntimeError: if a logit differs by more than 1e-4 times the largest absolute logit (1e-4 where that is below
            1).
    """
    check_installed()
    check_padding(model.config, tokenizer)
    if temperature is not None:
        check_temperature(temperature, model.config)
    max_length = min(max_length, tokenizer.model_max_length)
    reference = _plain_copy(model)
    with staged_folder(folder) as staging:
        path = staging / "model.onnx"
        names = _input_names(reference, tokenizer)
        config = _optimum_config(reference, names)
        if config is not None:
            _export_through_optimum(reference, config, path)
        else:
            _export_directly(reference, names, path)
        if temperature is not None:
            divide_logits(path, temperature)
        parity = check_parity(
            reference, tokenizer, names, onnx_runner(path), max_length=max_length, temperature=temperature or 1.0
        )
        _save_config(reference, staging)
        tokenizer.save_pretrained(staging)
        name_tokenizer_class(staging)
        size_bytes = path.stat().st_size
    return {
        "path": str(Path(folder) / "model.onnx"),
        "engine": "torch.onnx" if config is None else "optimum",
        "opset": OPSET,
        "temperature": temperature,
        "parity": parity,
        "size_bytes": size_bytes,
    }


def onnx_runner(path, threads=None):
    """Make a runner (see `distil_trainer.inference`) from an ONNX file, on the CPU.

    Only the inputs that the graph names are fed; `token_type_ids` that it names and the tokenizer does not make are
    zeros. The graph of a network of this package (the `config.json` beside it says so) refuses pairs where it reads
    single texts, and single texts where it compares pairs.

    Args:
        path (`str` or `os.PathLike`): an ONNX file whose first output is the logits.
        threads (`int`, *optional*): threads of one operator; all cores by default.

    Returns:
        `Callable[[dict[str, np.ndarray]], np.ndarray]`

    Raises:
        ImportError: if `onnxruntime` is not installed.
        FileNotFoundError: if there is no such file.
    """
    onnxruntime = check_installed()
    if not os.path.isfile(path):
        raise FileNotFoundError(f"path={str(path)!r} is not a file. Give the .onnx file itself, not its folder.")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    options.inter_op_num_threads = 1
    # Else its threads look for work for 0.1 s and more after a call, on cores that the model timed next needs.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = onnxruntime.InferenceSession(os.fspath(path), options, providers=["CPUExecutionProvider"])
    names = [node.name for node in session.get_inputs()]
    output = session.get_outputs()[0].name
    config = network_config(Path(path).parent)

    def run(inputs):
        return session.run([output], graph_feed(names, inputs, config))[0]

    return run


def network_config(folder):
    """Read the configuration of an exported network of this package; `None` where it is that of another model."""
    path = folder / "config.json"
    settings = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    kind = CONFIG_MAPPING[settings["model_type"]] if settings.get("model_type") in CONFIG_MAPPING else None
    return kind.from_dict(settings) if kind is not None and issubclass(kind, StudentConfig) else None


def graph_feed(names, inputs, config):
    """Choose the inputs that a graph names, with zeros for missing `token_type_ids`.

    Args:
        names (`list[str]`): inputs of the graph.
        inputs (`dict[str, np.ndarray]`): what a runner is given.
        config ([`StudentConfig`]): of a network of this package, which refuses inputs that it would misread; or
            `None`.

    Returns:
        `dict[str, np.ndarray]`
    """
    if config is not None:
        check_network_inputs(config, inputs)
    feed = {name: inputs[name] for name in names if name in inputs}
    if "token_type_ids" in names and "token_type_ids" not in inputs:
        feed["token_type_ids"] = np.zeros_like(inputs["input_ids"])
    return feed


def check_installed():
    try:
        import onnx  # noqa: F401
        import onnxruntime
    except ImportError as error:
        raise ImportError(
            'ONNX export needs onnx and onnxruntime: pip install "distil_trainer[onnx]" (brings Optimum, and with it '
            'transformers 4.57), or "distil_trainer[onnx-direct]" on transformers 5.'
        ) from error
    return onnxruntime


def _plain_copy(model):
    """Copy a model as float32 on the CPU in evaluation mode, without what mixed precision training put around it."""
    plain = copy.deepcopy(model)
    # accelerate 1.15 leaves its autocast around the forward of a trained model; neither exporter can trace that.
    if plain.__dict__.pop("_original_forward", None) is not None:
        plain.__dict__.pop("forward", None)
    return plain.to(device="cpu", dtype=torch.float32).eval()


def _input_names(model, tokenizer):
    """Name the inputs that the tokenizer makes and the model reads."""
    read = forward_names(model)
    return [name for name in tokenizer.model_input_names if name in read]


def _optimum_config(model, names):
    """Return Optimum's export configuration for this model, or `None` where it cannot export it with these inputs."""
    if not optimum_is_usable():
        return None
    import optimum.exporters.onnx.model_configs  # noqa: F401  registers the architectures
    from optimum.exporters.tasks import TasksManager

    try:
        constructor = TasksManager.get_exporter_config_constructor(
            "onnx", model=model, task="text-classification", library_name="transformers"
        )
    except (KeyError, ValueError):
        return None  # an architecture of ours, or newer than Optimum
    config = constructor(model.config)
    return config if set(names) <= set(config.inputs) else None


def optimum_is_usable():
    # optimum-onnx 0.1.0 can be installed beside transformers 5, but its exporter cannot be imported there.
    try:
        import optimum.exporters.onnx.convert
        import optimum.onnxruntime.quantization  # noqa: F401
    except ImportError:
        return False
    return True


def _export_through_optimum(model, config, path):
    from optimum.exporters.onnx.convert import export

    with _quiet_exporter():
        export(model, config, path, opset=OPSET)


def _export_directly(model, names, path):
    example = {name: torch.ones(2, 16, dtype=torch.int64) for name in names}
    if "token_type_ids" in example:
        example["token_type_ids"].zero_()
    with _quiet_exporter():
        torch.onnx.export(
            _Logits(model, names).eval(),  # the exporter puts the training flag of the outermost module on all
            tuple(example.values()),
            os.fspath(path),
            input_names=names,
            output_names=["logits"],
            dynamic_axes={name: {0: "batch", 1: "length"} for name in names} | {"logits": {0: "batch"}},
            opset_version=OPSET,
            # The exporter that is the default since torch 2.9 takes 10 to 30 times as long, and onnxruntime's
            # quantizer rejects the shapes in its graph (torch 2.13, onnxruntime 1.31).
            dynamo=False,
        )


class _Logits(torch.nn.Module):
    """Inputs by position, logits alone as output: the form that `torch.onnx.export` takes."""

    def __init__(self, model, names):
        super().__init__()
        self.model = model
        self.names = names

    def forward(self, *inputs):
        return self.model(**dict(zip(self.names, inputs, strict=True))).logits


@contextmanager
def _quiet_exporter():
    # Tracing warns of every Python branch, and torch 2.9 and later of this exporter as such. The parity check judges.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.filterwarnings("ignore", message="Exporting aten::index operator", category=UserWarning)
        warnings.filterwarnings("ignore", message="Exporting a model to ONNX with a batch_size", category=UserWarning)
        yield


def _save_config(model, folder):
    model.config.dtype = torch.float32
    if type(model).__module__.startswith("transformers."):
        model.config.save_pretrained(folder)
        return
    # Only the whole model writes its code, and names all its classes in the configuration.
    model.save_pretrained(folder)
    for weights in folder.glob("*.safetensors*"):
        weights.unlink()
