"""Training on several data sets of rollouts: what is trained on, what is recorded, and what is refused."""

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from world_models.data.frames import FrameSet
from world_models.data.rollouts import Rollouts
from world_models.data.several import open_rollouts
from world_models.data.split import split_episodes
from world_models.data.weighted import WeightedFrameSet
from world_models.runs import description, provenance
from world_models.runs.artifacts import Product
from world_models.runs.description import DataSet
from world_models.runs.resume import load_state
from world_models.runtime import cli, files
from world_models.runtime.errors import Stopped
from world_models.train_vae import command
from world_models.train_vae.config import TrainConfig
from world_models.train_vae.learner import Learner
from world_models.vae.model import VAEConfig

SMALL = "--num_frames 32 --batch_size 16 --lr_warmup_frames 8 --val_every_frames 1000 --vae.z_dim 2 --num_val_frames 8"

pytestmark = pytest.mark.usefixtures("one_thread")

MakeRollouts = Callable[..., Path]


@pytest.fixture
def a(make_rollouts: MakeRollouts) -> Path:
    return make_rollouts([6, 5], [4], name="a")


@pytest.fixture
def b(make_rollouts: MakeRollouts) -> Path:
    return make_rollouts([9, 8], name="b", seed=100, env="Other-v0")


def _config(out: Path, *data: Path, **more: Any) -> TrainConfig:
    return TrainConfig(data=tuple(map(str, data)), out=str(out), vae=VAEConfig(z_dim=2), **more)


def _train(out: Path, *data: Path, more: str = "") -> Path:
    command.main([*f"--out {out} {SMALL} {more}".split(), "--data", json.dumps([str(each) for each in data])])
    return out


def _refused(out: Path, *data: Path, more: str = "") -> str:
    """The line that says why. Nothing was written."""
    with pytest.raises((ValueError, OSError)) as refusal:
        _train(out, *data, more=more)
    assert not out.exists()
    return str(refusal.value)


# the setting


def test_a_list_of_one_data_set_is_that_data_set(a: Path, tmp_path: Path):
    assert _config(tmp_path / "run", a) == TrainConfig(data=str(a), out=str(tmp_path / "run"), vae=VAEConfig(z_dim=2))


@pytest.mark.parametrize("given", ["[1,3]", "[1.0, 3]"])
def test_whole_numbers_are_weights(given: str):
    config = cli.parse(TrainConfig, ["--data", "[a,b]", "--data_weights", given], prog="test")
    assert config.data_weights == (1.0, 3.0)
    assert yaml.safe_load(cli.to_yaml(config))["data_weights"] == [1.0, 3.0]


@pytest.mark.parametrize(("given", "wanted"), [("[x,1]", "x; give a number"), ("3", r"3; give a list in brackets")])
def test_weights_that_are_no_numbers_are_refused(given: str, wanted: str):
    with pytest.raises(ValueError, match=f"^data_weights is {wanted}"):
        cli.parse(TrainConfig, ["--data", "[a,b]", "--data_weights", given], prog="test")


@pytest.mark.parametrize(
    ("names", "weights", "said"),
    [
        ("ab", (1.0,), r"data_weights is \[1.0\]; give 2 numbers, one for each data set"),
        ("ab", (1.0, 0.0), r"data_weights is \[1.0, 0.0\]; give numbers above 0"),
        ("ab", (1.0, -1.0), "give numbers above 0"),
        ("ab", (1.0, float("nan")), "give numbers above 0"),
        ("ab", (1.0, float("inf")), "give numbers above 0"),
        ("a", (1.0,), "but data is one data set; leave data_weights out"),
        ("aba", (), "data names /.*a twice; name each data set once"),
        ("", (), "data names nothing; name each data set once"),
    ],
)
def test_a_wrong_mixture_is_refused_by_its_setting(tmp_path: Path, names: str, weights: tuple[float, ...], said: str):
    with pytest.raises(ValueError, match=said):
        _config(tmp_path / "run", *(tmp_path / name for name in names), data_weights=weights)


def test_a_data_set_is_not_written_into(a: Path, b: Path):
    with pytest.raises(ValueError, match="the folder of the data; give the run another --out"):
        _config(b, a, b)


