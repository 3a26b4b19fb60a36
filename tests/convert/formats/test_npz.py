"""npz files of known contents become the right rows, and bad ones are refused before memory is taken.

The data are those of a world that counts its steps: frame k is grey of value k, action k leads from frame k to frame
k + 1 and earns 10 k.
"""

import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from world_models.convert import command, npz_arrays
from world_models.convert.formats import npz
from world_models.data.rollouts import Rollouts

STEPS = 12


def frames(first: int, stop: int, size: int = 64) -> np.ndarray:
    return np.arange(first, stop, dtype=np.uint8)[:, None, None, None].repeat(size, 1).repeat(size, 2).repeat(3, 3)


def actions(stop: int = STEPS) -> np.ndarray:
    return np.stack([np.arange(stop), -np.arange(stop), np.full(stop, 0.5)], axis=1)


def as_ctallec(terminal: bool = True, planned: int = STEPS) -> dict[str, np.ndarray]:
    """What `generation_script` of ctallec's code stores: for each action, the frame, reward and end that it led to."""
    return {
        "observations": frames(1, STEPS + 1),
        "rewards": 10.0 * np.arange(STEPS),
        "actions": actions(planned),
        "terminals": np.arange(STEPS) == (STEPS - 1 if terminal else STEPS),
    }


def as_hardmaru() -> dict[str, np.ndarray]:
    """What `extract.py` of hardmaru's code stores: for each action, the frame before it."""
    return {"obs": frames(0, STEPS), "action": actions().astype(np.float16)}


@pytest.fixture
def imported(tmp_path: Path) -> Callable[..., Rollouts]:
    """Saves an episode in an npz file, and imports it."""

    def run(arrays: dict[str, np.ndarray], *flags: str, save: Callable = np.savez_compressed) -> Rollouts:
        (tmp_path / "in").mkdir(exist_ok=True)
        save(tmp_path / "in/rollout_0.npz", **arrays)
        command.main(["--data", f"{tmp_path}/in", "--out", f"{tmp_path}/out", "--executor", "serial", *flags])
        return Rollouts(tmp_path / "out", verify=True)

    return run


@pytest.fixture
def refused(imported: Callable[..., Rollouts], tmp_path: Path) -> Callable[..., str]:
    """Imports an episode that has to be refused, and returns the line that says why."""

    def run(arrays: dict[str, np.ndarray], *flags: str) -> str:
        with pytest.raises(ValueError) as refusal:
            imported(arrays, *flags)
        assert not (tmp_path / "out").exists()
        assert "rollout_0.npz" in str(refusal.value)
        return str(refusal.value)

    return run


def save(path: Path, arrays: dict[str, np.ndarray]) -> None:
    named: dict[str, Any] = arrays
    np.savez_compressed(path, **named)


def write_array(path: Path, name: str, header: dict, data: bytes = b"", packing: int = zipfile.ZIP_DEFLATED) -> None:
    """Add an array with this header and these bytes to an npz file."""
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, header)
    with zipfile.ZipFile(path, "a", packing) as archive:
        archive.writestr(f"{name}.npy", buffer.getvalue() + data)


# --- alignment


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_ctallec_row_t_takes_action_reward_and_end_of_t_plus_1(imported, save):
    (episode,) = imported(as_ctallec(), save=save)
    seen = episode.frames[:, 0, 0, 0]
    np.testing.assert_array_equal(seen, np.arange(1, STEPS + 1))
    np.testing.assert_array_equal(episode.actions, actions()[1:])
    np.testing.assert_array_equal(episode.actions[:, 0], seen[:-1])  # the action that was chosen after seeing the frame
    np.testing.assert_array_equal(episode.rewards, 10 * seen[:-1].astype(np.float32))
    np.testing.assert_array_equal(episode.terminated, [False] * (STEPS - 2) + [True])
    assert not episode.truncated.any()


def test_ctallec_actions_that_were_planned_but_not_taken_are_left_out(imported):
    (episode,) = imported(as_ctallec(planned=50))
    np.testing.assert_array_equal(episode.actions, actions()[1:])


