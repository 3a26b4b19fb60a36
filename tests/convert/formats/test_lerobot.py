"""LeRobot data sets whose answer is known become rollouts. They are written in LeRobot's documented layouts."""

import builtins
import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("pyarrow")

from lerobot_files import CAMERA, FPS, change_info, columns, pictures, table, write, write_table, write_video

from world_models.convert import command, formats
from world_models.convert.config import ConvertConfig, LerobotSettings
from world_models.convert.foreign import Source
from world_models.data.rollouts import Rollouts
from world_models.runtime.errors import Stopped

LENGTHS = (4, 6, 3)
needs_av = pytest.mark.skipif(importlib.util.find_spec("av") is None, reason="PyAV is not installed")


@pytest.fixture
def convert(tmp_path: Path) -> Callable[..., Rollouts]:
    def run(*flags: str) -> Rollouts:
        command.main([*f"--data {tmp_path}/in --out {tmp_path}/out --executor serial".split(), *flags])
        return Rollouts(tmp_path / "out", verify=True)

    return run


def refusal(tmp_path: Path, **settings: Any) -> str:
    """The line that says why a data set is refused. Nothing was written."""
    with pytest.raises(ValueError) as refused:
        command.prepare(ConvertConfig(str(tmp_path / "in"), str(tmp_path / "out"), executor="serial", **settings))
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "out").exists()
    return str(refused.value)


def found_in(tmp_path: Path) -> Source:
    return formats.find(ConvertConfig(str(tmp_path / "in"), str(tmp_path / "out")))[1]


# --- what is read


@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
@pytest.mark.parametrize("is_video", [False, pytest.param(True, marks=needs_av)])
def test_row_t_holds_frame_t_and_the_action_after_it(convert, tmp_path, version, is_video):
    write(tmp_path / "in", version, LENGTHS, is_video)
    rollouts = convert()
    assert [len(episode) for episode in rollouts] == [rows - 1 for rows in LENGTHS]
    for number, episode in enumerate(rollouts):
        steps, wanted = np.arange(LENGTHS[number] - 1), pictures(number, LENGTHS[number])
        error = np.abs(episode.frames[:, :1, :1].astype(int) - wanted[:, :1, :1])
        assert error.max() <= (6 if is_video else 0)  # of lossy packing; frames differ by 20
        np.testing.assert_array_equal(episode.actions, np.stack([steps, 2 * steps + 100 * number], 1))
        np.testing.assert_array_equal(episode.rewards, steps / 2)
        np.testing.assert_array_equal(episode.telemetry[:, 1], -np.arange(LENGTHS[number]))
        assert (episode.terminated.any(), episode.truncated[-1]) == (False, True)  # the last row's end is lost
    assert (rollouts.env, rollouts.telemetry_names) == ("CarRacing-v3", ("left", "right"))


def last_two(episode: int, rows: int) -> np.ndarray:
    return np.arange(rows) >= rows - 2


def never(episode: int, rows: int) -> np.ndarray:
    return np.zeros(rows, bool)


def absent(episode: int, rows: int) -> None:
    return None


@pytest.mark.parametrize(
    ("flags", "ends"),
    [
        ({}, (False, True)),
        ({"next__done": absent}, (False, True)),
        ({"next__done": last_two}, (True, False)),
        ({"next__done": last_two, "next__truncated": never}, (True, False)),
        ({"next__done": last_two, "next__truncated": last_two}, (False, True)),
        ({"next__done": last_two, "next__truncated": last_two, "next__terminated": last_two}, (True, True)),
        ({"next__done": last_two, "next__truncated": never, "next__terminated": never}, (False, True)),
    ],
)
def test_ends_are_those_of_the_last_row_but_one(convert, tmp_path, flags, ends):
    write(tmp_path / "in", **flags)
    for episode in convert():
        assert (episode.terminated[-1], episode.truncated[-1]) == ends
        assert not (episode.terminated[:-1] | episode.truncated[:-1]).any()


