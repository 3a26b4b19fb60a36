import dataclasses
from pathlib import Path

import pytest

from world_models.__main__ import PipelineConfig
from world_models.bench import command as bench
from world_models.collect import command as collect
from world_models.encode import command as encode
from world_models.evaluate import command as evaluate
from world_models.runs.tracking import WandbConfig
from world_models.runtime import cli
from world_models.train_vae import command as train_vae
from world_models.vae.config import VAEConfig

CONFIGS = Path(__file__).parents[2] / "configs"
SCHEMAS = {
    "collect": collect.CollectConfig,
    "train_vae": train_vae.TrainConfig,
    "encode": encode.EncodeConfig,
    "evaluate": evaluate.EvaluateConfig,
}
FILES = sorted(set(CONFIGS.rglob("*.yaml")) - set(CONFIGS.glob("sweeps/*")))  # test_sweep has those


@pytest.mark.parametrize("path", FILES, ids=[str(path.relative_to(CONFIGS)) for path in FILES])
def test_every_yaml_is_loaded_by_its_command(path):
    command = "train_vae" if path.parent.name == "mnist" else path.stem
    cli.parse(SCHEMAS[command], ["--config", str(path)], prog="test")


def test_the_quick_collect_yaml_is_the_default():
    loaded = cli.parse(collect.CollectConfig, ["--config", str(CONFIGS / "collect.yaml")], prog="test")
    assert loaded == collect.CollectConfig()


def test_the_quick_train_yaml_is_the_default():
    loaded = cli.parse(train_vae.TrainConfig, ["--config", str(CONFIGS / "train_vae.yaml")], prog="test")
    assert loaded == train_vae.TrainConfig()


def test_the_papers_recipe_trains_for_ten_epochs():
    collected = cli.parse(collect.CollectConfig, ["--config", str(CONFIGS / "paper/collect.yaml")], prog="test")
    trained = cli.parse(train_vae.TrainConfig, ["--config", str(CONFIGS / "paper/train_vae.yaml")], prog="test")
    assert trained.num_frames == 10 * collected.num_episodes * 9 // 10 * (collected.max_steps + 1)


@pytest.mark.parametrize("schema", [*SCHEMAS.values(), bench.BenchConfig, PipelineConfig])
def test_a_printed_config_is_read_as_the_same_config(schema, tmp_path, capsys):
    with pytest.raises(SystemExit):
        cli.parse(schema, ["--print_config"], prog="test")
    (tmp_path / "printed.yaml").write_text(capsys.readouterr().out)
    assert cli.parse(schema, ["--config", str(tmp_path / "printed.yaml")], prog="test") == schema()


@pytest.mark.parametrize("schema", [*SCHEMAS.values(), bench.BenchConfig, PipelineConfig])
def test_a_resolved_config_is_read_as_the_same_config(schema, tmp_path):
    (tmp_path / "resolved.yaml").write_text(cli.to_yaml(schema()))
    assert cli.parse(schema, ["--config", str(tmp_path / "resolved.yaml")], prog="test") == schema()


@pytest.mark.parametrize("schema", [*SCHEMAS.values(), bench.BenchConfig, PipelineConfig, VAEConfig, WandbConfig])
def test_every_field_is_explained_by_help(schema, capsys):
    with pytest.raises(SystemExit):
        cli.parse(schema, ["--help"], prog="test")
    shown = " ".join(capsys.readouterr().out.split())
    documented = [line.strip() for line in (schema.__doc__ or "").splitlines()]
    for field in dataclasses.fields(schema):
        (line,) = [line for line in documented if line.startswith(f"{field.name}: ")]
        nested = dataclasses.is_dataclass(field.default_factory)  # a group, headed by its own docstring
        assert nested or line.partition(": ")[2][:40] in shown
