"""Data sets that Minari itself has written become rollouts."""

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import gymnasium
import h5py
import numpy as np
import pytest
from gymnasium import spaces

minari = pytest.importorskip("minari")
from minari.data_collector import EpisodeBuffer  # noqa: E402

from world_models.convert import command, formats, importing  # noqa: E402
from world_models.convert.config import ConvertConfig, Keys, MinariSettings  # noqa: E402
from world_models.convert.foreign import BrokenEpisodeError  # noqa: E402
from world_models.convert.formats.minari import MinariReader  # noqa: E402
from world_models.data.rollouts import Rollouts  # noqa: E402
from world_models.runtime.errors import Stopped  # noqa: E402

IMAGES = spaces.Box(0, 255, (64, 64, 3), np.uint8)
ACTIONS = spaces.Box(np.array([-1, 0], np.float32), np.array([1, np.inf], np.float32))
LENGTHS = (3, 5)


def images(steps: int, shape: tuple[int, ...] = (64, 64, 3)) -> np.ndarray:
    """Image t of an episode has the value 10 t + 1 everywhere, which JPEG keeps."""
    return np.stack([np.full(shape, 10 * t + 1, np.uint8) for t in range(steps + 1)])


def buffer(steps: int, observations: Any = None, actions: Any = None, **changed: Any) -> EpisodeBuffer:
    """Action t is (t, 2 t), its reward t / 2; the last step terminates."""
    last = np.arange(steps) == steps - 1
    arrays: dict[str, Any] = {
        "observations": images(steps) if observations is None else observations,
        "actions": np.array([[t, 2 * t] for t in range(steps)], np.float32) if actions is None else actions,
        "rewards": np.arange(steps) / 2,
        "terminations": last,
        "truncations": np.zeros(steps, bool),
        "infos": {},
    }
    return EpisodeBuffer(**{**arrays, **changed})


Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Lets Minari write a data set. Returns its folder."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "root"))

    def run(
        *buffers: EpisodeBuffer, observations: gymnasium.Space = IMAGES, actions: gymnasium.Space = ACTIONS, **more: Any
    ) -> Path:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about authors
            minari.create_dataset_from_buffers(
                "test/pictures-v0",
                list(buffers or map(buffer, LENGTHS)),
                observation_space=observations,
                action_space=actions,
                **{"jpeg_encoding": False, **more},
            )
        return tmp_path / "root/test/pictures-v0"

    return run


@pytest.fixture
def convert(tmp_path: Path) -> Callable[..., Rollouts]:
    def run(data: Path, *flags: str) -> Rollouts:
        command.main([*f"--data {data} --out {tmp_path}/out --executor serial".split(), *flags])
        return Rollouts(tmp_path / "out", verify=True)

    return run


def refusal(data: Path, tmp_path: Path, **settings: Any) -> str:
    """The line that says why a data set is refused. Nothing was written."""
    with pytest.raises(ValueError) as refused:
        command.prepare(ConvertConfig(str(data), str(tmp_path / "out"), executor="serial", **settings))
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "out").exists()
    return str(refused.value)


def change(data: Path, **metadata: Any) -> None:
    """Change the metadata; None removes an entry."""
    path = data / "data/metadata.json"
    found = json.loads(path.read_text()) | metadata
    path.write_text(json.dumps({name: value for name, value in found.items() if value is not None}))


def main_file(data: Path) -> Path:
    return data / "data/main_data.hdf5"


# --- what is read


@pytest.mark.parametrize("jpeg_encoding", [False, True])
def test_row_t_holds_observation_t_and_action_t(write, convert, jpeg_encoding):
    rollouts = convert(write(jpeg_encoding=jpeg_encoding))
    assert [len(episode) for episode in rollouts] == list(LENGTHS)
    for episode, steps in zip(rollouts, LENGTHS, strict=True):
        np.testing.assert_array_equal(episode.frames, images(steps))
        np.testing.assert_array_equal(episode.actions, [[t, 2 * t] for t in range(steps)])
        np.testing.assert_array_equal(episode.rewards, np.arange(steps) / 2)
        assert episode.policy == "minari"


