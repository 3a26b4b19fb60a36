from pathlib import Path

import numpy as np
import pytest
from conftest import largest_file

from world_models.convert.npz_writer import read_comment, write_npz
from world_models.runtime.errors import Stopped


def test_numpy_reads_the_arrays_without_pickles(tmp_path: Path):
    rng = np.random.default_rng(0)
    frames, flags, empty = rng.integers(0, 256, (7, 4, 3), np.uint8), rng.random(7) < 0.5, np.zeros((7, 0), np.float32)
    with write_npz(tmp_path / "a.npz") as npz:
        for name, values in {"frames": frames, "flags": flags, "empty": empty}.items():
            with npz.array(name, str(values.dtype), values.shape) as append:
                append(values[:3])
                append(values[3:])
    with np.load(tmp_path / "a.npz", allow_pickle=False) as read:
        assert list(read) == ["frames", "flags", "empty"]
        for name, values in {"frames": frames, "flags": flags, "empty": empty}.items():
            assert read[name].dtype == values.dtype
            np.testing.assert_array_equal(read[name], values)


def test_equal_arrays_give_equal_bytes(tmp_path: Path):
    for name in ("a.npz", "b.npz"):
        with write_npz(tmp_path / name, "comment") as npz, npz.array("x", "float16", (2,)) as append:
            append(np.array([1.0, 2.0]))
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_the_comment_is_read_back(tmp_path: Path):
    with write_npz(tmp_path / "a.npz", "from ä") as npz, npz.array("x", "int8", (0,)):
        pass
    assert read_comment(tmp_path / "a.npz") == "from ä"


def test_a_file_that_is_no_archive_has_no_comment(tmp_path: Path):
    (tmp_path / "a.npz").write_bytes(b"no archive")
    assert read_comment(tmp_path / "a.npz") is None
    assert read_comment(tmp_path / "missing.npz") is None


def test_too_few_rows_are_an_error_and_leave_no_file(tmp_path: Path):
    with pytest.raises(AssertionError), write_npz(tmp_path / "a.npz") as npz, npz.array("x", "int8", (3,)) as append:
        append(np.zeros(2, np.int8))
    assert not list(tmp_path.iterdir())


def test_a_full_disk_ends_with_one_line_and_leaves_no_file(tmp_path: Path):
    noise = np.random.default_rng(0).integers(0, 256, 1_000_000, np.uint8)
    with (
        pytest.raises(Stopped, match=rf"^{tmp_path}/a\.npz: .*ulimit"),
        largest_file(100_000),
        write_npz(tmp_path / "a.npz") as npz,
        npz.array("x", "uint8", noise.shape) as append,
    ):
        append(noise)
    assert not list(tmp_path.iterdir())