def test_an_episode_without_an_end_flag_is_truncated(imported):
    (episode,) = imported(as_ctallec(terminal=False))
    assert not episode.terminated.any()
    np.testing.assert_array_equal(episode.truncated, [False] * (STEPS - 2) + [True])


def test_hardmaru_row_t_takes_action_t_and_the_last_action_is_lost(imported):
    (episode,) = imported(as_hardmaru())
    seen = episode.frames[:, 0, 0, 0]
    np.testing.assert_array_equal(seen, np.arange(STEPS))
    np.testing.assert_array_equal(episode.actions, actions()[: STEPS - 1])
    np.testing.assert_array_equal(episode.actions[:, 0], seen[:-1])
    assert not episode.rewards.any()
    assert episode.truncated[-1]


def test_arrays_of_other_names_are_aligned_as_in_gymnasium(imported):
    arrays = {
        "pictures": frames(0, STEPS + 1),
        "controls": np.arange(STEPS),  # one number a step is one column
        "scores": 10.0 * np.arange(STEPS),
        "over": np.arange(STEPS) == STEPS - 1,
    }
    names = {"frames": "pictures", "actions": "controls", "rewards": "scores", "terminated": "over"}
    flags = [word for name, array in names.items() for word in (f"--keys.{name}", array)]
    data = imported(arrays, *flags)
    (episode,) = data
    assert data.num_actions == 1
    np.testing.assert_array_equal(episode.actions[:, 0], episode.frames[:-1, 0, 0, 0])
    np.testing.assert_array_equal(episode.rewards, 10 * episode.actions[:, 0])
    assert len(episode) == STEPS and episode.terminated[-1]


def test_frames_alone_have_no_action_columns_and_zero_rewards(imported):
    data = imported({"pictures": frames(0, 5)}, "--keys.frames", "pictures")
    assert data.num_actions == 0
    assert data[0].actions.shape == (4, 0)
    assert not data[0].rewards.any()
    assert data.action_space == {"type": "Box", "shape": [0], "low": [], "high": []}


def test_the_data_set_names_its_sources(imported):
    data = imported(as_ctallec())
    assert (data.env, set(data.policies)) == ("npz", {"npz"})
    assert data.action_space == {"type": "Box", "shape": [3], "low": [None] * 3, "high": [None] * 3}
    assert data.preprocess == {"crop": None, "size": 64, "interpolation": "INTER_AREA"}


def test_frames_of_another_size_are_cropped_and_resized(imported):
    pictures = np.zeros((4, 96, 96, 3), np.uint8)
    pictures[:, :84] = 200
    data = imported({"obs": pictures, "action": actions(4)}, "--crop", "0:84", "--env", "CarRacing-v3")
    assert (data[0].frames == 200).all()
    assert data.preprocess["crop"] == [0, 84]
    assert data.env == "CarRacing-v3"


@pytest.mark.parametrize("shape", [(6, 20, 30), (6, 20, 30, 1)])
def test_grey_frames_get_three_equal_channels(imported, shape):
    (episode,) = imported({"obs": np.full(shape, 77, np.uint8), "action": actions(6)})
    assert (episode.frames == 77).all()


def test_a_column_in_fortran_order_and_of_big_endian_is_read_right(imported):
    arrays = as_hardmaru() | {"action": np.asfortranarray(actions().astype(">f8"))}
    (episode,) = imported(arrays)
    np.testing.assert_array_equal(episode.actions, actions()[: STEPS - 1])


def test_pictures_are_unpacked_a_few_at_a_time(imported, monkeypatch):
    monkeypatch.setattr(npz, "BLOCK_BYTES", 5 * 64 * 64 * 3)
    (episode,) = imported(as_hardmaru())
    np.testing.assert_array_equal(episode.frames[:, 0, 0, 0], np.arange(STEPS))