def test_images_of_jpeg_of_one_length_or_of_several_are_those_that_minari_reads(write, convert):
    rng = np.random.default_rng(0)
    noise = cv2.blur(rng.integers(0, 256, (64, 64, 3), np.uint8), (5, 5))
    mixed = np.stack([noise, np.zeros_like(noise), noise])
    data = write(buffer(2, mixed), buffer(2, np.stack([noise] * 3)), jpeg_encoding=True)
    with h5py.File(main_file(data)) as file:
        stored = [file[f"episode_{number}/observations"] for number in range(2)]
        assert [isinstance(found, h5py.Dataset) and found.ndim for found in stored] == [1, 2]
    wanted = minari.load_dataset("test/pictures-v0")
    for episode, theirs in zip(convert(data), wanted, strict=True):
        np.testing.assert_array_equal(episode.frames, theirs.observations)


@pytest.mark.parametrize("shape", [(96, 80, 3), (40, 48, 1), (36, 32)])
def test_images_of_other_sizes_are_resized(write, convert, shape):
    data = write(buffer(3, images(3, shape)), observations=spaces.Box(0, 255, shape, np.uint8))
    np.testing.assert_array_equal(convert(data)[0].frames, images(3))


@pytest.mark.parametrize("ends", [(True, False), (False, True), (True, True)])
def test_both_kinds_of_end_are_kept(write, convert, ends):
    last = np.arange(3) == 2
    episode = convert(write(buffer(3, terminations=last & ends[0], truncations=last & ends[1])))[0]
    np.testing.assert_array_equal(episode.terminated, last & ends[0])
    np.testing.assert_array_equal(episode.truncated, last & ends[1])


def test_an_episode_without_an_end_is_truncated(write, convert):
    episode = convert(write(buffer(3, terminations=np.zeros(3, bool))))[0]
    assert episode.truncated.tolist() == [False, False, True]
    assert not episode.terminated.any()


@pytest.mark.parametrize(
    ("space", "actions", "columns", "described"),
    [
        (ACTIONS, np.array([[0, 1], [1, 5]], np.float32), [[0, 1], [1, 5]], {"type": "Box", "shape": [2]}),
        (spaces.Discrete(3, start=1), np.array([1, 3]), [[1], [3]], {"type": "Discrete", "n": 3, "start": 1}),
        (spaces.MultiDiscrete([3, 4]), np.array([[2, 3], [0, 1]]), [[2, 3], [0, 1]], {"type": "MultiDiscrete"}),
        (spaces.MultiBinary(2), np.array([[1, 0], [1, 1]], np.int8), [[1, 0], [1, 1]], {"type": "MultiBinary"}),
        (spaces.Box(-1, 1, (2, 1)), np.zeros((2, 2, 1)), [[0, 0], [0, 0]], {"type": "Box", "shape": [2, 1]}),
    ],
)
def test_actions_become_columns(write, convert, space, actions, columns, described):
    rollouts = convert(write(buffer(2, actions=actions), actions=space))
    np.testing.assert_array_equal(rollouts[0].actions, columns)
    assert described.items() <= rollouts.action_space.items()


def test_the_image_of_a_dict_is_chosen_by_its_name(write, convert):
    space = spaces.Dict({"state": ACTIONS, "cameras": spaces.Dict({"front": IMAGES, "back": IMAGES})})
    state = np.zeros((4, 2), np.float32)
    observations = {"state": state, "cameras": {"front": images(3), "back": images(3)[::-1]}}
    data = write(buffer(3, observations), observations=space)
    np.testing.assert_array_equal(convert(data, "--keys.frames", "cameras/back")[0].frames, images(3)[::-1])


def test_the_environment_is_known(write, convert):
    data = write()
    change(data, env_spec=gymnasium.registry["CarRacing-v3"].to_json())
    assert convert(data).env == "CarRacing-v3"


@pytest.mark.parametrize("env_spec", [None, 3, "{", '{"id": 3}', "[]", '{"id": "a\\nb"}'])
def test_an_unknown_environment_has_the_name_of_the_format(write, convert, env_spec):
    data = write()
    change(data, env_spec=env_spec)
    assert convert(data).env == "minari"


@pytest.mark.parametrize("place", [".", "data", "data/main_data.hdf5", ".."])
def test_a_data_set_is_found_by_each_of_its_folders_and_by_its_file(write, tmp_path, place):
    data = write()
    config = ConvertConfig(str((data / place).resolve()), str(tmp_path / "out"), executor="serial")
    name, source = formats.find(config)
    assert (name, source.description) == ("minari", "the Minari data set test/pictures-v0")
    job = command.prepare(config)
    assert isinstance(job, importing.ImportJob)
    assert job.num_frames == sum(LENGTHS) + 2


def test_a_finished_import_is_not_repeated(write, convert, capsys):
    data = write()
    convert(data)
    capsys.readouterr()
    convert(data)
    assert "all finished before" in capsys.readouterr().out


