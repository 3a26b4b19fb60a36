"""MNIST is read unchanged, downloaded completely or not at all, and refused if the files hold something else."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torchvision.datasets import MNIST

from world_models.data import mnist


def test_images_and_labels_are_those_of_the_files(mnist_dir: Path):
    found, expected = mnist.load(mnist_dir), MNIST(str(mnist_dir), train=True)
    assert found.train.frames.shape == (200, 28, 28, 1) and found.test.frames.shape == (60, 28, 28, 1)
    assert np.array_equal(found.train.frames[..., 0], expected.data.numpy())
    assert np.array_equal(found.train.labels, expected.targets.numpy())
    assert found.train.frames.dtype == np.uint8 and found.train.labels.dtype == np.int64


def test_test_images_are_not_among_those_to_train_on(mnist_dir: Path):
    data = mnist.load(mnist_dir)
    train = {frame.tobytes() for frame in data.train.frames}
    assert not any(frame.tobytes() in train for frame in data.test.frames)


def test_other_images_have_another_digest(make_mnist: Callable[..., Path], mnist_dir: Path):
    assert mnist.load(mnist_dir).digest == mnist.load(mnist_dir).digest != mnist.load(make_mnist(seed=1)).digest


@pytest.mark.skipif("WORLD_MODELS_MNIST" not in os.environ, reason="WORLD_MODELS_MNIST names no folder of MNIST")
def test_the_real_mnist_has_60000_and_10000_images():
    data = mnist.load(os.environ["WORLD_MODELS_MNIST"])
    assert data.train.frames.shape == (60_000, 28, 28, 1) and data.test.frames.shape == (10_000, 28, 28, 1)
    assert np.bincount(data.test.labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


def _no_network(self: Any) -> None:
    raise RuntimeError("Error downloading train-images:\nno such host")


def test_without_files_and_network_the_error_says_where_to_put_the_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(MNIST, "download", _no_network)
    with pytest.raises(FileNotFoundError, match="no such host") as refusal:
        mnist.load(tmp_path / "data", download=True)
    assert str(tmp_path / "data/MNIST/raw") in str(refusal.value) and "\n" not in str(refusal.value)
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_download_leaves_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def breaks_off(self: MNIST) -> None:
        Path(self.raw_folder).mkdir(parents=True)
        Path(self.raw_folder, "train-images-idx3-ubyte").write_bytes(b"half")
        raise RuntimeError("connection reset")

    monkeypatch.setattr(MNIST, "download", breaks_off)
    with pytest.raises(FileNotFoundError, match="connection reset"):
        mnist.load(tmp_path, download=True)
    assert list(tmp_path.iterdir()) == []


def test_the_next_download_removes_the_files_of_a_killed_one(
    tmp_path: Path, mnist_dir: Path, monkeypatch: pytest.MonkeyPatch, leave_partial: Callable[[Path], Path]
):
    leave_partial(tmp_path / ".mnist-")
    monkeypatch.setattr(MNIST, "download", lambda self: shutil.copytree(mnist_dir / "MNIST/raw", self.raw_folder))
    mnist.load(tmp_path, download=True)
    assert [path.name for path in tmp_path.iterdir()] == ["MNIST"]


def test_nothing_is_downloaded_unless_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(MNIST, "download", None)
    with pytest.raises(FileNotFoundError, match="no MNIST there"):
        mnist.load(tmp_path)


def test_mnist_is_loaded_although_another_process_finished_its_download_first(
    tmp_path: Path, mnist_dir: Path, monkeypatch: pytest.MonkeyPatch
):
    def slowly(self: MNIST) -> None:
        for root in (Path(self.raw_folder), tmp_path / "MNIST" / "raw"):
            shutil.copytree(mnist_dir / "MNIST/raw", root)

    monkeypatch.setattr(MNIST, "download", slowly)
    assert mnist.load(tmp_path, download=True).digest == mnist.load(mnist_dir).digest


def test_other_files_in_the_folder_are_never_read(broken: Path, mnist_dir: Path):
    """Older torchvision kept pickles there."""
    (broken / "MNIST/processed").mkdir()
    for name in ("training.pt", "test.pt"):
        (broken / "MNIST/processed" / name).write_bytes(b"garbage")
    assert mnist.load(broken).digest == mnist.load(mnist_dir).digest


def test_mnist_is_downloaded_if_it_is_missing(tmp_path: Path, mnist_dir: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(MNIST, "download", lambda self: shutil.copytree(mnist_dir / "MNIST/raw", self.raw_folder))
    assert mnist.load(tmp_path / "a/b", download=True).digest == mnist.load(mnist_dir).digest
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.fixture
def broken(tmp_path: Path, mnist_dir: Path) -> Path:
    shutil.copytree(mnist_dir, tmp_path / "data")
    return tmp_path / "data"


@pytest.mark.parametrize("content", [b"", b"no idx at all", b"\0\0\x08\x03" + b"\0" * 100])
@pytest.mark.parametrize("name", ["train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"])
def test_damaged_files_are_refused(broken: Path, name: str, content: bytes):
    (broken / "MNIST/raw" / name).write_bytes(content)
    with pytest.raises(ValueError, match="download"):
        mnist.load(broken)


def test_a_missing_file_is_refused(broken: Path):
    (broken / "MNIST/raw/t10k-images-idx3-ubyte").unlink()
    with pytest.raises(ValueError, match="MNIST/raw"):
        mnist.load(broken)


@pytest.mark.parametrize(
    ("images", "labels"),
    [((12, 27, 28), np.zeros(12)), ((12, 28, 28), np.zeros(11)), ((12, 28, 28), np.full(12, 10)), ((1, 28, 28), [0])],
    ids=["27 rows", "a label too few", "an eleventh digit", "one image"],
)
def test_files_that_are_not_mnist_are_refused(
    broken: Path, write_idx: Callable[..., None], images: tuple[int, ...], labels: Any
):
    write_idx(broken / "MNIST/raw/train-images-idx3-ubyte", np.zeros(images, np.uint8))
    write_idx(broken / "MNIST/raw/train-labels-idx1-ubyte", np.asarray(labels, np.uint8))
    with pytest.raises(ValueError, match="wanted 28x28 images"):
        mnist.load(broken)


@pytest.mark.parametrize("inside", ["MNIST", "MNIST/raw"])
def test_a_subfolder_of_the_data_is_refused_with_the_right_folder(mnist_dir: Path, inside: str):
    with pytest.raises(FileNotFoundError, match=f"such as {mnist_dir}$"):
        mnist.load(mnist_dir / inside)


@pytest.mark.parametrize(
    "header",
    [
        [0x803, 2**31 - 1, 28, 28],
        [0x803, -1, 28, 28],
        [0x803, 2, 28, 27],
        [0xD03, 2, 28, 28],
        [0x802, 2, 28, 28],
        [0x803],
    ],
)
def test_a_header_that_contradicts_the_files_size_is_refused(broken: Path, header: list[int]):
    path = broken / "MNIST" / "raw" / "train-images-idx3-ubyte"
    path.write_bytes(np.array(header, ">i4").tobytes() + bytes(2 * 784))
    with pytest.raises(ValueError, match="train-images-idx3-ubyte: no file of MNIST"):
        mnist.load(broken)


def test_a_pipe_is_never_opened_as_digits(broken: Path):
    path = broken / "MNIST" / "raw" / "train-images-idx3-ubyte"
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(ValueError, match="a named pipe, wanted a file"):
        mnist.load(broken)