def test_a_data_set_without_actions_and_state_has_frames_alone(convert, tmp_path):
    write(tmp_path / "in", action=absent, observation__state=absent, next__reward=absent)
    episode = convert()[1]
    assert (episode.actions.shape, episode.telemetry.shape) == ((5, 0), (6, 0))
    assert not episode.rewards.any()


@pytest.mark.parametrize("shape", [(), (1,), (2, 3)])
def test_numbers_may_be_single_or_in_lists_of_lists(convert, tmp_path, shape):
    def values(episode: int, rows: int) -> np.ndarray:
        return np.arange(rows * int(np.prod(shape)), dtype=np.int64).reshape(rows, *shape)

    def listed(episode: int, rows: int) -> Any:
        return values(episode, rows) if len(shape) < 2 else nested(values(episode, rows))

    write(tmp_path / "in", action=listed)
    width = int(np.prod(shape))
    info = json.loads((tmp_path / "in/meta/info.json").read_text())["features"]
    change_info(tmp_path / "in", features=info | {"action": {"dtype": "int64", "shape": list(shape or (1,))}})
    np.testing.assert_array_equal(convert()[1].actions, np.arange(5 * width).reshape(5, width))


def nested(values: np.ndarray) -> np.ndarray:
    """Rows of lists of lists, which pyarrow takes from an array of objects."""
    rows = np.empty(len(values), object)
    rows[:] = [row.tolist() for row in values]
    return rows


def test_episodes_in_one_row_group_are_read_a_few_rows_at_a_time(convert, tmp_path, monkeypatch):
    from pyarrow import parquet

    write(tmp_path / "in", files=[(0, 1, 2)])
    path = tmp_path / "in/data/chunk-000/file-000.parquet"
    parquet.write_table(parquet.read_table(path), path)
    monkeypatch.setattr("world_models.convert.parquet_arrays.ROWS", 3)
    monkeypatch.setattr("world_models.convert.parquet_arrays.PICTURES", 2)
    for number, episode in enumerate(convert()):
        np.testing.assert_array_equal(episode.frames[:, 0, 0], pictures(number, LENGTHS[number])[:, 0, 0])
        np.testing.assert_array_equal(episode.actions[:, 0], np.arange(LENGTHS[number] - 1))


@pytest.mark.parametrize("is_video", [False, pytest.param(True, marks=needs_av)])
def test_what_lerobot_has_written_is_read(convert, tmp_path, is_video):
    """LeRobot packs videos as AV1, several episodes in a file."""
    datasets = pytest.importorskip("lerobot.datasets.lerobot_dataset")
    camera = {"dtype": "video" if is_video else "image", "shape": (48, 64, 3), "names": ["height", "width", "channels"]}
    kinds = {"action": ((2,), "float32"), "next.reward": ((1,), "float32"), "next.done": ((1,), "bool")}
    features = {name: {"dtype": dtype, "shape": shape, "names": None} for name, (shape, dtype) in kinds.items()}
    theirs = datasets.LeRobotDataset.create(
        "in", FPS, {CAMERA: camera, **features}, root=tmp_path / "in", use_videos=is_video
    )
    for number, rows in enumerate(LENGTHS):
        found = columns(number, rows, 0)
        for t, picture in enumerate(pictures(number, rows)):
            theirs.add_frame(
                {CAMERA: picture, **{name: found[name][t].reshape(kinds[name][0]) for name in kinds}, "task": "drive"}
            )
        theirs.save_episode()
    theirs.finalize()
    for number, episode in enumerate(convert()):
        wanted = pictures(number, LENGTHS[number])[:, :1, :1]
        assert np.abs(episode.frames[:, :1, :1].astype(int) - wanted).max() <= (6 if is_video else 0)
        np.testing.assert_array_equal(episode.actions, columns(number, LENGTHS[number], 0)["action"][:-1])


@needs_av
def test_a_picture_is_that_of_the_timestamp(convert, tmp_path):
    """The video has a picture more at its beginning than rows."""
    write(
        tmp_path / "in", "v2.1", (4,), True, timestamp=lambda _, rows: ((np.arange(rows) + 1) / FPS).astype(np.float32)
    )
    path = tmp_path / f"in/videos/chunk-000/{CAMERA}/episode_000000.mp4"
    write_video(path, pictures(0, 5))
    assert np.abs(convert()[0].frames[:, 0, 0, 0].astype(int) - [30, 50, 70, 90]).max() <= 6


