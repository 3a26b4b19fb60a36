"""Pictures as uint8 arrays: grids of frames and clips, and writing them as PNG and GIF files."""

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw

from world_models.runtime import files

Picture = UInt8[np.ndarray, "_ _ 3"]
Frames = UInt8[np.ndarray, "_ height width channels"]

GAP = 2
WHITE = 255


def save(path: Path, picture: Picture) -> None:
    """Write a PNG file, completely or not at all."""
    files.make_folder(path.parent)
    files.write_bytes(path, png(picture))


def save_all(folder: Path, shown: Mapping[str, Picture | bytes]) -> None:
    """Write pictures as PNG files, and clips (bytes) as GIF files."""
    for name, picture in shown.items():
        if isinstance(picture, bytes):
            files.write_bytes(folder / f"{name}.gif", picture)
        else:
            save(folder / f"{name}.png", picture)


def png(picture: Picture) -> bytes:
    """The bytes of a PNG file of the picture."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG", compress_level=4)  # level 6 takes twice as long and saves 6 %
    return buffer.getvalue()


def grid(rows: Sequence[Frames], scale: int = 2) -> Picture:
    """Frames in rows, with white gaps. Each frame is enlarged `scale` times; grey frames get three equal channels."""
    columns = max(map(len, rows))
    height, width = (scale * side for side in rows[0].shape[1:3])
    sheet = np.full((len(rows) * (height + GAP) + GAP, columns * (width + GAP) + GAP, 3), WHITE, np.uint8)
    for i, frames in enumerate(rows):
        for j, frame in enumerate(frames):
            top, left = GAP + i * (height + GAP), GAP + j * (width + GAP)
            sheet[top : top + height, left : left + width] = frame.repeat(scale, 0).repeat(scale, 1)
    return sheet


def labelled(picture: Picture, labels: Sequence[str], margin: int = 150) -> Picture:
    """Add a label to the left of each row of a picture; all rows are equally high."""
    canvas = Image.new("RGB", (picture.shape[1] + margin, picture.shape[0]), "white")
    canvas.paste(Image.fromarray(picture), (margin, 0))
    draw, height = ImageDraw.Draw(canvas), picture.shape[0] / len(labels)
    for i, label in enumerate(labels):
        draw.text((8, int((i + 0.5) * height)), label, fill="black", anchor="lm")
    return np.asarray(canvas)


def sheet(frames: Frames, columns: int = 8, scale: int = 2) -> Picture:
    """Frames in rows of `columns`, in reading order."""
    return grid([frames[i : i + columns] for i in range(0, len(frames), columns)], scale)


def clip_gif(*clips: Frames, scale: int = 3, frames_per_s: int = 25) -> bytes:
    """An animated GIF of clips side by side."""
    pictures = [Image.fromarray(grid([np.stack(row)], scale)) for row in zip(*clips, strict=True)]
    buffer = io.BytesIO()
    pictures[0].save(buffer, "GIF", save_all=True, append_images=pictures[1:], duration=1000 // frames_per_s, loop=0)
    return buffer.getvalue()


def data_url(data: bytes, kind: str) -> str:
    """A data URL, with which a page can embed the bytes."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
