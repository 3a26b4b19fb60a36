"""Pictures: a folder is an episode, its files are its frames in natural order. One flat folder is one episode.

There are no actions and no rewards. The last step truncates its episode. Transparency is left out, grey and 16-bit
pictures become RGB of 8 bits, and a photo is turned as its EXIF data say.
"""

import dataclasses
import io
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from world_models.convert import found_files
from world_models.convert.config import ConvertConfig
from world_models.convert.foreign import MAX_PIXELS, BrokenEpisodeError, ForeignEpisode, Source
from world_models.runtime import untrusted

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
KINDS = ("PNG", "JPEG", "WEBP", "BMP")
"""The decoders of Pillow that are used, whatever a file's suffix says."""


@dataclasses.dataclass(frozen=True)
class ImagesReader:
    """Reads folders of pictures.

    Attributes:
        root: the folder of all episodes.
    """

    root: Path
    num_actions = 0

    def only(self, names: Sequence[str]) -> "ImagesReader":
        """The same reader, which knows no single episodes."""
        return self

    def count(self, name: str) -> int:
        """Number of pictures in the folder."""
        return len(self._files(name))

    def open_episode(self, name: str) -> ForeignEpisode:
        """Open an episode. Its pictures are decoded one after the other."""
        return ForeignEpisode(_pictures(self.root / name, self._files(name)))

    def _files(self, name: str) -> list[str]:
        folder = self.root / name
        files = (path.name for path in folder.iterdir()) if folder.is_dir() else ()
        return [file for file in found_files.natural_order(files) if _is_picture(file)]


def _is_picture(file: str) -> bool:
    return found_files.suffix(file) in SUFFIXES and not file.startswith(".")


def find(root: Path, files: Sequence[str], config: ConvertConfig) -> Source:
    """The episodes among these files: the folders that hold pictures.

    Raises:
        ValueError: there are pictures both in the folder itself and in subfolders, or only one was named.
    """
    if Path(config.sources[0]).is_file():
        raise ValueError(f"{config.sources[0]}: a single picture, wanted a folder of the pictures of an episode")
    folders = list(dict.fromkeys(file.rpartition("/")[0] or "." for file in files))
    if "." in folders and len(folders) > 1:
        raise ValueError(
            f"{root}: holds pictures and also folders of pictures, such as {next(f for f in folders if f != '.')}; "
            "give each episode a folder of its own"
        )
    return Source(root, tuple(folders), ImagesReader(root), "folders of pictures")


def _pictures(folder: Path, files: Sequence[str]) -> Iterator[np.ndarray]:
    for file in files:
        yield _picture(folder / file)


def _picture(path: Path) -> np.ndarray:
    try:
        untrusted.is_file(path)
        return decoded(path)
    except BrokenEpisodeError as error:
        raise BrokenEpisodeError(error.reason, path.name) from None
    except Exception as error:  # Pillow raises whatever a damaged file makes it trip over
        reason = " ".join(str(error).split()).replace(str(path), path.name) or type(error).__name__
        raise BrokenEpisodeError(f"cannot be read as a picture ({reason})", path.name) from None


def decoded(source: Path | io.BytesIO) -> np.ndarray:
    """The picture in a file, as RGB or grey.

    Raises:
        BrokenEpisodeError: it is too large.
        Exception: Pillow raises whatever a damaged file makes it trip over.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # such as odd EXIF data
        with Image.open(source, formats=KINDS) as image:
            _check_size(image.width * image.height)
            ImageOps.exif_transpose(image, in_place=True)
            return _rgb(image)


def _check_size(num_pixels: int) -> None:
    if num_pixels > MAX_PIXELS:
        raise BrokenEpisodeError(f"a picture of {num_pixels:,} pixels, wanted {MAX_PIXELS:,} at most")


def _rgb(image: Image.Image) -> np.ndarray:
    if image.mode.startswith("I"):  # 16 bits; Pillow would cut off all above 255
        return (np.asarray(image, np.uint32) >> 8).astype(np.uint8)[..., None]
    return np.asarray(image.convert("RGB"))
