"""Rollouts and latents as Minari reads them. Every warning of Minari is an error here."""

import importlib.metadata
import json
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from conftest import largest_file

minari = pytest.importorskip("minari")
from minari.data_collector import EpisodeBuffer  # noqa: E402

from world_models import convert  # noqa: E402
from world_models.convert import minari_metadata  # noqa: E402
from world_models.convert.config import ConvertConfig  # noqa: E402
from world_models.convert.formats.minari_writing import plan  # noqa: E402
from world_models.data.latents import Latents, write_latents  # noqa: E402
from world_models.data.rollouts import Rollouts, write_rollouts  # noqa: E402
from world_models.data.shards import shard_path  # noqa: E402
from world_models.runtime.errors import Stopped  # noqa: E402

Make = Callable[..., Path]
COLUMNS = ("frames", "actions", "rewards", "terminated", "truncated", "telemetry")


@pytest.fixture(autouse=True)
def no_warnings() -> Iterator[None]:
    import Box2D  # noqa: F401  # which warns when it is imported

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "root"))
    return tmp_path / "root"


@pytest.fixture
def out(root: Path) -> Path:
    return root / "pictures-v0"


@pytest.fixture
def data(make_rollouts: Make) -> Path:
    """Episodes in two shards; some of them longer than a chunk."""
    return make_rollouts([5, 1], [20, 4], env="CarRacing-v3")


def export(data: Path, out: Path, *more: str) -> Path:
    convert.main([*f"--data {data} --out {out} --format minari".split(), *more])
    return out


def refusal(data: Path, out: Path, *more: str) -> str:
    """The line that says why an export is refused."""
    with pytest.raises((ValueError, OSError)) as refused:
        export(data, out, *more)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def equal(found: Any, wanted: np.ndarray) -> bool:
    """Whether two arrays have the same dtype, shape and bits."""
    return (found.dtype, found.shape, found.tobytes()) == (wanted.dtype, wanted.shape, wanted.tobytes())


# what Minari reads


def test_minari_reads_every_column_bit_for_bit(data: Path, out: Path):
    export(data, out)
    rollouts, read = Rollouts(data), minari.load_dataset("pictures-v0")
    assert (read.total_episodes, read.total_steps) == (4, 30)
    for episode, theirs in zip(rollouts, read, strict=True):
        assert equal(theirs.observations, episode.frames)
        assert equal(theirs.actions, episode.actions)
        assert equal(theirs.rewards, episode.rewards)
        assert equal(theirs.terminations, episode.terminated)
        assert equal(theirs.truncations, episode.truncated)
        assert tuple(theirs.infos["telemetry"]) == rollouts.telemetry_names
        for number, name in enumerate(rollouts.telemetry_names):
            assert equal(theirs.infos["telemetry"][name], episode.telemetry[:, number].copy())


def test_minari_reads_seed_and_policy_of_an_episode(data: Path, out: Path):
    export(data, out)
    read = minari.load_dataset("pictures-v0")
    found = list(read.storage.get_episode_metadata(range(4)))
    assert [(each["id"], each["seed"], each["policy"], each["total_steps"]) for each in found] == [
        (0, 0, "brownian", 5),
        (1, 1, "driver", 1),
        (2, 2, "brownian", 20),
        (3, 3, "driver", 4),
    ]


def test_the_metadata_are_all_that_minari_asks_for(data: Path, out: Path):
    settings = {"author": "A. Student", "author_email": "a@b.c", "code_permalink": "https://example.org/code"}
    export(data, out, *(f"--minari.{name}={value}" for name, value in settings.items()))
    spec, found = gymnasium.spec("CarRacing-v3"), minari.load_dataset("pictures-v0").storage.metadata
    episode = EpisodeBuffer(observations=[0, 0], actions=[0], rewards=[0.0], terminations=[True], truncations=[False])
    asked = minari.create_dataset_from_buffers(  # which warns of everything that is left out
        "asked-v0",
        [episode],
        env=spec,
        eval_env=spec,
        algorithm_name="a",
        author="b",
        author_email="c",
        code_permalink="d",
        description="e",
        requirements=["f"],
        observation_space=gymnasium.spaces.Discrete(1),
        action_space=gymnasium.spaces.Discrete(1),
    )
    assert asked.storage.metadata.keys() <= found.keys()
    assert (found["author"], found["author_email"]) == ({"A. Student"}, {"a@b.c"})
    assert found["code_permalink"] == "https://example.org/code"
    assert found["algorithm_name"] == "brownian, driver"
    assert found["description"].startswith("Rollouts of CarRacing-v3: frames of 64x64 pixels")
    assert found["dataset_size"] == minari.load_dataset("pictures-v0").storage.get_size()