def test_digits_are_not_mixed(tmp_path: Path):
    with pytest.raises(ValueError, match="for mnist give one folder, that holds MNIST/raw"):
        TrainConfig(dataset="mnist", data=(str(tmp_path / "a"), str(tmp_path / "b")), vae=VAEConfig(network="mlp"))


# what is trained on


def test_training_and_validation_are_those_of_each_set(a: Path, b: Path, tmp_path: Path):
    job, both = command.prepare(_config(tmp_path / "run", a, b)), open_rollouts([a, b])
    splits = [split_episodes(each.seeds, 0) for each in both.sets]
    train = FrameSet(both, [*splits[0].train, *(3 + episode for episode in splits[1].train)])
    held_out = FrameSet(both, [*splits[0].val, *(3 + episode for episode in splits[1].val)])
    assert (job.data.train.read_all() == train.read_all()).all()
    assert (job.data.held_out.read_all() == held_out.read_all()).all()


def test_weights_draw_the_frames(a: Path, b: Path, tmp_path: Path):
    train = command.prepare(_config(tmp_path / "run", a, b, data_weights=(1.0, 3.0))).data.train
    assert isinstance(train, WeightedFrameSet)
    assert train.num_drawn[1] == pytest.approx(3 * train.num_drawn[0], abs=3)


# what is recorded


@pytest.mark.parametrize("weights", ["", "[1,3]"])
def test_model_json_names_every_set(a: Path, b: Path, tmp_path: Path, weights: str):
    run = _train(tmp_path / "run", a, b, more=f"--data_weights {weights}" if weights else "")
    found = description.load(run).trained_on
    sets = [Rollouts(folder) for folder in (a, b)]
    seeds = [each.seeds[list(split_episodes(each.seeds, 0).train)].tolist() for each in sets]
    assert found.sets == [
        DataSet(str(each.path), each.digest(), each.env, {}, trained) for each, trained in zip(sets, seeds, strict=True)
    ]
    assert found.data_digest == open_rollouts([a, b]).digest()
    assert found.data_weights == ([1.0, 3.0] if weights else None)
    assert (found.dataset, found.data, found.env, found.split_seed) == ("rollouts", None, None, 0)
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert (config["data"], config.get("data_weights")) == ([str(a), str(b)], [1.0, 3.0] if weights else None)


@pytest.mark.slow
def test_config_yaml_of_a_mixture_can_be_trained_again(a: Path, b: Path, tmp_path: Path):
    first = _train(tmp_path / "first", a, b, more="--data_weights [1,3]")
    command.main(["--config", str(first / "config.yaml"), "--out", str(tmp_path / "again")])
    assert files.file_sha256(first / "state.pt") == files.file_sha256(tmp_path / "again" / "state.pt")


def test_a_run_on_one_set_is_recorded_as_before(a: Path, tmp_path: Path):
    run = _train(tmp_path / "run", a)
    keys = [*json.loads((run / "model.json").read_text())]
    last = ["versions", "dataset", "data", "data_digest", "env", "env_args", "train_seeds", "split_seed", "step"]
    assert keys == ["format", "architecture", "vae", "preprocess", *last]
    assert "data_weights" not in (run / "config.yaml").read_text()