def test_images_are_read_block_by_block(write, convert, monkeypatch):
    monkeypatch.setattr("world_models.convert.formats.minari.BLOCK_BYTES", 30_000)
    np.testing.assert_array_equal(convert(write(buffer(9)))[0].frames, images(9))


# --- refused


@pytest.mark.parametrize(
    ("space", "shown"),
    [
        (spaces.Box(-1, 1, (3,)), "Box float32 [3]"),
        (spaces.Box(0, 255, (7, 7, 3), np.uint8), "Box uint8 [7, 7, 3]"),
        (spaces.Box(0, 255, (3, 64, 64), np.uint8), "Box uint8 [3, 64, 64]"),
        (spaces.Box(0, 1, (64, 64, 3)), "Box float32 [64, 64, 3]"),
        (spaces.Tuple([IMAGES]), "Tuple"),
        (spaces.Discrete(3), "Discrete int64"),
    ],
)
def test_observations_that_are_no_images_are_refused(write, tmp_path, space, shown):
    data = write()
    change(data, observation_space=minari.serialization.serialize_space(space))
    found = refusal(data, tmp_path)
    assert f"observations are {shown}, wanted images: uint8 (height, width, 3), or grey ones" in found


def test_a_dict_needs_the_name_of_the_image(write, tmp_path):
    data = write()
    space = spaces.Dict({"state": ACTIONS, "pixels": IMAGES})
    change(data, observation_space=minari.serialization.serialize_space(space))
    assert "observations are a dict of pixels, state; name an image by --keys.frames NAME" in refusal(data, tmp_path)
    for name in ("image", "pixels/deeper"):
        assert f"no {name} in observations" in refusal(data, tmp_path, keys=Keys(name))
    assert "observations/state are Box float32 [2], wanted images" in refusal(data, tmp_path, keys=Keys("state"))


def test_names_of_other_arrays_are_refused(write, tmp_path):
    data = write()
    assert "leave --keys.frames out" in refusal(data, tmp_path, keys=Keys("pixels"))
    assert "only keys.frames is for Minari" in refusal(data, tmp_path, keys=Keys("pixels", "actions"))


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"type": "Dict", "subspaces": {}}, "actions are a dict of nothing, wanted one of Box, Discrete"),
        ({"type": "Text"}, "actions are Text, wanted one of Box"),
        ({}, "actions are nothing, wanted one of Box"),
        ({"type": "x" * 300}, "..., wanted one of Box"),
        ({"type": "Discrete", "n": -1, "start": 0}, "action_space is no Discrete ("),
        ({"type": "Box", "dtype": "float32", "shape": [2], "low": ["a"], "high": []}, "action_space is no Box ("),
        ({"type": "MultiBinary", "n": 10_001}, "actions of more than 10,000 columns"),
    ],
)
def test_actions_that_are_no_columns_are_refused(write, tmp_path, space, message):
    data = write()
    change(data, action_space=json.dumps(space))
    assert message in refusal(data, tmp_path)


@pytest.mark.parametrize("wrong", ["", "[]", "[" * 100_000, "{"])
def test_metadata_that_are_no_json_object_are_refused(write, tmp_path, wrong):
    data = write()
    change(data, observation_space=wrong)
    assert "observation_space is no JSON object" in refusal(data, tmp_path)
    (data / "data/metadata.json").write_text(wrong)
    assert "it is no JSON object" in refusal(data, tmp_path)


def test_metadata_that_do_not_fit_the_file_are_refused(write, tmp_path):
    data = write()
    for count in (3, 0, "2"):
        change(data, total_episodes=count)
        assert f"metadata.json says {count} episodes, and the file holds 2; download" in refusal(data, tmp_path)


def test_a_damaged_file_is_refused(write, tmp_path):
    data = write()
    main_file(data).write_bytes(b"nothing")
    assert f"{main_file(data)}: cannot be read (" in refusal(data, tmp_path)


def test_several_data_sets_are_refused(write, tmp_path):
    data = write()
    (tmp_path / "root/other-v0/data").mkdir(parents=True)
    main_file(tmp_path / "root/other-v0").touch()
    assert "holds 2 Minari data sets, such as other-v0/data; name one" in refusal(data.parents[1], tmp_path)


def test_files_that_are_no_minari_data_set_are_refused(write, tmp_path):
    folder = tmp_path / "other"
    folder.mkdir()
    (folder / "main_data.hdf5").touch()
    assert "no main_data.hdf5 with metadata.json next to it" in refusal(folder, tmp_path)
    (folder / "main_data.hdf5").rename(folder / "a.arrow")
    assert "a data set in Arrow files, wanted HDF5" in refusal(folder, tmp_path)