def test_minari_lists_the_data_set_and_shows_it(data: Path, out: Path):
    export(data, out)
    listed = minari.list_local_datasets()
    assert list(listed) == ["pictures-v0"]
    assert minari.utils.get_dataset_spec_dict(listed["pictures-v0"])["Author"] == "unknown"


def test_the_environment_can_be_recovered(data: Path, out: Path):
    export(data, out)
    read = minari.load_dataset("pictures-v0")
    assert read.env_spec.id == "CarRacing-v3"
    with read.recover_environment() as env:
        assert env.action_space.shape == (3,)


def test_minari_combines_filters_and_splits_it(data: Path, out: Path, root: Path):
    export(data, out)
    export(data, root / "others-v1")
    both = [minari.load_dataset(name) for name in ("pictures-v0", "others-v1")]
    assert len(both[0].filter_episodes(lambda episode: bool(episode.terminations[-1]))) == 2
    assert [len(part) for part in minari.split_dataset(both[0], [1, 3], seed=0)] == [1, 3]
    assert minari.utils.validate_datasets_to_combine(both) is not None


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("observations", ["mu", "mu_logvar"])
def test_minari_reads_latents_bit_for_bit(make_latents: Make, out: Path, dtype: str, observations: str):
    data = make_latents([5, 3], [6], dtype=dtype)
    export(data, out, "--minari.observations", observations)
    read = minari.load_dataset("pictures-v0")
    for episode, theirs in zip(Latents(data), read, strict=True):
        found = theirs.observations
        mu, logvar = (found["mu"], found["logvar"]) if observations == "mu_logvar" else (found, theirs.infos["logvar"])
        assert equal(mu, episode.mu)
        assert equal(logvar, episode.logvar)
        assert equal(theirs.actions, episode.actions)
        assert read.observation_space.contains({"mu": mu[0], "logvar": logvar[0]} if found is not mu else mu[0])
    assert read.env_spec is None
    assert read.storage.metadata["description"].startswith("Latents: the posterior of a VAE for each frame, z_dim 4")


# there and back


def test_an_import_of_the_export_gives_equal_columns(data: Path, out: Path, tmp_path: Path):
    convert.main(f"--data {export(data, out)} --out {tmp_path}/back --executor serial".split())
    before, after = Rollouts(data), Rollouts(tmp_path / "back", verify=True)
    for episode, again in zip(before, after, strict=True):
        for name in COLUMNS:
            assert equal(getattr(again, name), getattr(episode, name)), name
    assert (after.env, after.telemetry_names) == (before.env, before.telemetry_names)


def write_discrete(folder: Path, space: dict[str, Any], actions: list[list[float]]) -> Path:
    """Rollouts of one episode with these actions."""
    folder.mkdir()
    attributes = {
        "env": "Synthetic-v0",
        "preprocess": '{"crop": null, "size": 64, "interpolation": "INTER_AREA"}',
        "action_space": json.dumps(space),
        "warmup_steps": 0,
        "config": "seed: 0\n",
    }
    frame, none = np.zeros((64, 64, 3), np.uint8), np.zeros(0, np.float32)
    with write_rollouts(shard_path(folder, 0), len(actions[0]), (), attributes) as rollouts:
        for step, action in enumerate(actions):
            rollouts.step(frame, none, np.array(action, np.float32), 1.0, False, step + 1 == len(actions))
        rollouts.end_episode(frame, none, 7, "random")
    return folder


@pytest.mark.parametrize(
    ("space", "actions", "wanted"),
    [
        ({"type": "Discrete", "n": 3, "start": 1}, [[1], [3]], "Discrete(3, start=1)"),
        ({"type": "Box", "shape": [2, 1], "low": [0, None], "high": [1, 2]}, [[0, 1], [1, 2]], None),
        ({"type": "MultiDiscrete", "shape": [2]}, [[0, 1], [1, 2]], "Box(-inf, inf, (2,), float32)"),
        ({"type": "Box", "shape": [3], "low": [0], "high": [1, 2]}, [[0, 1]], "Box(-inf, inf, (2,), float32)"),
        ({"type": "Box", "shape": [1], "low": [0], "high": [1]}, [[0, 1]], "Box(-inf, inf, (2,), float32)"),
        ({}, [[], []], "Box([], [], (0,), float32)"),
    ],
)
def test_actions_of_any_space_are_read_back(tmp_path: Path, out: Path, space: dict, actions: list, wanted: str | None):
    data = write_discrete(tmp_path / "data", space, actions)
    convert.main(f"--data {export(data, out)} --out {tmp_path}/back --executor serial".split())
    read, after = minari.load_dataset("pictures-v0"), Rollouts(tmp_path / "back")
    assert equal(after[0].actions, Rollouts(data)[0].actions)
    assert after.env == "minari"
    if wanted:
        assert str(read.action_space) == wanted
    else:
        assert after.action_space == space
    assert read.action_space.contains(read[0].actions[0])


