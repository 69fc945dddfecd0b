"""Modules import only what stands to their left in the pipeline; recipes use public names; importing is cheap."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import distil_trainer

ROOT = Path(distil_trainer.__file__).parent
# Each line stands to the right of the lines above it.
PIPELINE = [
    ["students", "runtime", "latency"],
    [
        "text",
        "tasks",
        "columns",
        "labels",
        "headline",
        "recipe_task",
        "run_folder",
        "data",
        "losses",
        "sampler",
        "schedules",
        "term_means",
    ],
    ["bootstrap", "processes", "shared_folder"],
    ["alignment", "states"],
    ["input_checks"],
    ["inference", "matches", "matching", "arguments", "command_line", "compatibility"],
    ["unlabelled", "mixing", "sharded_map", "teacher_key"],
    ["loading", "small_tokenizers"],
    ["augmentation"],
    ["label_store", "labeled_dataset", "labeling"],
    ["vectors"],
    ["collator", "label_columns", "training_data"],
    ["pseudo_labels"],
    ["transfer_rows", "transfer_filter", "transfer_audit"],
    ["evaluate_metrics", "metrics"],
    ["objective", "projections", "teachers", "interruption", "loss_plan"],
    ["preflight"],
    ["data_preparation", "training_events"],
    ["trainer"],
    ["fine_tuning", "scratch_teacher", "pruning"],
    ["evaluation", "scores", "calibration", "cascade"],
    ["export"],
    [
        "wording",
        "report",
        "transfer_words",
        "conclusions",
        "tables",
        "plots",
        "audit_tables",
        "audit_plot",
        "model_card",
        "hub",
    ],
    ["latency_benchmark"],
    ["meta_pseudo_labels"],
    ["transfer_arguments", "pruning_arguments", "recipe_arguments", "hyper_parameters"],
    [
        "opening",
        "fresh_teacher",
        "stages",
        "self_training",
        "meta_teaching",
        "teaching",
        "generated_rows",
        "transfer_set",
        "closing",
        "fresh_student",
        "pruned_student",
        "control",
    ],
    ["recipe"],
]
RANK = {name: rank for rank, names in enumerate(PIPELINE) for name in names}


def _imports(path):
    """Return the modules of our package that a file imports, whether at its head or inside of a function."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            names.add(("." * node.level) + node.module)
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return names


MODULES = sorted(
    path.relative_to(ROOT) for path in ROOT.rglob("*.py") if path.name != "__init__.py" or path.parent != ROOT
)


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_a_module_imports_only_what_stands_to_its_left(module):
    own = module.parts[0].removesuffix(".py")
    imported = {name.split(".")[1] for name in _imports(ROOT / module) if name.startswith("distil_trainer.")}
    assert own in RANK, f"{own} has no place in the pipeline"
    wrong = {name for name in imported - {own} if RANK[name] > RANK[own]}
    assert not wrong, f"{module} imports {wrong} from its right"


@pytest.mark.parametrize("module", [path for path in MODULES if path.parts[0] == "students"], ids=str)
def test_students_import_only_torch_and_transformers(module):
    outside = {name.split(".")[0] for name in _imports(ROOT / module)} - set(sys.stdlib_module_names)
    assert {name for name in outside if name} <= {"torch", "transformers", "distil_trainer"}


@pytest.mark.parametrize("recipe", sorted((ROOT.parent / "recipes").glob("*.py")), ids=lambda path: path.name)
def test_recipes_use_public_names_only(recipe):
    for node in ast.walk(ast.parse(recipe.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("distil_trainer"):
            assert node.module == "distil_trainer"
            assert {alias.name for alias in node.names} <= set(distil_trainer.__all__)


def test_every_public_name_can_be_imported():
    for name in distil_trainer.__all__:
        assert getattr(distil_trainer, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        distil_trainer.nonsense  # noqa: B018


def test_importing_the_package_loads_no_heavy_library():
    code = "import distil_trainer, sys; print([m for m in ('torch', 'transformers', 'datasets', 'spacy') if m in sys.modules])"  # noqa: E501
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
