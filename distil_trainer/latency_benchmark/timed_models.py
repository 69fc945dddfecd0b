"""What is timed: a shipped folder, an ONNX file, a folder for PyTorch, or a model that is in memory."""

import json
import os
from dataclasses import dataclass
from pathlib import Path, PurePath

from transformers import AutoTokenizer, PreTrainedModel

from distil_trainer.export.onnx import check_installed, onnx_runner
from distil_trainer.inference import predict_logits, torch_runner
from distil_trainer.latency import latency_samples
from distil_trainer.latency_benchmark.timed_tokenizers import PaddedTokenizer, ServedTokenizer
from distil_trainer.loading import load_classifier


@dataclass
class TimedModel:
    """A model that is ready to be timed.

    Args:
        name (`str`): what the table calls it.
        engine (`str`): `"PyTorch"` or `"ONNX Runtime"`.
        tokenizer (`Callable`): called as a tokenizer of transformers is.
        place (`str`, *optional*): the folder, Hub id or ONNX file, from which another process can load it.
        model (`PreTrainedModel`, *optional*): of PyTorch.
        text_pair (`bool`, *optional*): whether it was shipped for pairs; `None` where nothing says so.
    """

    name: str
    engine: str
    tokenizer: object
    place: str | None = None
    model: PreTrainedModel | None = None
    text_pair: bool | None = None

    def runner(self, threads):
        """Make a runner (see `distil_trainer.inference`). An ONNX session has its number of threads for life."""
        return onnx_runner(self.place, threads) if self.model is None else torch_runner(self.model)


def open_models(models, *, trust_remote_code=False):
    """Load everything that is to be timed.

    Args:
        models (`list` or `dict`): as in `benchmark_latency`.
        trust_remote_code (`bool`, *optional*, defaults to `False`): run the Python files of model folders.

    Returns:
        `list[TimedModel]`

    Raises:
        TypeError: if `models` is no list of paths and no dictionary of paths or pairs.
        ValueError: if there are none, one stands twice, or a folder has several ONNX files and no word of which.
        FileNotFoundError: if a path leads to no model.
        OSError, ValueError: what `load_classifier` raises.
    """
    if isinstance(models, (str, os.PathLike)) or not hasattr(models, "__iter__"):
        raise TypeError(
            f"models={models!r} is of type {type(models).__name__}: give a list of paths, or a dictionary from names "
            "to paths or to (model, tokenizer)."
        )
    if not isinstance(models, dict):
        models = list(models)
        in_memory = [given for given in models if not isinstance(given, (str, os.PathLike))]
        if in_memory:
            raise TypeError(
                f"models holds a {type(in_memory[0]).__name__}, which has no name: give models in memory as a "
                'dictionary, {"student": (model, tokenizer)}.'
            )
        models = dict(zip(_short_names([find_place(path) for path in models]), models, strict=True))
    if not models:
        raise ValueError("models is empty: there is nothing to time. Give at least one folder or ONNX file.")
    return [_open(name, given, trust_remote_code) for name, given in models.items()]


def open_place(place, name, *, trust_remote_code):
    """Load the model of a place that `find_place` found, as `TimedModel`."""
    if not place.endswith(".onnx"):
        model, tokenizer = load_classifier(place, trust_remote_code=trust_remote_code)
        return TimedModel(name, "PyTorch", tokenizer, place, model)
    check_installed()
    folder = Path(place).parent
    serving = _read_report(folder).get("serving")
    if serving and (folder / "tokenizer.json").is_file():
        tokenizer = ServedTokenizer(folder / "tokenizer.json", serving)
        return TimedModel(name, "ONNX Runtime", tokenizer, place, text_pair=serving["text_pair"])
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise FileNotFoundError(
            f"{place} has no tokenizer beside it that can be loaded (the cause is above). Tokens of another tokenizer "
            "would be of other number, and the times those of other texts: save the model's own in that folder."
        ) from error
    return TimedModel(name, "ONNX Runtime", tokenizer, place)