def test_latents_have_the_action_space_of_their_rollouts(tmp_path: Path, out: Path):
    data = write_discrete(tmp_path / "data", {"type": "Discrete", "n": 3, "start": 1}, [[1], [3]])
    (tmp_path / "latents").mkdir()
    source, attributes = Rollouts(data).shards[0], {"vae_sha256": "ab" * 32, "config": ""}
    with write_latents(shard_path(tmp_path / "latents", 0), source, 2, "float32", attributes) as latents:
        latents.append(*np.zeros((2, source.num_rows, 2), np.float32))
    read = minari.load_dataset(export(tmp_path / "latents", out).name)
    assert str(read.action_space) == "Discrete(3, start=1)"
    assert read[0].actions.tolist() == [1, 3]


# where it is written


def test_an_id_may_have_namespaces(data: Path, root: Path):
    export(data, root / "ours/cars/pictures-v0")
    assert len(minari.load_dataset("ours/cars/pictures-v0")) == 4
    assert minari.namespace.list_local_namespaces() == ["ours", "ours/cars"]


def test_outside_of_minaris_folder_existing_namespaces_are_found(data: Path, tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "root"))
    (tmp_path / "other/cars").mkdir(parents=True)
    (tmp_path / "other/cars/namespace_metadata.json").write_text('{"description": "cars"}')
    export(data, tmp_path / "other/cars/pictures-v0")
    assert f"MINARI_DATASETS_PATH={tmp_path / 'other'}\n" in capsys.readouterr().out
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "other"))
    assert minari.load_dataset("cars/pictures-v0").id == "cars/pictures-v0"
    assert (tmp_path / "other/cars/namespace_metadata.json").read_text() == '{"description": "cars"}'


@pytest.mark.parametrize("name", ["pictures", "pictures-v", "a+b-v0", "a.b-v0"])
def test_a_name_that_is_no_id_is_refused(data: Path, root: Path, name: str):
    assert f"Minari takes no id {name!r}; give a name of letters" in refusal(data, root / name)
    assert not root.exists()


def test_a_finished_export_is_not_repeated(data: Path, out: Path, capsys):
    export(data, out)
    written = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    export(data, out)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == written
    assert capsys.readouterr().out.endswith(", finished before\n")


def test_an_empty_folder_is_filled(data: Path, out: Path):
    out.mkdir(parents=True)
    export(data, out)
    assert len(minari.load_dataset("pictures-v0")) == 4


@pytest.mark.parametrize("other", ["author", "data"])
def test_another_data_set_of_the_same_name_is_kept(data: Path, make_latents: Make, tmp_path: Path, out: Path, other):
    export(data, out)
    before = (out / "data/metadata.json").read_bytes()
    more, wanted = (
        (("--minari.author", "B"), "author is unknown, wanted B") if other == "author" else ((), "digest is ")
    )
    if other == "data":
        data = next((tmp_path / "rollouts").glob("shard-00000.h5"))
    assert f"{out}: a data set whose {wanted}" in refusal(data, out, *more)
    assert (out / "data/metadata.json").read_bytes() == before


@pytest.mark.parametrize("metadata", [None, "", "[]", "{}", '{"world_models": 3}', '{"world_models": {}}'])
def test_a_folder_that_convert_has_not_written_is_kept(data: Path, out: Path, metadata: str | None):
    (out / "data").mkdir(parents=True)
    if metadata is not None:
        (out / "data/metadata.json").write_text(metadata)
    assert refusal(data, out) == f"{out}: exists, and convert has not written it; choose another --out"


def test_a_file_in_the_place_of_the_data_set_is_kept(data: Path, out: Path):
    out.parent.mkdir()
    out.write_text("mine")
    assert "exists, and convert has not written it" in refusal(data, out)


