"""A stage is done once, a killed one starts over, and two runs never share a folder."""

import json
import subprocess
import sys
import zipfile

import numpy as np
import pytest

from distil_trainer.run_folder import RunFolder, last_complete_checkpoint


def test_a_finished_stage_is_not_built_again(tmp_path):
    calls = []

    def build(path):
        calls.append(path)
        path.write_text("done")

    for _ in range(2):
        run = RunFolder(tmp_path / "out", {"seed": 1})
        assert run.once("stage.txt", build).read_text() == "done"
    assert len(calls) == 1


def test_a_stage_that_fails_leaves_nothing_under_its_name_and_starts_over(tmp_path):
    run = RunFolder(tmp_path / "out", {"seed": 1})

    def fail(path):
        path.mkdir()
        (path / "half").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run.once("stage", fail)
    assert not run.is_finished("stage")

    def build(path):
        path.mkdir()
        (path / "whole").write_text("whole")

    assert [file.name for file in run.once("stage", build).iterdir()] == ["whole"]


def test_arrays_and_values_come_back_as_they_were(tmp_path):
    run = RunFolder(tmp_path / "out", {})
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    for build in (lambda: array, lambda: 1 / 0):
        assert np.array_equal(run.array("logits/a", build), array)
    for build in (lambda: {"a": [1, 2.5]}, lambda: 1 / 0):
        assert run.value("facts", build) == {"a": [1, 2.5]}


def test_a_file_is_refused_as_output_folder(tmp_path):
    (tmp_path / "out").write_text("a file")
    with pytest.raises(ValueError, match="output_dir='.*out' is a file"):
        RunFolder(tmp_path / "out", {})


def test_a_folder_that_holds_another_run_is_refused_with_the_difference(tmp_path):
    RunFolder(tmp_path / "out", {"seed": 1, "copies": 2}).value("facts", lambda: 1)
    with pytest.raises(
        ValueError, match=r"holds another run \(copies: 2 there, 3 now; .*seed: 1 there, 'not given' now"
    ):
        RunFolder(tmp_path / "out", {"copies": 3})


def test_a_run_without_a_finished_stage_gives_way_to_a_corrected_one(tmp_path):
    RunFolder(tmp_path / "out", {"teacher": "tpyo"})
    RunFolder(tmp_path / "out", {"teacher": "typo"}).value("facts", lambda: 1)
    assert json.loads((tmp_path / "out/work/run.json").read_text()) == {"teacher": "typo"}


def test_a_folder_with_foreign_files_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("do not overwrite")
    with pytest.raises(ValueError, match="is not empty and holds no run"):
        RunFolder(tmp_path, {})


def test_only_a_checkpoint_written_to_its_end_counts(tmp_path):
    for step in (5, 10, 20):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        zipfile.ZipFile(folder / "rng_state.pth", "w").close()
        (folder / "trainer_state.json").write_text("{}")
    (tmp_path / "checkpoint-20/trainer_state.json").write_text('{"global')
    assert last_complete_checkpoint(tmp_path) == str(tmp_path / "checkpoint-10")
    (tmp_path / "checkpoint-10/rng_state.pth").write_bytes(b"torn")
    assert last_complete_checkpoint(tmp_path) == str(tmp_path / "checkpoint-5")
    assert last_complete_checkpoint(tmp_path / "absent") is None


def test_a_folder_in_which_a_run_is_going_is_refused(tmp_path):
    run = RunFolder(tmp_path / "out", {})
    code = f"from distil_trainer.run_folder import RunFolder; RunFolder({str(tmp_path / 'out')!r}, {{}})"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "is in use by a run that is still going" in other.stderr
    assert RunFolder(tmp_path / "out", {}).folder == run.folder  # this process may go on