def test_wandb_is_given_every_set(a: Path, b: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    given: list[Product] = []
    monkeypatch.setattr("world_models.runs.tracking.Tracker.log_input", lambda self, product: given.append(product))
    _train(tmp_path / "run", a, b)
    (product,) = given
    assert (product.kind, product.digest) == ("dataset", open_rollouts([a, b]).digest())
    assert [(part.path, part.digest, part.facts["env"]) for part in product.parts] == [
        (str(each), Rollouts(each).digest(), Rollouts(each).env) for each in (a, b)
    ]


def test_the_record_knows_the_episodes_of_every_set(a: Path, b: Path, tmp_path: Path):
    record = provenance.load(_train(tmp_path / "run", a, b))
    for folder in (a, b):
        data = Rollouts(folder)
        train = {int(data.seeds[episode]) for episode in split_episodes(data.seeds, 0).train}
        assert record.trained_seeds(data) == train <= record.seeds
        assert record.num_trained_episodes(data) == len(train)
    assert record.num_trained_episodes(open_rollouts([a, b])) == 3
    assert record.rollouts().digest() == open_rollouts([a, b]).digest()


# resuming


def _interrupted(out: Path, *data: Path, more: str) -> Path:
    learn = Learner.learn

    def stop(self: Learner, *args: Any) -> None:
        learn(self, *args)
        if self.step == 3:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(Learner, "learn", stop)
        _train(out, *data, more=more)
    return out


@pytest.mark.slow
def test_a_resumed_mixture_has_the_same_weights(a: Path, b: Path, tmp_path: Path):
    more = "--data_weights [1,3] --num_frames 90 --batch_size 8"
    whole = _train(tmp_path / "whole", a, b, more=more)
    broken = _interrupted(tmp_path / "broken", a, b, more=more)
    assert load_state(broken)["step"] < load_state(whole)["step"]
    _train(broken, a, b, more=f"{more} --resume true")
    assert files.file_sha256(whole / "model.safetensors") == files.file_sha256(broken / "model.safetensors")


@pytest.fixture
def run(a: Path, b: Path, tmp_path: Path) -> Path:
    return _train(tmp_path / "run", a, b, more="--data_weights [1,3]")


def _not_resumed(out: Path, *data: Path, more: str) -> str:
    before = (out / "state.pt").read_bytes()
    with pytest.raises(ValueError) as refusal:
        _train(out, *data, more=f"{more} --resume true")
    assert (out / "state.pt").read_bytes() == before
    return str(refusal.value)


def test_resuming_checks_weights_and_sets(run: Path, a: Path, b: Path, make_rollouts: MakeRollouts):
    assert "data_weights [1.0, 3.0], not [1.0, 2.0]: give --config" in _not_resumed(
        run, a, b, more="--data_weights [1,2]"
    )
    assert "data_weights [1.0, 3.0], not []: give --config" in _not_resumed(run, a, b, more="")
    assert "its training data have changed" in _not_resumed(run, b, a, more="--data_weights [1,3]")
    other = make_rollouts([9, 8], name="other", seed=300)
    assert "its training data have changed" in _not_resumed(run, a, other, more="--data_weights [1,3]")


def test_sets_that_were_moved_are_resumed(run: Path, a: Path, b: Path, tmp_path: Path):
    moved = [Path(shutil.move(folder, tmp_path / f"moved-{folder.name}")) for folder in (a, b)]
    config = _config(run, *moved, data_weights=(1.0, 3.0), num_frames=32, batch_size=16, lr_warmup_frames=8)
    config = TrainConfig(**vars(config) | {"val_every_frames": 1000, "num_val_frames": 8, "resume": True})
    assert command.prepare(config).is_finished


def test_an_older_run_is_resumed_without_weights(a: Path, tmp_path: Path):
    run = _train(tmp_path / "run", a)
    assert "data_weights" not in (run / "config.yaml").read_text()
    _train(run, a, more="--resume true")


# what is refused


def test_mixed_frames_are_refused_by_name(a: Path, make_rollouts: MakeRollouts, tmp_path: Path):
    cropped = make_rollouts([5, 5], name="c", seed=500, preprocess={"crop": [0, 80], "size": 64})
    assert _refused(tmp_path / "run", a, cropped).startswith(f"{cropped}: frames with preprocess ")


def test_a_set_that_is_not_there_is_refused_by_name(a: Path, tmp_path: Path):
    assert _refused(tmp_path / "run", a, tmp_path / "nowhere").startswith(f"{tmp_path / 'nowhere'}: no such file")


def test_a_copied_set_is_refused_by_name(a: Path, tmp_path: Path):
    copy = shutil.copytree(a, tmp_path / "copy")
    assert _refused(tmp_path / "run", a, copy).startswith(f"{copy}: its episode of seed 0 is also in {a}; leave one")


def test_a_weight_too_small_for_a_frame_is_refused_by_name(a: Path, b: Path, tmp_path: Path):
    line = _refused(tmp_path / "run", a, b, more="--data_weights [1,1000]")
    assert line.startswith(f"data_weights gives {a} 1 of 1001, which is none of the ")
