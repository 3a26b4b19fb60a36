"""W&B artifacts: they are small, are named by the contents of the data, and can fail without harm."""

import threading
from pathlib import Path
from typing import Any

import pytest

from world_models.runs.artifacts import Product, declare

DATA = Product("dataset", "rollouts/car racing", "abc", {"env": "CarRacing-v3"})
MODEL = Product("model", "runs/vae", "def")
LATENTS = Product("latents", "latents/a", "ghi")


class _Run:
    """Stands in for a W&B run."""

    def __init__(self, offline: bool = False, error: Exception | None = None):
        self.offline, self._error = offline, error
        self.config_changes: list[bool] = []
        self.artifacts: list[tuple[str, Any]] = []
        outer = self

        class Config(dict[str, Any]):
            def update(self, values: Any, allow_val_change: bool = False) -> None:  # type: ignore[override]
                outer.config_changes.append(allow_val_change)
                super().update(values)

        self.config = Config()

    def use_artifact(self, artifact: Any) -> None:
        self._take("use", artifact)

    def log_artifact(self, artifact: Any) -> None:
        self._take("log", artifact)

    def _take(self, verb: str, artifact: Any) -> None:
        if self._error:
            raise self._error
        self.artifacts.append((verb, artifact))


@pytest.fixture(autouse=True)
def no_traces(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))


@pytest.mark.parametrize(
    ("product", "hashes"),
    [(DATA, {"data_digest": "abc"}), (MODEL, {"vae_sha256": "def"}), (LATENTS, {"latents_digest": "ghi"})],
)
def test_a_hash_has_the_same_name_as_on_disk(product: Product, hashes: dict[str, str]):
    assert product.hashes == hashes


@pytest.mark.parametrize("offline", [False, True])
def test_the_config_has_the_hash(offline: bool):
    run = _Run(offline)
    declare(run, DATA, "use_artifact", print).join()
    assert run.config == {"data_digest": "abc"}


def test_a_resumed_run_may_have_another_model():
    run = _Run()
    declare(run, MODEL, "log_artifact", print).join()
    assert run.config_changes == [True]


@pytest.mark.parametrize(("verb", "done"), [("use_artifact", "use"), ("log_artifact", "log")])
def test_an_online_run_declares_its_artifact(verb: Any, done: str):
    run = _Run()
    declare(run, DATA, verb, print).join()
    ((found, artifact),) = run.artifacts
    assert (found, artifact.type, artifact.metadata["env"]) == (done, "dataset", "CarRacing-v3")


def test_an_offline_run_has_no_artifact():
    run = _Run(offline=True)
    declare(run, DATA, "use_artifact", print).join()
    assert run.artifacts == []


@pytest.mark.parametrize("error", [TypeError("offline"), ConnectionError("no network"), ValueError("a bad name")])
def test_a_failure_of_an_artifact_is_not_raised(error: Exception, capsys: pytest.CaptureFixture[str]):
    declare(_Run(error=error), DATA, "use_artifact", print).join()
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("rollouts/car racing could not be declared as an artifact")


def test_a_server_that_never_answers_is_not_waited_for():
    run, answer = _Run(), threading.Event()
    run.use_artifact = lambda artifact: answer.wait()  # type: ignore[method-assign, assignment]
    thread = declare(run, DATA, "use_artifact", print)
    assert thread.is_alive()
    assert thread.daemon
    answer.set()
    thread.join()


def test_each_of_several_data_sets_is_an_artifact():
    run, parts = _Run(), [DATA, Product("dataset", "rollouts/b", "xyz")]
    declare(run, Product("dataset", "rollouts/a, rollouts/b", "both", parts=parts), "use_artifact", print).join()
    assert run.config == {"data_digest": "both"}
    assert [artifact.name for _, artifact in run.artifacts] == ["car_racing-dataset", "b-dataset"]


def test_an_artifact_has_the_name_of_its_folder_in_characters_that_wandb_accepts():
    assert DATA.artifact().name == "car_racing-dataset"


def test_an_artifact_uploads_no_more_than_the_digest():
    artifact = DATA.artifact()
    assert list(artifact.manifest.entries) == ["digest.txt"]
    assert artifact.size == len("abc")


def test_equal_data_in_another_place_is_the_same_version():
    elsewhere = Product("dataset", "/data/car racing", "abc", {"env": "other"})
    assert DATA.artifact().digest == elsewhere.artifact().digest


def test_other_data_gives_another_version():
    assert DATA.artifact().digest != Product("dataset", "rollouts/car racing", "xyz").artifact().digest