def test_new_episodes_are_added(convert, tmp_path):
    write(tmp_path / "in", "v2.1", (4, 6))
    before = convert("--episodes_per_shard", "2").seeds
    write(tmp_path / "in", "v2.1", (4, 6, 3, 5))
    after = convert("--episodes_per_shard", "2")
    np.testing.assert_array_equal(after.seeds[:2], before)
    assert after.lengths.tolist() == [4, 6, 3, 5]


@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        (["x", "y"], ("x", "y")),
        ({"y": 1, "x": 0}, ("x", "y")),
        (None, ("state_0", "state_1")),
        (["x", "x"], ("state_0", "state_1")),
        (["x"], ("state_0", "state_1")),
        (["x\n", "y"], ("state_0", "state_1")),
    ],
)
def test_names_of_the_state_name_the_telemetry(tmp_path, names, wanted):
    write(tmp_path / "in", lengths=(3,), files=[(0,)])
    info = json.loads((tmp_path / "in/meta/info.json").read_text())["features"]
    info["observation.state"]["names"] = names
    change_info(tmp_path / "in", features=info)
    assert found_in(tmp_path).telemetry == wanted


@pytest.mark.parametrize("robot", ["unknown", None, " ", "a\nb"])
def test_an_unknown_robot_is_no_environment(tmp_path, robot):
    write(tmp_path / "in", lengths=(3,), files=[(0,)])
    change_info(tmp_path / "in", robot_type=robot)
    assert found_in(tmp_path).env is None


def test_an_empty_file_of_episodes_is_passed_over(tmp_path):
    from pyarrow import parquet

    path = write(tmp_path / "in") / "meta/episodes/chunk-000/file-000.parquet"
    parquet.write_table(parquet.read_table(path).slice(0, 0), path.with_name("file-001.parquet"))
    assert found_in(tmp_path).names == ("episode_000000", "episode_000001", "episode_000002")


# --- one camera of several


@pytest.fixture
def two_cameras(tmp_path: Path) -> Path:
    """A data set with a second camera, whose pictures are black, and a third one of distances."""
    write(tmp_path / "in", lengths=(3,), files=[(0,)])
    info = json.loads((tmp_path / "in/meta/info.json").read_text())["features"]
    more = {"observation.images.black": info[CAMERA], "depth": info[CAMERA] | {"info": {"video.is_depth_map": True}}}
    change_info(tmp_path / "in", features=info | more)
    found = table(columns(0, 3, 0), pictures(0, 3))
    black = table({}, np.zeros((3, 48, 64, 3), np.uint8))
    write_table(
        tmp_path / "in/data/chunk-000/file-000.parquet",
        [found.append_column("observation.images.black", black.column(0))],
    )
    return tmp_path / "in"


@pytest.mark.parametrize(("camera", "value"), [("black", 0), ("observation.images.black", 0), ("top", 10)])
def test_a_camera_is_chosen_by_its_name(convert, two_cameras, camera, value):
    assert (convert("--camera", camera)[0].frames[0] == value).all()


def test_another_camera_in_the_same_folder_is_refused(convert, two_cameras):
    convert("--camera", "black")
    with pytest.raises(ValueError, match='holds an import of camera "black", not "top"'):
        convert("--camera", "top")


@pytest.mark.parametrize(("camera", "said"), [(None, "2 cameras"), ("left", "no camera left")])
def test_the_choice_of_a_camera_is_asked_for(two_cameras, tmp_path, camera, said):
    found = refusal(tmp_path, camera=camera)
    assert found == f"{two_cameras}: {said}; choose one by --camera NAME: {CAMERA}, observation.images.black"


def test_a_camera_is_for_lerobot_only(tmp_path):
    (tmp_path / "in").mkdir()
    np.savez(tmp_path / "in/a.npz", obs=np.zeros((2, 64, 64, 3), np.uint8), action=np.zeros(2))
    assert refusal(tmp_path, camera="top").startswith(
        "camera is given, but it is for LeRobot data sets, and this is npz"
    )


