"""Measure frames/s of every stage against a named baseline, interleaved in one run.

Examples:
  python -m world_models.bench                                     all stages, on frames it collects itself
  python -m world_models.bench --stages train,encode --data rollouts/carracing --json bench.json

Absolute figures drift with the machine; the ratio of the interleaved pairs is what counts. Rounds in which other
processes were busy are dropped, counted, and repeated; `quiet` is false where no round was quiet. `limit_fraction` is
the paper's own multiplications per second over those of a large matrix product in the same run: algorithms that need
fewer can pass 1.

  stage     baseline         what the baseline does
  collect   gymnasium_loop   gymnasium.make("CarRacing-v3") driven in as many processes, nothing stored
            gymnasium_step   its env.step over the same steps of the same episodes
  read      single_frames    one frame after the other from the same shards, in random order
  load      frame_by_frame   frame by frame through h5py and a DataLoader from an uncompressed copy
  train     plain            the paper's layers as written, batch 100, float32 conversion on the host
  encode    whole_rollouts   whole rollouts divided by 255 in float64 on the host, cast, through the plain encoder
  sequences window_by_window windows of 32 latents one by one, each column read from its file, in a DataLoader
  act       plain_encoder    the same steps of a controller's loop, each frame through the plain encoder; if asked for
  digits    tutorial         784-400-20-400-784 on MNIST's files by torchvision's data set, a DataLoader; if asked for
"""

import contextlib
import dataclasses
import json
import resource
import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from world_models.bench import acting, driving, sequences, stages
from world_models.bench.measuring import Samples, Work, gemm_gflop_per_s, interleave
from world_models.collect import command as collect
from world_models.data.rollouts import Rollouts
from world_models.runtime import executors, files, host, terminal
from world_models.runtime.cli import run_command
from world_models.runtime.distributed import Device, torch_device
from world_models.runtime.errors import require, require_bounds
from world_models.runtime.paths import PATH, resolve_fields

MIN_FRAMES = 200
STAGES = ("collect", "read", "load", "train", "encode", "sequences")
MORE_STAGES = ("act", "digits")  # that are measured when asked for
GFLOP_PER_FRAME = {"train": 0.2297, "encode": 0.0296}
"""Multiplications and additions of the stages that matrix products limit, as the paper's layers are written."""


@dataclasses.dataclass(frozen=True)
class BenchConfig:
    """What to measure.

    Attributes:
        stages: comma-separated, of collect, read, load, train, encode, sequences, act, digits.
        data: rollouts to read; collected into a temporary folder when null.
        json: file for the results, as a list of objects.
        repeats: interleaved pairs of each variant and its baseline.
        device: of train, encode, act and digits; auto takes a GPU if there is one.
        seconds: how long one sample of train, sequences, act and digits takes.
    """

    stages: str = ",".join(STAGES)
    data: str | None = dataclasses.field(default=None, metadata=PATH)
    json: str | None = dataclasses.field(default=None, metadata=PATH)
    repeats: int = 5
    device: Device = "auto"
    seconds: float = 2.0

    def __post_init__(self):
        resolve_fields(self)
        unknown = set(self.stages.split(",")) - {*STAGES, *MORE_STAGES}
        require(not unknown, f"stages has {', '.join(sorted(unknown))}; give some of {','.join(STAGES + MORE_STAGES)}")
        require_bounds(self, repeats=(1, 10_000))
        require(0 < self.seconds <= 3600, f"seconds is {self.seconds}; give a number above 0, 3,600 at most")


@dataclasses.dataclass(frozen=True)
class Job:
    """A checked benchmark."""

    config: BenchConfig
    device: torch.device
    data: Rollouts | None


def prepare(config: BenchConfig) -> Job:
    """Check the data and the device."""
    data = Rollouts(config.data) if config.data else None
    if config.json:
        _check_place(Path(config.json))
    if data and data.num_rows < MIN_FRAMES:
        raise ValueError(f"{config.data} holds {data.num_rows} frames; give {MIN_FRAMES} or more to measure on")
    return Job(config, torch_device(config.device), data)


def _check_place(path: Path) -> None:
    """Refuse to write results where there is no folder for them, or where something else is."""
    if not path.parent.is_dir():
        raise ValueError(f"{path}: there is no such folder; make it, or choose another --json")
    files.check_room(path.parent, 1_000_000, "choose another --json")
    if path.exists() and not (path.is_file() and _holds_results(path)):
        raise ValueError(f"{path} is there and holds no results of bench; choose another --json")


def _holds_results(path: Path) -> bool:
    try:
        rows = json.loads(path.read_bytes() or b"[]")
    except (ValueError, RecursionError):
        return False
    return isinstance(rows, list) and all(isinstance(row, dict) and "stage" in row for row in rows)


def bench(job: Job) -> list[dict[str, Any]]:
    """Measure, print a table, and write the JSON; returns what it holds."""
    rows = []
    with tempfile.TemporaryDirectory(prefix="world_models_bench_") as folder, files.writing(Path(folder)):
        stages_asked = job.config.stages.split(",")
        if not {*stages_asked} <= {"collect", "act", "digits"} and not job.data:
            data = _own_data(Path(folder))
            job = dataclasses.replace(job, config=dataclasses.replace(job.config, data=str(data.path)), data=data)
        if len(stages_asked) == 1:
            rows = _measure(stages_asked[0], job, Path(folder))
        else:
            for stage in stages_asked:
                rows += _apart(stage, job.config, folder)
    if job.config.json:
        files.write_json(Path(job.config.json), rows)
    return rows