def find_place(path):
    """Find what a path stands for.

    Args:
        path (`str` or `os.PathLike`): an ONNX file; a folder that `ship` wrote, which stands for the file it chose; a
            folder whose only model is one ONNX file; a folder of `save_pretrained`; or a Hub id.

    Returns:
        `str`: the ONNX file, else what `load_classifier` takes.

    Raises:
        FileNotFoundError: if there is no such file, or the folder holds no model.
        ValueError: if the folder has several ONNX files, and none is named as chosen.
    """
    given, path = os.fspath(path), Path(path)
    if path.suffix == ".onnx":
        if not path.is_file():
            raise FileNotFoundError(f"{str(path)!r} is not a file: give the path of an ONNX file, or its folder.")
        return os.path.abspath(path)
    if not path.is_dir():
        return given  # a Hub id, or load_classifier says what is missing
    chosen = _read_report(path).get("chosen")
    files = [path / chosen] if chosen else sorted(path.glob("*.onnx"))
    if chosen and not files[0].is_file():
        raise FileNotFoundError(
            f"{path / 'report.json'} says that {chosen} was chosen, and it is not there: the folder is not whole. "
            "Copy or download it again."
        )
    has_weights = any(path.glob("*.safetensors")) or any(path.glob("*.bin"))
    if chosen or (len(files) == 1 and not has_weights):
        return os.path.abspath(files[0])
    if has_weights:
        return os.path.abspath(path)
    if not files:
        raise FileNotFoundError(
            f"{str(path)!r} holds neither an ONNX file nor weights for PyTorch: it is no folder of `ship` and no "
            "model folder. In a recipe's output the folder of `ship` is named onnx."
        )
    raise ValueError(
        f"{str(path)!r} holds {', '.join(file.name for file in files)} and no report.json that says which was chosen: "
        "give the file itself."
    )


def check_reads(timed, text, pair, *, max_length, pad_to):
    """Let a model read one text, alone and padded, before anything is timed.

    Args:
        timed (`TimedModel`): the model.
        text, pair (`str`): the longest text, and its second text or `None`.
        max_length (`int`): tokens kept.
        pad_to (`int`): tokens when padded, or `None`.

    Raises:
        ValueError: if the model cannot read so many tokens, or was shipped for pairs and reads single texts, or the
            other way round; and what its runner and its tokenizer raise.
    """
    if timed.text_pair not in (None, pair is not None):
        raise ValueError(
            f"{timed.name} was shipped for {'pairs of texts' if timed.text_pair else 'single texts'}, and text_pairs "
            f"is {'None' if timed.text_pair else 'given'}: its times would be those of other inputs than it serves."
        )
    runner, pairs = timed.runner(1), None if pair is None else [pair]
    reading = [
        (
            "max_length",
            max_length,
            lambda: predict_logits(runner, timed.tokenizer, [text], pairs, max_length=max_length),
        )
    ]
    if pad_to is not None:
        padded = {"": (runner, PaddedTokenizer(timed.tokenizer, pad_to))}
        reading.append(
            ("pad_to", pad_to, lambda: latency_samples(padded, [text], pairs, threads=1, max_length=pad_to))
        )
    for option, tokens, read in reading:
        try:
            read()
        except ValueError:
            raise  # says itself what does not fit
        except Exception as error:  # onnxruntime's errors have no class in common but this one
            raise ValueError(
                f"{option}={tokens}: {timed.name} cannot read a text of up to so many tokens (the cause is above). "
                f"Give {option} the number that it can read, often `model.config.max_position_embeddings`."
            ) from error


def _open(name, given, trust_remote_code):
    if isinstance(given, (str, os.PathLike)):
        return open_place(find_place(given), name, trust_remote_code=trust_remote_code)
    if not (isinstance(given, tuple) and len(given) == 2 and isinstance(given[0], PreTrainedModel)):
        raise TypeError(
            f"models[{name!r}] is a {type(given).__name__}: give the path of a model, or a pair (model, tokenizer) of "
            "PyTorch."
        )
    model, tokenizer = given
    if model.device.type != "cpu":
        raise ValueError(
            f"models[{name!r}] lies on {model.device}: threads and cores mean nothing there, and beside models on the "
            'CPU its times would mislead. Move it: model.to("cpu").'
        )
    return TimedModel(name, "PyTorch", tokenizer, model=model)


def _short_names(places):
    """Name each place by the last parts of its path, as many as tell all of them apart."""
    twice = {place for place in places if places.count(place) > 1}
    if twice:
        raise ValueError(
            f"models has {', '.join(sorted(twice))} twice (a folder of `ship` stands for the file it chose): two "
            "lines of the table would be of one model. Give each once."
        )
    # A file's name says little without the two folders above: those of `ship` are often all named onnx.
    shown = [3 if place.endswith(".onnx") else 1 for place in places]
    while True:
        names = [str(PurePath(*PurePath(place).parts[-count:])) for place, count in zip(places, shown, strict=True)]
        if len(set(names)) == len(names):
            return names
        shown = [count + 1 for count in shown]


def _read_report(folder):
    try:
        report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return report if isinstance(report, dict) else {}