def test_settings_for_writing_are_refused(tmp_path):
    write(tmp_path / "in")
    found = refusal(tmp_path, format="lerobot", lerobot=LerobotSettings(fps=30))
    assert found == "lerobot is given, but it is for writing a LeRobot data set; leave --lerobot out"


# --- refused before anything is written


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"codebase_version": "v1.6"}, "codebase_version is v1.6, wanted v2.0, v2.1, v3.0; convert the data set"),
        ({"fps": 0}, "fps is 0, wanted a number above 0"),
        ({"fps": "fast"}, "fps is fast, wanted a number above 0"),
        ({"total_episodes": True}, "total_episodes is True, wanted a number"),
        ({"data_path": None}, "data_path is None, wanted a text"),
        ({"features": []}, "features is [], wanted an object"),
        ({"features": {}}, "no camera (image or video) among its features"),
        ({"features": {"action": {"dtype": "float32"}}}, "the shape of action is None, wanted sizes"),
        ({"total_episodes": 4}, "its list holds 3 episodes, and meta/info.json says 4 from 0 on"),
        ({"total_episodes": 10**30}, "its list holds 3 episodes"),
        ({"features": {"action": {"dtype": "float32", "shape": [2**70]}}}, "no camera (image or video)"),
        ({"data_path": "../{chunk_index}.parquet"}, "which leaves the folder of the data set; do not trust"),
        ({"data_path": "/etc/passwd"}, "data_path is /etc/passwd, which leaves the folder"),
        ({"data_path": ""}, "which leaves the folder"),
        ({"data_path": "{chunk_index.__class__}"}, "which has places for other values"),
        ({"data_path": "{secret}"}, "which has places for other values"),
        ({"data_path": "{file_index!r}"}, "which has places for other values"),
    ],
)
def test_metadata_that_are_wrong_are_refused(tmp_path, changed, said):
    change_info(write(tmp_path / "in"), **changed)
    assert said in refusal(tmp_path)


@needs_av
@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
def test_a_camera_whose_name_leaves_the_folder_is_refused(tmp_path, version):
    write(tmp_path / "in", version, is_video=True)
    text = (tmp_path / "in/meta/info.json").read_text()
    change_info(tmp_path / "in", features=json.loads(text.replace(CAMERA, "../../away"))["features"])
    if version == "v3.0":
        change_info(tmp_path / "in", video_path="videos/{video_key}/{episode_index}.mp4")
    found = refusal(tmp_path)
    assert "leaves the folder" in found or "no column videos/../../away/chunk_index" in found


@pytest.mark.parametrize("text", ["", "{", "[]", "3"])
def test_an_info_file_that_is_no_json_object_is_refused(tmp_path, text):
    (write(tmp_path / "in") / "meta/info.json").write_text(text)
    assert refusal(tmp_path).startswith(f"{tmp_path}/in/meta/info.json: is no JSON")


@pytest.mark.parametrize(("width", "column"), [(0, "action"), (10_001, "action"), (2, "next.reward")])
def test_columns_of_other_widths_are_refused(tmp_path, width, column):
    features = json.loads((write(tmp_path / "in") / "meta/info.json").read_text())["features"]
    change_info(tmp_path / "in", features=features | {column: {"dtype": "float32", "shape": [width]}})
    assert f"{column} has {width:,} numbers a row, wanted 1 to" in refusal(tmp_path)


@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
def test_a_data_set_without_its_list_of_episodes_is_refused(tmp_path, version):
    write(tmp_path / "in", version)
    for path in [*(tmp_path / "in/meta").glob("episodes*/*/*"), *(tmp_path / "in/meta").glob("*.jsonl")]:
        path.unlink()
    assert "no such file, so the data set is incomplete" in refusal(tmp_path)