def test_settings_for_writing_are_refused(write, tmp_path):
    found = refusal(write(), tmp_path, format="minari", minari=MinariSettings(author="me"))
    assert found == "minari is given, but it is for writing a Minari data set; leave --minari out"


# --- broken episodes


def damage(data: Path, name: str, values: Any) -> None:
    """Replace an array of the second episode; None removes it."""
    with h5py.File(main_file(data), "r+") as file:
        del file[f"episode_1/{name}"]
        if values is not None:
            file[f"episode_1/{name}"] = values


STEPS = LENGTHS[1]


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("actions", None, "no actions in it"),
        ("actions", np.zeros((STEPS, 3)), "actions is (5, 3), wanted 5 rows of 2 for 6 observations"),
        ("actions", np.zeros((STEPS + 1, 2)), "actions is (6, 2), wanted 5 rows"),
        ("actions", np.full((STEPS, 2), b"a"), "actions is |S1, wanted numbers"),
        ("rewards", np.zeros(1), "rewards is (1,), wanted 5 rows of 1"),
        ("rewards", 1.0, "rewards is a single value"),
        ("observations", np.zeros((6, 32, 32, 3), np.uint8), "observations is uint8 (6, 32, 32, 3), wanted uint8"),
        ("observations", np.zeros((6, 64, 64, 3)), "observations is float64"),
        ("observations", images(0), "1 observations, wanted 2 or more"),
    ],
)
def test_a_broken_episode_is_refused_by_its_name(write, tmp_path, name, values, message):
    data = write()
    damage(data, name, values)
    found = refusal(data, tmp_path)
    assert found.startswith(f"{main_file(data)}/episode_1: ")
    assert message in found


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("actions", np.full((STEPS, 2), np.nan), "actions holds numbers that are not finite in float32"),
        ("actions", np.full((STEPS, 2), 2**24 + 1), "actions holds whole numbers that are too large for float32"),
        ("rewards", np.full(STEPS, 1e40), "rewards holds numbers that are not finite"),
        ("terminations", np.ones(STEPS, bool), "terminations is set at step 0 of 5, wanted at the last one only"),
        ("truncations", np.arange(STEPS) == 3, "truncations is set at step 3 of 5"),
        ("observations", np.zeros((6, 10), np.uint8), "cannot be read (cannot identify image file"),
    ],
)
def test_broken_values_end_the_work_unless_they_are_skipped(write, convert, name, values, message):
    data = write()
    damage(data, name, values)
    with pytest.raises(Stopped) as stopped:
        convert(data)
    assert f"{main_file(data)}/episode_1: {message}" in str(stopped.value)
    rollouts = convert(data, "--skip_broken", "true")
    assert [len(episode) for episode in rollouts] == [LENGTHS[0]]


@pytest.mark.parametrize(("size", "mode"), [((32, 32), "RGB"), ((64, 64), "L")])
def test_jpeg_of_another_size_is_broken(write, convert, size, mode):
    data = write()
    picture = cv2.imencode(".jpg", np.zeros((*size, 3) if mode == "RGB" else size, np.uint8))[1].reshape(-1)
    damage(data, "observations", np.stack([picture] * (STEPS + 1)))
    with pytest.raises(Stopped, match=rf"an image is {size[0]}x{size[1]} {mode}, wanted \(64, 64, 3\)"):
        convert(data)


def test_telemetry_of_another_shape_is_broken(write):
    data = write(*(buffer(steps, infos={"telemetry": {"speed": np.arange(steps + 1.0)}}) for steps in LENGTHS))
    reader = MinariReader(main_file(data), "observations", (64, 64, 3), 2, ("speed",))
    telemetry = reader.open_episode("episode_1").telemetry
    assert telemetry is not None
    assert telemetry.tolist() == [[0], [1], [2], [3], [4], [5]]
    damage(data, "infos/telemetry/speed", np.zeros(3))
    with pytest.raises(BrokenEpisodeError, match=r"infos/telemetry has other shapes than \(6,\)"):
        reader.open_episode("episode_1")


def test_a_file_that_disappears_is_broken(write):
    data = write()
    reader = MinariReader(main_file(data), "observations", (64, 64, 3), 2)
    main_file(data).unlink()
    with pytest.raises(BrokenEpisodeError, match=r"^no such file any more$"):
        reader.count("episode_0")
