"""Settings of a conversion are checked before anything is read."""

import pytest

from world_models.convert.command import ConvertConfig
from world_models.convert.config import Keys
from world_models.runtime import cli


def parsed(*argv: str) -> ConvertConfig:
    return cli.parse(ConvertConfig, argv, prog="convert")


def test_one_data_set_and_several_are_told_apart(tmp_path):
    one = parsed("--data", str(tmp_path / "a"), "--out", str(tmp_path / "out"))
    several = parsed("--data", f"[{tmp_path}/a, {tmp_path}/b]", "--out", str(tmp_path / "out"))
    assert one.sources == (str(tmp_path / "a"),)
    assert several.sources == (str(tmp_path / "a"), str(tmp_path / "b"))


def test_a_condition_is_given_alone_or_in_a_list():
    config = parsed("--data", "a", "--out", "b", "--drop", "seed=3,7", "--keep", '["seed=1,2,3", length>5]')
    assert config.drop == ("seed=3,7",)
    assert config.keep == ("seed=1,2,3", "length>5")


def test_the_names_of_arrays_are_flags():
    config = parsed("--data", "a", "--out", "b", "--keys.frames", "pictures", "--keys.actions", "controls")
    assert config.keys == Keys(frames="pictures", actions="controls")


def test_a_config_is_read_back_from_its_yaml(tmp_path):
    config = parsed("--data", f"[{tmp_path}/a,{tmp_path}/b]", "--out", str(tmp_path / "out"), "--keep", "seed=3,7")
    (tmp_path / "config.yaml").write_text(cli.to_yaml(config))
    assert parsed("--config", str(tmp_path / "config.yaml")) == config


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ([], "data is empty; name what to convert"),
        (["--data", "a"], "out is empty; name what to write"),
        (["--data", "a", "--out", "a"], "which is in data; give an --out elsewhere"),
        (["--data", "a", "--out", "a/b"], "which is in data; give an --out elsewhere"),
        (["--data", "[a,a]", "--out", "b"], "names one data set twice"),
        (["--data", "a", "--out", "b", "--format", "mp3"], "format is mp3"),
        (["--data", "a", "--out", "b", "--every", "0"], "every is 0; give 1 or more"),
        (["--data", "a", "--out", "b", "--crop", "60:20"], "crop 60:20 keeps no row"),
        (["--data", "a", "--out", "b", "--crop", "all"], "crop is 'all'; give auto, none, or the rows"),
        (["--data", "a", "--out", "b", "--env", " "], "env is empty"),
        (["--data", "a", "--out", "b", "--drop", "short"], "drop is 'short'; give a condition"),
        (["--data", "a", "--out", "b", "--keys.actions", "action"], "keys.frames is empty; name the array of pictures"),
        (["--data", "a", "--out", "b", "--episodes_per_shard", "0"], "episodes_per_shard is 0"),
        (["--data", "a", "--out", "b", "--num_workers", "-1"], "num_workers is -1"),
        (["--data", "a", "--out", "b", "--format", "lerobot", "--lerobot.fps", "0"], "fps is 0; give 1 or more"),
        (
            ["--data", "a", "--out", "b", "--format", "lerobot", "--lerobot.task", " "],
            "lerobot.task is ' '; give a line",
        ),
        (["--data", "a", "--out", "b", "--lerobot.fps", "30"], "lerobot is given, but format is auto"),
    ],
)
def test_a_bad_setting_is_named(argv, said):
    with pytest.raises(ValueError) as refused:
        parsed(*argv)
    assert said in str(refused.value)
