"""Make one HTML page on which anybody can play with a V model. It works by double click, without a network.

Examples:
  python -m world_models.explore --vae runs/vae --data rollouts/heldout --out explorer.html
  python -m world_models.explore --vae runs/a --compare_with '[runs/b,runs/c]'   the same frames for up to four models
  python -m world_models.explore --vae runs/vae --episodes '[3,5]'               chosen episodes
  python -m world_models.explore --vae runs/mnist/vae                            digits: MNIST's test images

Collect held-out tracks with another seed:
  python -m world_models.collect --out rollouts/heldout --seed 1000000 --num_episodes 8
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import yaml

from world_models.explore import contents, page, shown
from world_models.explore.config import MAX_MODELS, ExploreConfig
from world_models.explore.contents import Model
from world_models.explore.shown import Shown
from world_models.runs import checkpoints, description, layout, records, tracking
from world_models.runs.artifacts import Product
from world_models.runtime import files, terminal, untrusted
from world_models.runtime.cli import run_command, to_yaml
from world_models.runtime.distributed import torch_device
from world_models.runtime.errors import require

ROOM_BYTES = 50_000_000
MAX_Z_DIM = 1024


@dataclasses.dataclass(frozen=True)
class Job:
    """A checked page.

    Attributes:
        config: its settings.
        models: the models; the first is on the sliders.
        shown: the frames.
        notes: what is left out, and what is too good to be true.
    """

    config: ExploreConfig
    models: Sequence[Model]
    shown: Shown
    notes: Sequence[str]
    is_finished = False

    @property
    def num_frames(self) -> int:
        """Number of frames that are shown."""
        return self.shown.num_frames


def prepare(config: ExploreConfig) -> Job:
    """Load the models, open the data, and check that the page can be written.

    Raises:
        ValueError, OSError: the input is bad. Nothing was written.
    """
    run, out = Path(config.vae), Path(config.out)
    records.check_files(run)
    found = description.load(run)
    others = records.other_runs(run, found.trained_on.dataset, [Path(folder) for folder in config.compare_with])
    require(
        len(others.runs) < MAX_MODELS,
        f"compare_with holds {len(others.runs)} runs; name {MAX_MODELS - 1} at most, one by one",
    )
    load = checkpoints.load_digits_vae if found.trained_on.dataset == "mnist" else checkpoints.load_vae
    device = torch_device(config.device)
    names = [others.own_name or run.name, *(other.name for other in others.runs)]
    models = [
        Model(name, path, config.weights, load(path, config.weights, device))
        for name, path in zip(names, [run, *(other.path for other in others.runs)], strict=True)
    ]
    for model in models:
        z_dim = model.vae.config.z_dim
        require(z_dim <= MAX_Z_DIM, f"{model.run}: z has {z_dim:,} dimensions; the page can show {MAX_Z_DIM:,} at most")
    chosen = shown.prepare(config, found, [(model.run, model.vae) for model in models])
    untrusted.is_file(out)
    files.check_room(out.parent, ROOM_BYTES)
    return Job(config, models, chosen, [*others.notes, *chosen.notes])


def explore(job: Job) -> None:
    """Write the page, and log it to W&B if `config.wandb` says so."""
    out = Path(job.config.out)
    terminal.warn(*job.notes)
    found, blobs = contents.contents(job.models, job.shown)
    text = page.render(found, blobs)
    files.make_folder(out.parent)
    files.remove_partials(out.parent, names=(out.name,))
    files.write_text(out, text)
    size_mb = out.stat().st_size / 1e6
    terminal.say(f"{out}: {size_mb:.1f} MB, {_count(len(job.models), 'model')}, {_count(job.num_frames, 'frame')}")
    _log_to_wandb(job, out)


def _count(number: int, thing: str) -> str:
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def _log_to_wandb(job: Job, out: Path) -> None:
    weights = [files.file_sha256(layout.weights_path(model.run, model.weights)) for model in job.models]
    products = [Product("model", str(model.run), sha256) for model, sha256 in zip(job.models, weights, strict=True)]
    settings = yaml.safe_load(to_yaml(job.config)) | {"data": job.shown.product.path}
    outcome = tracking.Outcome((job.shown.product, *products), pages={"explorer": out})
    tracking.record(job.models[0].run, settings, job.config.wandb, "explore", outcome)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    run_command(__doc__, ExploreConfig, prepare, explore, argv)
