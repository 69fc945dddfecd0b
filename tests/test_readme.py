"""The README's commands exist, and its Python block runs unmodified against a server that speaks the Hub's API."""

import json
import re
from pathlib import Path

import pytest
from foreign_tokenizers import byte_level_tokenizer
from hub_server import HubServer, hub_fixture  # noqa: F401
from transformers import DistilBertConfig, DistilBertForSequenceClassification

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def _blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_every_make_target_and_recipe_that_the_readme_names_is_there():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^make ([\w-]+)", "\n".join(_blocks("bash")), flags=re.MULTILINE))
    assert {"demo", "test"} <= targets
    assert all(re.search(rf"^{target}:", makefile, flags=re.MULTILINE) for target in targets)
    recipes = set(re.findall(r"`(\w+\.py)`", README)) | set(re.findall(r"recipes/(\w+\.py)", README))
    assert recipes and all((ROOT / "recipes" / recipe).is_file() for recipe in recipes)


def test_the_options_of_the_readmes_recipe_command_are_legal(tmp_path):
    from distil_trainer import RECIPE_ARGUMENTS, parse_arguments

    (command,) = [block for block in _blocks("bash") if "accelerate launch" in block]
    words = command.replace("\\\n", " ").split()
    training, data, models, augmentation, _, _ = parse_arguments(RECIPE_ARGUMENTS, words[3:])
    assert models.student_layers == [2, 4, 6] and augmentation.copies == 2
    assert training.num_train_epochs == 1 and data.train_file == "train.parquet"


def test_the_readmes_yaml_is_legal(tmp_path):
    from distil_trainer import DistillationArguments, parse_arguments

    (block,) = _blocks("yaml")
    (tmp_path / "config.yaml").write_text(block)
    words = ["--output_dir", str(tmp_path / "out"), str(tmp_path / "config.yaml")]
    (arguments,) = parse_arguments(DistillationArguments, words)
    assert arguments.final_temperature == 1.0 and arguments.distils_states
    assert [match["what"] for match in arguments.matches] == ["attentions", "cls_states", "pooled_states"]


@pytest.fixture
def served(hub, tmp_path, teacher, tokenizer, reviews):
    """The loopback Hub, with tiny models and data under the ids that the README names."""
    for split in ("train", "validation"):
        folder = tmp_path / "sst2" / "data"
        folder.mkdir(parents=True, exist_ok=True)
        rows = reviews if split == "train" else reviews.map(lambda row: {"sentence": row["sentence"] + " really"})
        rows.to_parquet(folder / f"{split}-00000-of-00001.parquet")
    hub.add_repo("dataset", "stanfordnlp/sst2", tmp_path / "sst2")
    teacher.save_pretrained(tmp_path / "electra")
    tokenizer.save_pretrained(tmp_path / "electra")
    hub.add_repo("model", "howey/electra-large-sst2", tmp_path / "electra")
    return hub


def test_the_readmes_dozen_lines_run_unmodified(served, tmp_path):
    spacy = pytest.importorskip("spacy")
    block = _blocks("python")[0]
    # spaCy finds a pipeline by the name of a folder as well as by the name of a package.
    work = tmp_path / "work"
    work.mkdir()
    _tiny_pipeline(spacy).to_disk(work / "en_core_web_sm")

    result = served.run(f"import os\nos.chdir({str(work)!r})\n{block}\nprint(teacher.config._commit_hash)", tmp_path)
    assert result.returncode == 0, result.stderr[-3000:]
    assert _shipped(work / "out/onnx")
    assert re.fullmatch("[0-9a-f]{40}", result.stdout.split()[-1])  # the teacher's revision is known
    pushed = served.files("model", "me/electra-small-sst2")
    assert pushed["model.safetensors"] == (work / "out/model.safetensors").read_bytes()


def _shipped(folder):
    """Whether the float file and the chosen one are there; on 48 rows, the processor decides which passes."""
    chosen = json.loads((folder / "report.json").read_text(encoding="utf-8"))["chosen"]
    return {"model.onnx", chosen} <= {path.name for path in folder.iterdir()}


def test_the_readmes_transfer_set_is_made_unmodified(served, tmp_path):
    block = _blocks("python")[1]
    lines = [f"comment {number} is about quite another thing" for number in range(40)]
    (tmp_path / "comments.txt").write_text("\n".join(lines))
    result = served.run(f"import os\nos.chdir({str(tmp_path)!r})\n{block}\nprint(len(transfer_set))", tmp_path)
    assert result.returncode == 0, result.stderr[-3000:]
    assert "mask" in result.stdout and "unlabelled" in result.stdout and int(result.stdout.split()[-1]) > 40


@pytest.mark.slow
def test_the_readmes_two_tokenizers_run_unmodified(served, tmp_path):
    block = _blocks("python")[2]
    tokenizer = byte_level_tokenizer()
    student = DistilBertForSequenceClassification(
        DistilBertConfig(
            vocab_size=len(tokenizer), dim=16, n_layers=2, n_heads=2, hidden_dim=32, max_position_embeddings=512
        )
    )
    student.save_pretrained(tmp_path / "distilbert")
    tokenizer.save_pretrained(tmp_path / "distilbert")
    served.add_repo("model", "distilbert/distilbert-base-uncased", tmp_path / "distilbert")
    result = served.run(f"import os\nos.chdir({str(tmp_path)!r})\n{block}\nprint(trainer.evaluate())", tmp_path)
    assert result.returncode == 0, result.stderr[-3000:]
    assert "eval_perplexity" in result.stdout.splitlines()[-1]


def test_the_readmes_student_that_is_no_transformer_runs_unmodified(served, tmp_path):
    _, _, _, block, _ = _blocks("python")
    result = served.run(f"import os\nos.chdir({str(tmp_path)!r})\n{block}\nprint(classify('good film'))", tmp_path)
    assert result.returncode == 0, result.stderr[-3000:]
    assert "'label': '" in result.stdout.splitlines()[-1]
    assert _shipped(tmp_path / "out/onnx") and (tmp_path / "out/onnx/bilstm.py").is_file()
    assert (tmp_path / "out/student/bilstm.py").is_file()


def test_the_readmes_pruning_runs_unmodified(served, tmp_path):
    _, _, _, _, block = _blocks("python")
    code = f"import os\nos.chdir({str(tmp_path)!r})\n{block}\nprint(model.num_parameters(), small.num_parameters())"
    result = served.run(code, tmp_path)
    assert result.returncode == 0, result.stderr[-3000:]
    whole, cut = map(int, result.stdout.split()[-2:])
    assert cut < whole and _shipped(tmp_path / "out/onnx")


def _tiny_pipeline(spacy):
    nlp = spacy.blank("en")
    tagger = nlp.add_pipe("tagger")
    for tag in ("A", "B"):
        tagger.add_label(tag)
    words = ["good", "film"]
    example = spacy.training.Example.from_dict(nlp.make_doc(" ".join(words)), {"words": words, "tags": ["A", "B"]})
    nlp.initialize(lambda: [example])
    return nlp