def _apart(stage: str, config: BenchConfig, folder: str) -> list[dict[str, Any]]:
    """Measure in a process of its own: the memory that a stage leaves behind makes the next one faster."""
    tasks = [(stage, config, folder)]
    with contextlib.closing(executors.run(_measure_alone, tasks, "processes", 1, lambda units: None)) as run:
        return next(run)[1]


def _measure_alone(task: tuple[str, BenchConfig, str], report: Callable[[int], None]) -> list[dict[str, Any]]:
    stage, config, folder = task
    return _measure(stage, prepare(config), Path(folder))


def _measure(stage: str, job: Job, folder: Path) -> list[dict[str, Any]]:
    """The rows of a stage, each of which is printed when it is there."""
    rows = []
    for row in _rows(stage, job, folder):
        rows.append(row)
        terminal.say(_line(row))
    return rows


def _own_data(folder: Path) -> Rollouts:
    terminal.say("collecting frames to measure on")
    settings = collect.CollectConfig(str(folder / "rollouts"), 8, driving.STEPS, episodes_per_shard=4)
    collect.collect(collect.prepare(settings))
    return Rollouts(settings.out)


def _rows(stage: str, job: Job, folder: Path) -> Iterator[dict[str, Any]]:
    """Each variant of a stage beside the baseline, in interleaved rounds."""
    if stage == "collect":
        yield from _measure_collect(job, folder)
        return
    if stage == "act":
        yield from _measure_each(stage, acting.comparisons(job.device, job.config.seconds), job)
        return
    if stage == "digits":
        from world_models.bench import digits  # torchvision with it

        yield from _compare(stage, digits.works(folder, job.device, job.config.seconds), job)
        return
    data = job.data
    assert data is not None
    works: dict[str, Callable[[], dict[str, Work]]] = {
        "read": lambda: stages.read_works(data),
        "load": lambda: stages.load_works(data, folder, job.device),
        "train": lambda: stages.train_works(data, job.device, job.config.seconds),
        "encode": lambda: stages.encode_works(data, folder, job.device),
        "sequences": lambda: sequences.works(data, folder, job.config.seconds),
    }
    yield from _compare(stage, works[stage](), job)


def _measure_collect(job: Job, folder: Path) -> Iterator[dict[str, Any]]:
    """Collections on all cores and in one process, and single steps; the first row tells where a step's time goes."""
    parts = driving.parts_us(folder)
    terminal.say("collect  a step in us: " + ", ".join(f"{part} {us:.0f}" for part, us in parts.items()))
    extra: dict[str, Any] = {"parts_us": parts}
    for row in _measure_each("collect", driving.comparisons(folder), job):
        yield row | extra
        extra = {}


def _measure_each(stage: str, comparisons: Iterator[dict[str, Work]], job: Job) -> Iterator[dict[str, Any]]:
    """Several comparisons of a stage; the default is in the first."""
    for index, works in enumerate(comparisons):
        for row in _compare(stage, works, job):
            yield row | {"default": row["default"] and index == 0}


def _compare(stage: str, works: Mapping[str, Work], job: Job) -> Iterator[dict[str, Any]]:
    baseline = next(iter(works))
    gflop = GFLOP_PER_FRAME.get(stage)
    for index, (variant, samples) in enumerate(interleave(works, job.config.repeats).items()):
        limit = gemm_gflop_per_s(job.device, _dtype(stage, job.device)) / gflop if gflop else None
        yield _row(stage, variant, baseline, samples, limit, job.device) | {"default": index == 0}


def _row(
    stage: str, variant: str, baseline: str, samples: Samples, limit: float | None, device: torch.device
) -> dict[str, Any]:
    ours, theirs = [s.ours for s in samples.pairs], [s.theirs for s in samples.pairs]
    gflop = GFLOP_PER_FRAME.get(stage)
    return {
        "stage": stage,
        "variant": variant,
        "baseline": baseline,
        "frames_per_s": _spread(ours),
        "baseline_frames_per_s": _spread(theirs),
        "ratio": statistics.median(s.ours / s.theirs for s in samples.pairs),
        "gflop_per_s": statistics.median(ours) * gflop if gflop else None,
        "limit_fraction": statistics.median(ours) / limit if limit else None,
        "device": _device_name(device),
        "dtype": str(_dtype(stage, device)).removeprefix("torch."),
        "quiet": samples.quiet,
        "dropped": samples.dropped,
        "peak_memory_gb": _peak_memory_gb(device),
        "versions": files.versions(),
    }


def _dtype(stage: str, device: torch.device) -> torch.dtype:
    return torch.bfloat16 if stage == "train" and device.type == "cuda" else torch.float32


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu, {host.available_cores()} cores"


def _peak_memory_gb(device: torch.device) -> float:
    """Of the GPU where it computes, else of this process, since it began."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def _spread(values: Sequence[float]) -> list[float]:
    return [min(values), statistics.median(values), max(values)]


def _line(row: Mapping[str, Any]) -> str:
    low, middle, high = row["frames_per_s"]
    limit = f", {row['limit_fraction']:.0%} of the GEMM limit" if row["limit_fraction"] else ""
    busy = f", {row['dropped']} busy rounds dropped" if row["dropped"] else ""
    busy = busy if row["quiet"] else ", machine was busy"
    rate = f"{middle:10,.0f} frames/s ({low:,.0f} .. {high:,.0f})"
    baseline = f"{row['ratio']:6.2f}x {row['baseline']} ({row['baseline_frames_per_s'][1]:,.0f})"
    return f"{row['stage']:9} {row['variant']:22} {rate}, {baseline}{limit}{busy}"


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    run_command(__doc__, BenchConfig, prepare, bench, argv)
