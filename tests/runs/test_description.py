"""model.json: its text does not change, missing or strange parts are None, and other files are refused."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from world_models.runs import description
from world_models.runs.description import DataSet, Description, TrainedOn

ROLLOUTS = TrainedOn("rollouts", "rollouts/a", "d1", "Synthetic-v0", {"shade": 1}, [3, 5], 0)
DIGITS = TrainedOn("mnist", "data", "d2")
SETS = [DataSet("rollouts/a", "d1", "Synthetic-v0", {"shade": 1}, [3]), DataSet("rollouts/b", "d2", "B-v0", {}, [4, 5])]
SEVERAL = TrainedOn(data_digest="d3", split_seed=0, data_sets=SETS, data_weights=[1.0, 3.0])
SAID = {"format": "world_models.vae", "architecture": "conv_vae"}


def _described(trained_on: TrainedOn) -> Description:
    return Description("conv_vae", {"z_dim": 4, "hidden": [400]}, {"crop": [0, 84]}, {"torch": "2.9"}, trained_on, 7)


@pytest.mark.parametrize("trained_on", [ROLLOUTS, DIGITS], ids=["rollouts", "mnist"])
def test_a_saved_description_is_loaded_unchanged(tmp_path: Path, trained_on: TrainedOn):
    _described(trained_on).save(tmp_path)
    loaded = description.load(tmp_path)
    assert loaded == Description.from_json(json.loads((tmp_path / "model.json").read_text()))
    assert (loaded.vae, loaded.step, loaded.trained_on.data) == ({"z_dim": 4, "hidden": [400]}, 7, trained_on.data)


def test_the_keys_are_written_in_a_fixed_order(tmp_path: Path):
    _described(ROLLOUTS).save(tmp_path)
    head = ["format", "architecture", "vae", "preprocess", "versions", "dataset", "data", "data_digest"]
    keys = [*head, "env", "env_args", "train_seeds", "split_seed", "step"]
    assert list(json.loads((tmp_path / "model.json").read_text())) == keys


def test_the_description_of_a_digits_model_has_no_episodes(tmp_path: Path):
    _described(DIGITS).save(tmp_path)
    assert (
        not {"env", "env_args", "train_seeds", "split_seed"} & json.loads((tmp_path / "model.json").read_text()).keys()
    )


def test_several_data_sets_are_each_described(tmp_path: Path):
    _described(SEVERAL).save(tmp_path)
    assert description.load(tmp_path).trained_on == SEVERAL
    assert SEVERAL.sets == SETS
    written = json.loads((tmp_path / "model.json").read_text())
    assert [*written][5:] == ["dataset", "data_digest", "split_seed", "data_sets", "data_weights", "step"]
    assert written["data_sets"][1] == vars(SETS[1])


@pytest.mark.parametrize("trained_on", [ROLLOUTS, DIGITS], ids=["rollouts", "mnist"])
def test_a_single_data_set_is_one_of_one(trained_on: TrainedOn):
    (found,) = trained_on.sets
    assert vars(found).items() <= vars(trained_on).items()


@pytest.mark.parametrize("strange", [None, 5, "x", {"a": 1}], ids=str)
def test_sets_and_weights_of_another_type_count_as_not_said(strange: Any):
    found = Description.from_json({"data_sets": strange, "data_weights": strange}).trained_on
    assert (found.data_sets, found.data_weights) == (None, None)
    found = Description.from_json({"data_sets": [strange], "data_weights": ["x"]}).trained_on
    assert (found.data_sets, found.data_weights) == ([DataSet(env_args={})], None)


def test_older_descriptions_are_read_as_rollouts_without_environment_arguments():
    trained_on = Description.from_json(SAID | {"data": "rollouts/a"}).trained_on
    assert trained_on == TrainedOn("rollouts", "rollouts/a", env_args={})


@pytest.mark.parametrize("strange", [None, 3.5, True, [None], [True], [[1]], {"a": 1}, "x"], ids=str)
def test_values_of_another_type_count_as_missing(strange: Any):
    names = ("vae", "preprocess", "data", "data_digest", "env", "env_args", "train_seeds", "split_seed")
    found = Description.from_json(dict.fromkeys(names, strange))
    taken = {name: value for name, value in (vars(found) | vars(found.trained_on)).items() if name in names}
    fits = {str: ("data", "data_digest", "env"), dict: ("vae", "preprocess", "env_args")}.get(type(strange), ())
    assert {name for name, value in taken.items() if value is not None} == set(fits)


@pytest.mark.parametrize("strange", [None, 3, "x", []], ids=str)
def test_invalid_versions_are_read_as_no_versions(strange: Any):
    assert Description.from_json(SAID | {"versions": strange}).versions == {}


def test_a_missing_part_is_named():
    assert (
        str(description.missing_parts_error("runs/a", "data"))
        == "runs/a/model.json: lacks data, or it has another type; train the model again"
    )


def test_reading_a_description_does_not_import_torch():
    code = "import sys; import world_models.runs.records; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