def test_a_single_file_is_a_data_set(imported, tmp_path):
    imported(as_hardmaru())
    command.main(["--data", f"{tmp_path}/in/rollout_0.npz", "--out", f"{tmp_path}/one", "--executor", "serial"])
    assert Rollouts(tmp_path / "one").digest() == Rollouts(tmp_path / "out").digest()


# --- bad files


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"observations": frames(1, 2)}, "holds 1 frames, wanted 2 or more"),
        (
            {"observations": frames(1, 13).astype(np.float32) / 255},
            "observations is float32 (12, 64, 64, 3), wanted uint8",
        ),
        ({"observations": np.zeros((12, 3, 64, 64), np.uint8)}, "wanted 3 (RGB) or 1 (grey) on the last axis"),
        ({"observations": np.zeros((12, 64, 64, 4), np.uint8)}, "wanted 3 (RGB) or 1 (grey) on the last axis"),
        ({"observations": np.zeros((12, 0, 64, 3), np.uint8)}, "wanted pictures of 1 to"),
        ({"observations": np.asfortranarray(frames(1, 13))}, "in Fortran's order; save np.ascontiguousarray"),
        ({"observations": np.zeros(12, np.uint8)}, "wanted uint8 (frames, height, width, 3)"),
        ({"actions": actions(11)}, "actions has 11 elements, wanted 12 for 12 frames"),
        ({"actions": np.zeros((12, 0))}, "wanted 1 to 10,000 columns"),
        ({"actions": np.float64(3)}, "actions has 0 elements"),
        ({"rewards": np.zeros(13)}, "rewards has 13 elements, wanted 12"),
        ({"rewards": np.zeros((12, 2))}, "rewards is float64 (12, 2), wanted one number a frame"),
        ({"rewards": np.full(12, np.nan)}, "rewards holds numbers that are not finite in float32"),
        ({"actions": np.full((12, 3), 1e60)}, "actions holds numbers that are not finite in float32"),
        ({"terminals": np.arange(12) == 4}, "terminals is set at element 4 of 12, wanted at the last one only"),
        ({"terminals": np.arange(12) == 0}, "terminals is set at element 0 of 12"),
        ({"rewards": np.array(["a"] * 12)}, "wanted numbers"),
        ({"rewards": np.array([{}] * 12)}, "holds Python objects (a pickle), which are never loaded"),
    ],
)
def test_a_bad_array_is_named_before_anything_is_written(refused, changed, said):
    assert said in refused(as_ctallec() | changed)


def test_other_keys_of_another_length_are_refused(refused):
    assert "action has 5 elements, wanted 12 or 11 for 12 frames" in refused(as_hardmaru() | {"action": actions(5)})


def test_arrays_of_no_known_layout_are_listed(refused):
    said = refused({"images": frames(0, 5), "labels": np.zeros(5)})
    assert "holds images, labels, which is neither ctallec's layout" in said
    assert "--keys.frames" in said


def test_a_file_without_arrays_is_refused(refused):
    assert "holds no arrays" in refused({})


def test_many_arrays_are_listed_in_part(refused):
    assert "a10, a11, a2, a3, a4, a5, a6, a7, ..., which" in refused({f"a{i}": np.zeros(1) for i in range(12)})


def test_a_missing_array_is_named(refused):
    assert "no array image; it holds images" in refused({"images": frames(0, 5)}, "--keys.frames", "image")


def other_file(tmp_path: Path, *flags: str) -> str:
    """The line that refuses `in/rollout_0.npz`."""
    with pytest.raises(ValueError) as refusal:
        command.main(["--data", f"{tmp_path}/in", "--out", f"{tmp_path}/out", "--executor", "serial", *flags])
    assert not (tmp_path / "out").exists()
    return str(refusal.value)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    return tmp_path / "in/rollout_0.npz"


def test_a_file_that_is_no_zip_archive_is_refused(file, tmp_path):
    file.write_bytes(b"no zip")
    assert "rollout_0.npz: cannot be read as npz (File is not a zip file); mend it" in other_file(tmp_path)


