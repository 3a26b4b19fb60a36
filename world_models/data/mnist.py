"""MNIST: 28x28 grey digits, 60,000 for training and 10,000 for testing. They check the V model's mathematics."""

import dataclasses
import math
from pathlib import Path

import numpy as np
from jaxtyping import Int64, UInt8

from world_models.data.frames import ImageSet
from world_models.runtime import files, untrusted
from world_models.runtime.paths import resolved

FOLDER = "MNIST"
NUM_DIGITS = 10
FILES = "{train,t10k}-images-idx3-ubyte and {train,t10k}-labels-idx1-ubyte, unpacked"
FRAME_SHAPE = (28, 28, 1)
UNSIGNED_BYTES = 0x800
"""First word of MNIST's files without its last byte: the data type. The last byte is the number of dimensions."""


@dataclasses.dataclass(frozen=True)
class Digits:
    """Images of digits, and their labels."""

    frames: UInt8[np.ndarray, "images 28 28 1"]
    labels: Int64[np.ndarray, " images"]

    def as_frames(self) -> ImageSet:
        """The images by position, as training reads them."""
        return ImageSet(self.frames, self.labels)


@dataclasses.dataclass(frozen=True)
class Mnist:
    """The training images, the test images, and the sha256 of all images and labels."""

    train: Digits
    test: Digits
    digest: str


def load(root: str | Path, download: bool = False) -> Mnist:
    """Read MNIST from the folder that torchvision calls its root: it holds MNIST/raw.

    Args:
        root: the folder.
        download: whether to download MNIST if the folder does not hold it.

    Raises:
        FileNotFoundError: the folder does not hold MNIST, and the download failed or was not asked for.
        ValueError: a file is missing or is not MNIST's.
    """
    root = resolved(root, "data")
    if not (root / FOLDER / "raw").is_dir():
        if not download:
            raise FileNotFoundError(
                f"{root}: no MNIST there (no {FOLDER}/raw); name the folder that has it with --data{_parent_hint(root)}"
            )
        _download(root)
    train, test = (_read(root / FOLDER / "raw", part) for part in ("train", "t10k"))
    parts = [array.tobytes() for digits in (train, test) for array in (digits.frames, digits.labels)]
    return Mnist(train, test, files.sha256(*parts))


def _download(root: Path) -> None:
    """Download into a temporary folder and rename it. An interrupted download leaves nothing."""
    from torchvision.datasets import MNIST

    there = next(parent for parent in (root, *root.absolute().parents) if parent.is_dir())
    try:
        with files.temporary_folder(there, ".mnist-") as folder:
            MNIST(folder, download=True)
            root.mkdir(parents=True, exist_ok=True)
            (folder / FOLDER).replace(root / FOLDER)
    except (RuntimeError, OSError) as error:
        if (root / FOLDER / "raw").is_dir():
            return  # another process was faster
        reason = " ".join(str(error).split()) or type(error).__name__
        raise FileNotFoundError(
            f"{root}: no MNIST there (no {FOLDER}/raw), and it cannot be downloaded; put {FILES} into "
            f"{root / FOLDER / 'raw'}, or name the folder that has them with --data{_parent_hint(root)} ({reason})"
        ) from None


def _parent_hint(root: Path) -> str:
    """A hint for the message if --data names a folder inside the right one; else empty."""
    within = next((parent for parent in root.absolute().parents[:2] if (parent / FOLDER / "raw").is_dir()), None)
    return f", such as {within}" if within else ""


def _read(raw: Path, part: str) -> Digits:
    frames = _read_idx(raw / f"{part}-images-idx3-ubyte", FRAME_SHAPE[:2])[..., None]
    labels = _read_idx(raw / f"{part}-labels-idx1-ubyte", ()).astype(np.int64)
    if len(labels) != len(frames) or len(frames) < 2 or labels.max() >= NUM_DIGITS:
        raise ValueError(
            f"{raw}: holds {len(frames)} images and {len(labels)} labels up to {labels.max(initial=0)}, wanted 28x28 "
            "images of the digits 0 to 9 with a label each; download MNIST again"
        )
    return Digits(frames, labels)


def _read_idx(path: Path, shape: tuple[int, ...]) -> UInt8[np.ndarray, "..."]:
    """Read a file in MNIST's format with rows of this shape, and check its size against its header.

    Raises:
        ValueError: there is no such file, or it is not MNIST's.
    """
    if not untrusted.is_file(path):
        raise ValueError(f"{path}: no such file; MNIST/raw holds {FILES}: unpack them (gunzip), or download them again")
    size = path.stat().st_size
    header = np.fromfile(path, ">i4", 2 + len(shape))
    start, row_bytes = header.nbytes, math.prod(shape)
    kind = [UNSIGNED_BYTES + 1 + len(shape)]
    if header.tolist() != [*kind, (size - start) // row_bytes, *shape] or (size - start) % row_bytes:
        raise ValueError(
            f"{path}: no file of MNIST ({size:,} bytes, begins with {header.tolist()}), wanted 28x28 images and "
            f"a label each: {FILES}; unpack them (gunzip) or download them again"
        )
    return np.fromfile(path, np.uint8, offset=start).reshape(-1, *shape)