def test_a_full_disk_ends_with_one_line_and_leaves_nothing(data: Path, out: Path):
    with largest_file(100_000), pytest.raises(Stopped, match=r"^[^\n]*ulimit[^\n]*$"):
        export(data, out)
    assert not list(out.parent.iterdir())


def test_an_error_while_the_arrays_are_written_leaves_nothing(data: Path, out: Path, monkeypatch):
    def unreadable(*_: object) -> bytes:
        raise Stopped("shard-00001.h5: frames cannot be read")

    monkeypatch.setattr("world_models.convert.minari_arrays.isal_zlib.compress", unreadable)
    with pytest.raises(Stopped, match="frames cannot be read"):
        export(data, out)
    assert not list(out.parent.iterdir())


def test_the_unfinished_folder_of_a_killed_process_is_deleted(data: Path, out: Path, leave_partial):
    out.parent.mkdir()
    partial = leave_partial(out.parent / ".pictures-v0")
    partial.unlink()
    partial.mkdir()
    (partial / "data").mkdir()
    export(data, out)
    assert not partial.exists()
    assert [path.name for path in out.parent.iterdir()] == [out.name]


# refused


@pytest.mark.parametrize(("found", "message"), [(None, "Minari is not installed"), ("0.5.3", "0.5.3 stores images")])
def test_an_old_minari_or_none_is_refused(data: Path, out: Path, monkeypatch, found: str | None, message: str):
    def version(name: str) -> str:
        if found is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return found

    monkeypatch.setattr("world_models.convert.formats.minari_writing.importlib.metadata.version", version)
    assert message in refusal(data, out)
    assert not out.parent.exists()


def test_settings_that_would_be_ignored_are_refused(data: Path, out: Path):
    assert "rows is given, but whole episodes" in refusal(data, out, "--rows", "5")
    assert "minari.observations is for latents" in refusal(data, out, "--minari.observations", "mu_logvar")
    with pytest.raises(ValueError, match="minari is given, but format is npz"):
        convert.main(f"--data {data} --out {out} --format npz --minari.author me".split())
    assert "minari.author is ' '; give a line of text" in refusal(data, out, "--minari.author", " ")
    assert not out.parent.exists()


def test_discrete_actions_that_are_not_in_their_space_are_refused(tmp_path: Path, out: Path):
    for number, wrong in enumerate((0.5, 3, -1)):
        space = {"type": "Discrete", "n": 3, "start": 0}
        data = write_discrete(tmp_path / str(number), space, [[0], [wrong]])
        assert f"the action {float(wrong)} is not in Discrete(3); check the data set" in refusal(data, out)
    assert not out.parent.exists()


@pytest.mark.parametrize("name", ["speed_m/s", ".", ""])
def test_telemetry_that_cannot_name_an_array_is_refused(data: Path, out: Path, monkeypatch, name: str):
    rollouts = Rollouts(data)
    rollouts.telemetry_names = ("a", name)
    with pytest.raises(ValueError, match="cannot name an array in HDF5"):
        plan(rollouts, out, ConvertConfig(str(data), str(out), "minari"))


# environments


def test_an_environment_keeps_its_arguments(data: Path):
    rollouts = Rollouts(data)
    rollouts.env_args.update(domain_randomize=True)
    spec = minari_metadata.env_spec(rollouts)
    assert spec is not None
    assert spec.kwargs == {"domain_randomize": True}
    assert gymnasium.spec("CarRacing-v3").kwargs == {}


def test_an_unknown_environment_or_one_made_by_a_function_is_left_out(make_rollouts: Make, out: Path):
    data = make_rollouts([3], env="os:Functional-v0")
    assert minari_metadata.env_spec(Rollouts(data)) is None
    gymnasium.register("Functional-v0", lambda: None)  # pyright: ignore[reportArgumentType]
    try:
        assert minari_metadata.env_spec(Rollouts(data)) is None
        export(data, out)
    finally:
        del gymnasium.registry["Functional-v0"]
    read = minari.load_dataset("pictures-v0")
    assert read.env_spec is None
    assert read.storage.metadata["requirements"] == ["gymnasium>=1.1"]


def test_planning_writes_nothing(data: Path, out: Path):
    planned = plan(Rollouts(data), out, ConvertConfig(str(data), str(out), "minari"))
    assert (planned.num_rows, planned.warnings, planned.is_finished) == (34, (), False)
    assert planned.need_bytes == 34 * (2000 + 4 * (3 + 1 + 1 + 1 + 2))
    assert not out.parent.exists()
