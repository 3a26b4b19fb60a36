"""The format of other people's data is found out by their files."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from world_models.convert import formats
from world_models.convert.config import ConvertConfig


@pytest.fixture
def config(tmp_path: Path) -> ConvertConfig:
    (tmp_path / "in").mkdir()
    return ConvertConfig(str(tmp_path / "in"), str(tmp_path / "out"))


def fill(config: ConvertConfig, *names: str) -> None:
    for name in names:
        path = Path(config.sources[0]) / name
        if name.endswith(".npz"):
            np.savez(path, obs=np.zeros((2, 64, 64, 3), np.uint8), action=np.zeros(2))
        elif name.endswith(".png"):
            Image.new("RGB", (64, 64)).save(path)
        else:
            path.touch()


@pytest.mark.parametrize(
    ("name", "format_name", "description"),
    [
        ("a.npz", "npz", "npz files, layout hardmaru: obs, action"),
        ("a.PNG", "images", "folders of pictures"),
        ("a.mp4", "video", "videos"),
    ],
)
def test_the_suffix_shows_the_format(config, name, format_name, description):
    fill(config, name, "notes.txt")
    found, source = formats.find(config)
    assert (found, source.description) == (format_name, description)


def test_files_of_several_formats_need_a_choice(config, tmp_path):
    fill(config, "a.png", "b.png", "c.mp4")
    with pytest.raises(ValueError, match=r"files of several formats \(2 of format images, 1 of format video\); choose"):
        formats.find(config)
    chosen = ConvertConfig(config.data, config.out, format="video")
    assert formats.find(chosen)[1].names == ("c.mp4",)


@pytest.mark.parametrize("names", [(), ("notes.txt",)])
def test_a_folder_without_files_of_a_known_format_is_refused(config, names):
    fill(config, *names)
    with pytest.raises(ValueError, match="neither rollouts nor latents, and no file that can be read"):
        formats.find(config)


def test_a_format_without_a_file_is_refused(config):
    fill(config, "a.png")
    with pytest.raises(ValueError, match=r"no file of format npz \(.npz\) in it"):
        formats.find(ConvertConfig(config.data, config.out, format="npz"))


def test_a_format_that_is_only_written_is_refused_for_reading(config):
    fill(config, "a.png")
    with pytest.raises(ValueError, match=r"format series is made of rollouts or latents, and .* holds none"):
        formats.find(ConvertConfig(config.data, config.out, format="series"))


def test_several_sources_that_are_not_rollouts_are_refused(config):
    fill(config, "a.png")
    several = ConvertConfig((config.sources[0], f"{config.sources[0]}2"), config.out)
    with pytest.raises(ValueError, match="several sources that are not all rollouts"):
        formats.find(several)
