"""Compare runs: a table in the terminal, and a page with their curves, their settings and their reconstructions.

Examples:
  python -m world_models.compare runs/a runs/b
  python -m world_models.compare runs                      every run in this folder, also one that is still training
  python -m world_models.compare runs --data rollouts/heldout --out comparisons/today

Runs are sorted by the squared error of their best validation. Evaluate them on the same rollouts, and the table also
shows PCA's error, PSNR and active units.
"""

import dataclasses
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from world_models.compare import chart, frames, page, table
from world_models.drawing import grids
from world_models.runs import description, layout
from world_models.runs.records import FoundRuns, RunRecord, is_run, read_run, read_runs
from world_models.runtime import cli, files, terminal, untrusted
from world_models.runtime.cli import run_command
from world_models.runtime.distributed import Device
from world_models.runtime.errors import require
from world_models.runtime.paths import LINK, PATH, resolve_fields, resolved


@dataclasses.dataclass(frozen=True)
class CompareConfig:
    """What to compare, and where the page goes.

    Attributes:
        runs: folders of runs, or folders that hold runs; given without a flag.
        out: folder of compare.html and compare.png; null takes the folder that holds the runs.
        data: rollouts, or MNIST's folder, with the frames to show; null takes the runs' training data. Only held-out
            frames are shown.
        num_frames: number of frames to show.
        weights: best (lowest validation loss) or last.
        device: auto takes a GPU if there is one.
    """

    runs: tuple[str, ...] = dataclasses.field(default=("runs",), metadata=cli.POSITIONAL | LINK)
    out: str | None = dataclasses.field(default=None, metadata=PATH)
    data: str | None = dataclasses.field(default=None, metadata=PATH)
    num_frames: int = 8
    weights: layout.Weights = "best"
    device: Device = "auto"

    def __post_init__(self):
        resolve_fields(self)
        require(len(self.runs) > 0, "runs is empty; name the folders of runs")
        require(1 <= self.num_frames <= 100, f"num_frames is {self.num_frames}; give 1 to 100")


@dataclasses.dataclass(frozen=True)
class Job:
    """A checked comparison.

    Attributes:
        num_frames: number of frames to show.
        out: folder of the page.
        runs: the runs, best first.
        models: the models whose reconstructions are shown; None if none are shown.
        notes: what is left out, and why.
    """

    num_frames: int
    out: Path
    runs: list[RunRecord]
    models: frames.ShownModels | None
    notes: list[str]
    is_finished = False


def prepare(config: CompareConfig) -> Job:
    """Read every run, load the models whose reconstructions are shown, and check that the page can be written.

    Raises:
        ValueError, OSError: the input is bad. Nothing was written.
    """
    found = _read(config.runs)
    runs = table.by_val_sse(found.runs)
    out = Path(config.out) if config.out else _common_folder(config.runs)
    for name in ("compare.html", "compare.png"):
        untrusted.is_file(out / name)
    files.check_room(out, 20_000_000)
    models, why_not_shown = frames.load(runs, config.data, config.weights, config.device)
    return Job(config.num_frames, out, runs, models, [*found.notes, *why_not_shown])


def _read(named: Sequence[str]) -> FoundRuns:
    found = read_runs([Path(name) for name in named], read=_checked)
    if not found.runs:
        raise ValueError(f"{', '.join(named)}: no run that can be read; {found.notes[-1]}")
    return found


def _checked(path: Path, name: str) -> RunRecord:
    """A run's record; raises ValueError if its model has an unknown architecture."""
    record = read_run(path, name)
    if record.description:
        description.load(path)
    return record


def _common_folder(named: Sequence[str]) -> Path:
    """The folder that holds the named runs. If one folder of runs is named, it is that folder."""
    holding = [path.parent if is_run(path) else path for path in map(Path, named)]
    return resolved(os.path.commonpath(holding))


def compare(job: Job) -> None:
    """Print the table, and write compare.png and compare.html."""
    terminal.warn(*job.notes, *table.conflicts(job.runs))
    terminal.say(*table.aligned(table.table(job.runs)).split("\n"))
    terminal.say(*_settings(job.runs).split("\n"))
    curves = chart.draw(job.runs)
    rows = job.models.rows(job.num_frames) if job.models else None
    files.remove_partials(job.out, names=("compare.png", "compare.html"))
    grids.save(job.out / "compare.png", curves)
    files.write_text(job.out / "compare.html", page.page(job.runs, curves, rows, job.notes))
    terminal.say(f"{job.out / 'compare.html'} shows it")


def _settings(runs: Sequence[RunRecord]) -> str:
    """The settings that differ, as lines. Runs that do not fit into the terminal's width are left out."""
    rows = table.differences(runs)
    if not rows:
        return "The settings are the same."
    heads = ["setting", *(run.name for run in runs)]
    short = [[_short(cell) for cell in row] for row in rows]
    shown = table.fitting([heads, *short], shutil.get_terminal_size((120, 24)).columns)
    missing = len(heads) - len(shown[0])
    return f"\n{table.aligned(shown)}\n" + (f"... and {missing} more runs, on the page\n" if missing else "")


def _short(text: str, max_length: int = 32) -> str:
    """The end of a long text. Paths usually differ at their ends."""
    return text if len(text) <= max_length else f"…{text[1 - max_length :]}"


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    run_command(__doc__, CompareConfig, prepare, compare, argv)