@pytest.mark.parametrize("line", ["{", "[]", '{"episode_index": "0", "length": 3}', '{"episode_index": 0}'])
def test_a_list_of_episodes_with_a_wrong_line_is_refused(tmp_path, line):
    (write(tmp_path / "in", "v2.1") / "meta/episodes.jsonl").write_text(line + "\n")
    assert "episodes.jsonl: a line has no episode_index and no length" in refusal(tmp_path)


def test_a_damaged_list_of_episodes_is_refused(tmp_path):
    path = write(tmp_path / "in") / "meta/episodes/chunk-000/file-000.parquet"
    path.write_bytes(b"PAR1 damaged PAR1")
    assert f"{path}: cannot be read as Parquet" in refusal(tmp_path)


def test_a_list_of_episodes_with_numbers_below_0_is_refused(tmp_path):
    import pyarrow as pa
    from pyarrow import parquet

    path = write(tmp_path / "in") / "meta/episodes/chunk-000/file-000.parquet"
    found = parquet.read_table(path)
    parquet.write_table(found.set_column(2, "length", pa.array([4, -6, 3])), path)
    assert "length holds numbers below 0" in refusal(tmp_path)


def test_several_data_sets_are_refused(tmp_path):
    for name in ("a", "b"):
        write(tmp_path / "in" / name, lengths=(3,), files=[(0,)])
    assert refusal(tmp_path) == f"{tmp_path}/in: holds 2 LeRobot data sets, such as a; name one of them"


def test_other_folders_are_no_lerobot_data_set(tmp_path):
    (tmp_path / "in/xmeta").mkdir(parents=True)
    (tmp_path / "in/xmeta/info.json").write_text("{}")
    assert "no file of format lerobot (/meta/info.json) in it" in refusal(tmp_path, format="lerobot")


@pytest.mark.parametrize("package", ["pyarrow", pytest.param("av", marks=needs_av)])
def test_without_a_package_the_error_names_it(tmp_path, monkeypatch, package):
    write(tmp_path / "in", is_video=True)
    real, real_find = builtins.__import__, importlib.util.find_spec

    def without(name: str, *rest: Any, **named: Any) -> Any:
        if name.partition(".")[0] == package:
            raise ImportError(name)
        return real(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else real_find(name))
    assert refusal(tmp_path).endswith("; pip install 'world_models[lerobot]'")


# --- broken episodes


DATA = "data/chunk-000/episode_000001.parquet"
VIDEO = f"videos/chunk-000/{CAMERA}/episode_000001.mp4"


def rewritten(root: Path, frames: np.ndarray | None = None, **changed: np.ndarray | None) -> None:
    """Write the rows of the second episode again, with other columns."""
    found = columns(1, 6, 4) | {name.replace("__", "."): each for name, each in changed.items()}
    write_table(root / DATA, [table({name: each for name, each in found.items() if each is not None}, frames)])


FRAMES = pictures(1, 6)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"frames": None}, f"no column {CAMERA}"),
        ({"action": None}, "no column action"),
        ({"action": np.array(["a"] * 6)}, "action is string, wanted numbers"),
        ({"action": np.zeros((6, 3))}, "action has gaps or other lengths, wanted 2 numbers a row"),
        ({"action": np.full((6, 2), np.nan)}, "action holds numbers that are not finite in float32"),
        ({"action": np.full((6, 2), 2**24 + 1)}, "action holds whole numbers that are too large for float32"),
        ({"next__reward": np.full(6, 1e40)}, "next.reward holds numbers that are not finite"),
        ({"next__done": np.arange(6) == 2}, "next.done is set in row 2 of 6, wanted in the last two rows only"),
        ({"episode_index": np.zeros(6, int)}, "the rows of episode 1 hold episode_index 0"),
    ],
)
def test_a_broken_episode_is_named_and_skipped_only_if_asked(convert, tmp_path, changed, said):
    write(tmp_path / "in", "v2.1")
    rewritten(tmp_path / "in", **{"frames": FRAMES, **changed})
    with pytest.raises((ValueError, Stopped)) as refused:
        convert()
    assert f"{tmp_path}/in/episode_000001: {DATA}: " in str(refused.value)
    assert said in str(refused.value)
    assert [len(episode) for episode in convert("--skip_broken", "true")] == [3, 2]


