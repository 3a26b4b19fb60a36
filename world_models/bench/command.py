"""Measure frames/s of every stage against a named baseline, interleaved in one run.

Examples:
  python -m world_models.bench                                     all stages, on frames that it collects itself
  python -m world_models.bench --stages train,encode --data rollouts/carracing --json bench.json
  python -m world_models.bench --device cuda --stages load,train,encode --json gpu.json

Absolute rates drift with the machine, so compare the ratios of the interleaved pairs. Rounds in which other processes
were busy are dropped, counted, and repeated; `quiet` is false if no round was quiet. `limit_fraction` is the rate
divided by that of `limit` in the same run. On a CPU this is a large matrix product with the paper's multiplications. On
a GPU it is the matrix products of the layers, or the copy of the frames in its memory or to it. It can exceed 1 with
algorithms that need fewer multiplications.

  stage     baseline         what the baseline does
  collect   gymnasium_loop   gymnasium.make("CarRacing-v3") driven in as many processes, without storing
            gymnasium_step   its env.step, for the same steps of the same episodes
  read      single_frames    one frame after the other from the same shards, in random order
  load      frame_by_frame   frame by frame through h5py and a DataLoader from an uncompressed copy
  train     plain            the paper's layers as written, batch 100, float32 conversion on the host
  encode    whole_rollouts   whole rollouts divided by 255 in float64 on the host, cast, through the plain encoder
  sequences window_by_window windows of 32 latents one by one, each column read from its file, in a DataLoader
  convert   cv2_images       cv2.imread and cv2.resize of each picture, without storing; one process
            cv2_video        cv2.VideoCapture and cv2.resize of each frame, without storing; one process
            savez_compressed numpy.savez_compressed of each episode; one process
  act       plain_encoder    the same steps of a controller's loop, each frame through the plain encoder; not by default
  digits    tutorial         784-400-20-400-784 on MNIST's files by torchvision and a DataLoader; not by default
"""

import contextlib
import dataclasses
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import torch

from world_models.bench import acting, converting, driving, limits, sequences, stages
from world_models.bench.measuring import Work, interleave
from world_models.bench.result import Result, of_samples
from world_models.collect import command as collect
from world_models.data.rollouts import Rollouts
from world_models.runtime import executors, files, terminal
from world_models.runtime.cli import run_command
from world_models.runtime.distributed import Device, torch_device
from world_models.runtime.errors import require, require_bounds
from world_models.runtime.paths import PATH, resolve_fields

MIN_FRAMES = 200
STAGES = ("collect", "read", "load", "train", "encode", "sequences", "convert")
MORE_STAGES = ("act", "digits")  # not measured by default