def test_a_small_file_that_claims_a_huge_array_takes_no_memory(file, tmp_path):
    header = {"descr": "|u1", "fortran_order": False, "shape": (10_000_000, 64, 64, 3)}
    write_array(file, "obs", header, bytes(1000))
    write_array(file, "action", {"descr": "<f4", "fortran_order": False, "shape": (2, 1)}, bytes(8))
    assert "which does not fit its 1,128 bytes" in other_file(tmp_path)


def test_a_zip_entry_that_claims_more_than_deflate_can_hold_is_refused(file, tmp_path, monkeypatch):
    monkeypatch.setattr(npz_arrays, "MAX_DEFLATE_RATIO", 10)  # what zeros exceed
    save(file, as_hardmaru() | {"obs": np.zeros((100, 64, 64, 3), np.uint8)})
    assert "obs claims more bytes than it can hold" in other_file(tmp_path)


def test_an_array_of_negative_size_is_refused(file, tmp_path):
    write_array(file, "obs", {"descr": "|u1", "fortran_order": False, "shape": (-1, -1, 1, 1)}, bytes(1))
    write_array(file, "action", {"descr": "<f4", "fortran_order": False, "shape": (1,)}, bytes(4))
    assert "obs has the impossible shape" in other_file(tmp_path)


def test_an_array_without_a_header_is_refused(file, tmp_path):
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("obs.npy", b"not a header of NumPy")
        archive.writestr("action.npy", b"")
    assert "is no array of NumPy" in other_file(tmp_path)


def test_a_packing_that_numpy_never_uses_is_refused(file, tmp_path):
    header = {"descr": "|u1", "fortran_order": False, "shape": (2, 64, 64, 3)}
    write_array(file, "obs", header, bytes(2 * 64 * 64 * 3), zipfile.ZIP_LZMA)
    write_array(file, "action", {"descr": "<f4", "fortran_order": False, "shape": (2, 1)}, bytes(8))
    assert "obs is packed in a way that NumPy never uses" in other_file(tmp_path)


def test_a_file_with_another_number_of_action_columns_is_refused(file, tmp_path):
    save(file, as_hardmaru())
    save(file.with_name("rollout_1.npz"), as_hardmaru() | {"action": np.zeros((STEPS, 2))})
    assert "rollout_1.npz: actions of 2 columns, wanted 3 as in the first file" in other_file(tmp_path)


def test_a_file_that_lacks_an_array_of_the_first_is_named(file, tmp_path):
    save(file, as_hardmaru())
    save(file.with_name("rollout_1.npz"), {"obs": frames(0, STEPS)})
    assert "rollout_1.npz: no array action; it holds obs" in other_file(tmp_path)


def test_the_first_file_that_can_be_read_shows_the_layout(file, tmp_path):
    file.write_bytes(b"no zip")
    save(file.with_name("rollout_1.npz"), as_hardmaru())
    assert "rollout_0.npz" in other_file(tmp_path)
    command.main(f"--data {tmp_path}/in --out {tmp_path}/out --executor serial --skip_broken true".split())
    assert len(Rollouts(tmp_path / "out")) == 1


def test_a_missing_file_is_broken(tmp_path):
    reader = npz.NpzReader(tmp_path, npz.LAYOUTS[1], 3)
    with pytest.raises(npz.BrokenEpisodeError, match="no such file any more"):
        reader.open_episode("gone.npz")


def test_frames_that_are_damaged_in_the_middle_are_found(tmp_path):
    rng = np.random.default_rng(0)
    arrays = as_hardmaru() | {"obs": rng.integers(0, 256, (STEPS, 64, 64, 3), np.uint8)}
    save(tmp_path / "one.npz", arrays)
    whole = bytearray((tmp_path / "one.npz").read_bytes())
    whole[len(whole) // 2] ^= 255
    (tmp_path / "one.npz").write_bytes(whole)
    reader = npz.NpzReader(tmp_path, npz.LAYOUTS[1], 3)
    assert reader.count("one.npz") == STEPS
    with pytest.raises(npz.BrokenEpisodeError, match="cannot be read as npz"):
        list(reader.open_episode("one.npz").pictures)