@pytest.mark.parametrize(
    ("picture", "said"),
    [
        ({"bytes": None, "path": "/etc/passwd"}, "of row 5 is not stored in the file"),
        ({"bytes": b"no picture", "path": None}, "of row 5 cannot be read as a picture (cannot identify image file"),
    ],
)
def test_a_broken_picture_is_named(convert, tmp_path, picture, said):
    import pyarrow as pa

    write(tmp_path / "in", "v2.1")
    found = table(columns(1, 6, 4), FRAMES)
    whole = found.column(CAMERA).to_pylist()[:5]
    kind = found.schema.field(CAMERA).type
    place = found.schema.get_field_index(CAMERA)
    write_table(tmp_path / "in" / DATA, [found.set_column(place, CAMERA, pa.array([*whole, picture], kind))])
    with pytest.raises(Stopped, match=f"{DATA}: {CAMERA} of row 5") as stopped:
        convert()
    assert said in str(stopped.value)


def test_a_file_with_fewer_rows_is_refused(tmp_path):
    write(tmp_path / "in", "v2.1")
    write_table(tmp_path / "in" / DATA, [table(columns(1, 5, 4), FRAMES[:5])])
    assert f"{DATA}: 5 rows, wanted rows 0 to 6 for the episode" in refusal(tmp_path)


def test_pictures_without_bytes_are_refused(tmp_path):
    import pyarrow as pa

    write(tmp_path / "in", "v2.1")
    found = table(columns(1, 6, 4), None)
    write_table(tmp_path / "in" / DATA, [found.append_column(CAMERA, pa.array(["a.png"] * 6))])
    assert f"{CAMERA} is string, wanted pictures with their bytes" in refusal(tmp_path)


@pytest.mark.parametrize("name", [DATA, pytest.param(VIDEO, marks=needs_av)])
def test_a_missing_or_damaged_file_is_named(tmp_path, name):
    write(tmp_path / "in", "v2.1", is_video=name == VIDEO)
    (tmp_path / "in" / name).write_bytes(b"damaged")
    assert f"in/episode_000001: {name}: cannot be read as " in refusal(tmp_path)
    (tmp_path / "in" / name).unlink()
    assert f"in/episode_000001: {name}: no such file" in refusal(tmp_path)


def test_a_column_that_would_take_all_memory_is_broken(convert, tmp_path, monkeypatch):
    write(tmp_path / "in", "v2.1")
    monkeypatch.setattr("world_models.convert.parquet_arrays.MAX_NUMBERS_BYTES", 40)
    with pytest.raises((ValueError, Stopped), match="action takes 48 bytes in memory, wanted 40 at most"):
        convert()


@needs_av
@pytest.mark.parametrize(
    ("frames", "times", "said"),
    [
        (5, None, "ends before the frame at 0.500 s"),
        (3, None, "lasts 0.300 s, wanted 0.500 s or more"),
        (6, np.zeros(6), "timestamp does not rise from row to row"),
        (6, np.arange(6) / FPS + 0.05, "no frame at 0.050 s, the next one is at 0.100 s"),
        (6, np.arange(6) / FPS + 1, "ends before the frame at 1.000 s"),
    ],
)
def test_a_video_without_a_frame_for_each_row_is_broken(convert, tmp_path, frames, times, said):
    write(tmp_path / "in", "v2.1", is_video=True)
    write_video(tmp_path / "in" / VIDEO, FRAMES[:frames])
    if times is not None:
        rewritten(tmp_path / "in", timestamp=times.astype(np.float32))
    with pytest.raises((ValueError, Stopped)) as refused:
        convert()
    assert said in str(refused.value)
    assert f"in/episode_000001: {VIDEO if times is None or times[1] else DATA}: " in str(refused.value)


@needs_av
def test_frames_of_too_many_pixels_are_refused(tmp_path, monkeypatch):
    write(tmp_path / "in", "v2.1", is_video=True)
    monkeypatch.setattr("world_models.convert.timed_video.MAX_PIXELS", 100)
    assert "frames of 3,072 pixels, wanted 100 at most" in refusal(tmp_path)