@dataclasses.dataclass(frozen=True)
class BenchConfig:
    """What to measure.

    Attributes:
        stages: stages to measure, separated by commas: collect, read, load, train, encode, sequences, convert,
            act, digits.
        data: rollouts to read; null collects some into a temporary folder.
        json: file for the results, as a list of objects.
        repeats: number of interleaved pairs of each variant and its baseline.
        device: device for train, encode, act and digits; auto takes a GPU if there is one.
        seconds: duration of one sample of train, sequences, act and digits.
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
    """Check the data, the device and the file for the results.

    Raises:
        ValueError, OSError: the input is bad.
    """
    data = Rollouts(config.data) if config.data else None
    if config.json:
        _check_place(Path(config.json))
    if data and data.num_rows < MIN_FRAMES:
        raise ValueError(f"{config.data} holds {data.num_rows} frames; give {MIN_FRAMES} or more to measure on")
    return Job(config, torch_device(config.device), data)


def _check_place(path: Path) -> None:
    """Check that the results can be written to this file, and that it holds nothing else."""
    if not path.parent.is_dir():
        raise ValueError(f"{path}: there is no such folder; make it, or choose another --json")
    files.check_room(path.parent, 1_000_000, "choose another --json")
    if path.exists() and not (path.is_file() and _holds_results(path)):
        raise ValueError(f"{path} exists and holds no results of bench; choose another --json")


def _holds_results(path: Path) -> bool:
    try:
        rows = json.loads(path.read_bytes() or b"[]")
    except (ValueError, RecursionError):
        return False
    return isinstance(rows, list) and all(isinstance(row, dict) and "stage" in row for row in rows)


def bench(job: Job) -> list[Result]:
    """Measure, print a table, and write the JSON after each stage. Returns the results."""
    results: list[Result] = []
    with (
        tempfile.TemporaryDirectory(prefix="world_models_bench_") as folder,
        files.disk_errors_as_stopped(Path(folder)),
    ):
        stages_asked = job.config.stages.split(",")
        if not {*stages_asked} <= {"collect", "act", "digits"} and not job.data:
            data = _own_data(Path(folder))
            job = dataclasses.replace(job, config=dataclasses.replace(job.config, data=str(data.path)), data=data)
        for stage in stages_asked:
            alone = len(stages_asked) == 1
            results += _measure(stage, job, Path(folder)) if alone else _apart(stage, job.config, folder)
            if job.config.json:
                files.write_json(Path(job.config.json), [result.as_json() for result in results])
    return results


def _apart(stage: str, config: BenchConfig, folder: str) -> list[Result]:
    """Measure in a separate process, because memory that a stage has allocated makes the next one faster."""
    tasks = [(stage, config, folder)]
    with contextlib.closing(executors.run(_measure_alone, tasks, "processes", 1, lambda units: None)) as run:
        return next(run)[1]


def _measure_alone(task: tuple[str, BenchConfig, str], report: Callable[[int], None]) -> list[Result]:
    stage, config, folder = task
    return _measure(stage, prepare(config), Path(folder))


def _measure(stage: str, job: Job, folder: Path) -> list[Result]:
    """Measure a stage. Each result is printed as soon as it is measured."""
    results = []
    for result in _results(stage, job, folder):
        results.append(result)
        terminal.say(result.line())
    return results


def _own_data(folder: Path) -> Rollouts:
    terminal.say("collecting frames to measure on")
    settings = collect.CollectConfig(str(folder / "rollouts"), 8, driving.STEPS, episodes_per_shard=4)
    collect.collect(collect.prepare(settings))
    return Rollouts(settings.out)


def _results(stage: str, job: Job, folder: Path) -> Iterator[Result]:
    """Measure each variant of a stage and the baseline in interleaved rounds."""
    if stage == "collect":
        yield from _measure_collect(job, folder)
        return
    if stage == "act":
        yield from _measure_each(stage, acting.comparisons(job.device, job.config.seconds), job)
        return
    if stage == "digits":
        from world_models.bench import digits  # imported here, because it imports torchvision

        yield from _compare(stage, digits.works(folder, job.device, job.config.seconds), job)
        return
    data = job.data
    assert data is not None
    if stage == "convert":
        yield from _measure_each(stage, converting.comparisons(data, folder), job)
        return
    works: dict[str, Callable[[], dict[str, Work]]] = {
        "read": lambda: stages.read_works(data),
        "load": lambda: stages.load_works(data, folder, job.device),
        "train": lambda: stages.train_works(data, job.device, job.config.seconds),
        "encode": lambda: stages.encode_works(data, folder, job.device),
        "sequences": lambda: sequences.works(data, folder, job.config.seconds),
    }
    yield from _compare(stage, works[stage](), job)


def _measure_collect(job: Job, folder: Path) -> Iterator[Result]:
    """Measure collections on all cores, in one process, and single steps. The first result has the parts of a step."""
    parts = driving.parts_us(folder)
    terminal.say("collect  a step in us: " + ", ".join(f"{part} {us:.0f}" for part, us in parts.items()))
    for index, result in enumerate(_measure_each("collect", driving.comparisons(folder), job)):
        yield result if index else dataclasses.replace(result, parts_us=parts)


def _measure_each(stage: str, comparisons: Iterator[dict[str, Work]], job: Job) -> Iterator[Result]:
    """Measure several comparisons of a stage. The first one has the default variant."""
    for index, works in enumerate(comparisons):
        for result in _compare(stage, works, job):
            yield dataclasses.replace(result, default=result.default and index == 0)


def _compare(stage: str, works: Mapping[str, Work], job: Job) -> Iterator[Result]:
    baseline = next(iter(works))
    for index, (variant, samples) in enumerate(interleave(works, job.config.repeats).items()):
        limit = limits.of_variant(stage, variant, job.device)
        result = of_samples((stage, variant, baseline), samples, limit, job.device)
        yield dataclasses.replace(result, default=index == 0)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    run_command(__doc__, BenchConfig, prepare, bench, argv)
