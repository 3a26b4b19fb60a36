"""Arrays of an untrusted HDF5 file: what could do more than read a part of this file is refused."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from world_models.convert import hdf5_arrays
from world_models.convert.foreign import BrokenEpisodeError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "file.hdf5"


def refusal(path: Path, name: str) -> str:
    with pytest.raises(BrokenEpisodeError) as refused, hdf5_arrays.opened(path) as file:
        hdf5_arrays.array(file, name)
    return refused.value.reason


@pytest.mark.parametrize(
    "options", [{}, {"chunks": (2,)}, {"compression": "gzip"}, {"compression": "lzf"}, {"maxshape": (None,)}]
)
def test_plain_arrays_are_read(path: Path, options: dict[str, Any]):
    with h5py.File(path, "w") as file:
        file.create_dataset("a/b/c", data=np.arange(5), **options)
    with hdf5_arrays.opened(path) as file:
        assert hdf5_arrays.array(file, "a/b/c")[:].tolist() == [0, 1, 2, 3, 4]
        assert list(hdf5_arrays.group(file, "a/b")) == ["c"]


@pytest.mark.parametrize("name", ["b", "a/b", "", "a/", "../a"])
def test_a_missing_array_is_refused(path: Path, name: str):
    with h5py.File(path, "w") as file:
        file["a"] = np.arange(3)
    assert "in it" in refusal(path, name) or "is not a group" in refusal(path, name)


def test_a_group_in_the_place_of_an_array_is_refused(path: Path):
    with h5py.File(path, "w") as file:
        file.create_group("a")
    assert refusal(path, "a") == "a is not an array"


@pytest.mark.parametrize("link", [h5py.ExternalLink("other.hdf5", "/a"), h5py.SoftLink("/b")])
@pytest.mark.parametrize("name", ["a", "a/c"])
def test_links_are_not_followed(path: Path, tmp_path: Path, link: Any, name: str):
    for file_name in (path, tmp_path / "other.hdf5"):
        with h5py.File(file_name, "w") as file:
            file["b/c"] = np.arange(3)
            file["a"] = link if file_name == path else file["b"]
    assert refusal(path, name) == "a is a link into elsewhere, which is never followed"


def test_data_of_other_files_are_not_read(path: Path, tmp_path: Path):
    (tmp_path / "secret").write_bytes(bytes(100))
    layout = h5py.VirtualLayout((3,), np.uint8)
    layout[:] = h5py.VirtualSource(str(path), "other", (3,), np.uint8)
    with h5py.File(path, "w") as file:
        file.create_dataset("external", (3,), np.uint8, external=[(str(tmp_path / "secret"), 0, 100)])
        file.create_virtual_dataset("virtual", layout)
    for name in ("external", "virtual"):
        assert refusal(path, name) == f"{name} holds data of other files, which are never read"


def test_plugins_are_not_loaded(path: Path):
    with h5py.File(path, "w") as file:
        file.create_dataset("a", (100,), np.uint8, chunks=(10,), scaleoffset=2)
    assert "a is packed by a plugin" in refusal(path, "a")


def test_chunks_that_are_too_large_are_refused(path: Path):
    with h5py.File(path, "w") as file:
        file.create_dataset("a", (1 << 29,), np.uint8, chunks=(1 << 29,), compression="gzip")
    assert "a is packed in pieces of more than" in refusal(path, "a")


def test_more_rows_than_the_file_can_hold_are_refused(path: Path):
    with h5py.File(path, "w") as file:
        file.create_dataset("a", (1 << 34,), np.uint8, chunks=(1 << 20,), compression="gzip")
    assert "a claims more rows than a file of this size can hold" in refusal(path, "a")


def test_rows_that_were_never_written_are_refused(path: Path):
    with h5py.File(path, "w") as file:
        file.create_dataset("a", (100,), np.uint8, chunks=(10,))[:50] = 1
    assert refusal(path, "a") == "a was never written in whole"


def test_a_damaged_file_is_broken(path: Path):
    path.write_bytes(b"nothing")
    assert refusal(path, "a").startswith("cannot be read (")


def test_a_missing_file_is_broken(path: Path):
    assert refusal(path, "a") == "no such file any more"


def test_an_error_without_a_text_is_named(path: Path):
    h5py.File(path, "w").close()
    with pytest.raises(BrokenEpisodeError, match=r"^cannot be read \(KeyError\)$"), hdf5_arrays.opened(path):
        raise KeyError
