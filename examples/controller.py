"""Evolve the controller of World Models in the real environment (Ha & Schmidhuber 2018, appendix A.4).

The controller C is one linear layer: it reads z_t of the V model and h_t of the memory model M, and gives steering, gas
and brake. CMA-ES searches for its weights by the returns of whole episodes. Run it after `memory_model.py`, which says
how to make the latents:

    pip install cma
    python examples/memory_model.py --latents latents/carracing --heldout latents/heldout --rollouts rollouts/heldout
    python examples/controller.py --vae runs/vae --memory runs/memory/memory.safetensors

Without `--memory` the controller reads z alone. Each generation prints a line of returns:

    best, mean      of the population, on tracks that are new in each generation
    centre          of the search distribution's mean, on eight tracks that stay the same
    best so far     the highest centre; `controller.safetensors` holds it: weight (3, n) and bias (3,)

Ctrl-C or a crash loses one generation: the same command goes on after the last one, and `--generations` may be larger.
"""

import argparse
import functools
import json
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import cma
import gymnasium
import numpy as np
import safetensors.torch
import torch
from memory_model import MDNRNN

from world_models import LatentObservation, load_vae

SEARCH = 10_000_000  # first track of the search
CHOICE = range(20_000_000, 20_000_008)  # tracks that choose the best controller
TEST = range(30_000_000, 30_000_020)  # tracks that score it in the end
DriveAll = Callable[[Sequence[np.ndarray], Sequence[int]], Iterable[tuple[float, int]]]
PATIENCE = 100  # an episode ends after so many steps without a reward


class Car:
    """CarRacing as V and M perceive it."""

    def __init__(self, vae: str, memory: str | None, max_steps: int):
        torch.set_num_threads(1)  # each process has one core
        env = gymnasium.make("world_models/CarRacing-v3", max_episode_steps=max_steps)
        self.env, self.max_steps = LatentObservation(env, load_vae(vae)), max_steps
        (z_dim,) = self.env.observation_space.shape
        self.memory = load_memory(memory, z_dim) if memory else None
        self.h_dim = self.memory.lstm.hidden_size if self.memory else 0
        self.num_parameters = 3 * (z_dim + self.h_dim + 1)

    @torch.inference_mode()
    def drive(self, parameters: np.ndarray, track: int) -> tuple[float, int]:
        """Return of an episode, and its number of steps."""
        weight, bias = unpack(parameters)
        z, _ = self.env.reset(seed=track)
        h, c = torch.zeros(2, 1, self.h_dim)
        total, rewarded = 0.0, 0  # the return, and the last step with a reward
        for step in range(1, self.max_steps + 1):
            steer, gas, brake = np.tanh(weight @ np.concatenate([z, h[0]]) + bias)
            action = np.array([steer, (gas + 1) / 2, max(brake, 0)], np.float32)
            if self.memory:  # h_{t+1} remembers z_t and a_t
                seen = torch.from_numpy(np.concatenate([z, action]))[None]
                h, c = torch.lstm_cell(seen, (h, c), *self.memory.lstm.all_weights[0])
            z, reward, terminated, truncated, _ = self.env.step(action)
            total += float(reward)
            rewarded = step if reward > 0 else rewarded
            if terminated or truncated:
                break
            if step - rewarded == PATIENCE:  # count the steps that are left as if the car stood still
                return total - 0.1 * (self.max_steps - step), step
        return total, step


def unpack(parameters: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weight (3, n) and bias (3,) of a controller."""
    matrix = parameters.reshape(3, -1)
    return matrix[:, :-1], matrix[:, -1]


def load_memory(path: str, z_dim: int) -> MDNRNN:
    """The memory model that `memory_model.py` has written."""
    try:
        weights = safetensors.torch.load_file(path)
        memory = MDNRNN(z_dim, 3, weights["lstm.weight_hh_l0"].shape[1], len(weights["head.bias"]) // (3 * z_dim))
        memory.load_state_dict(weights)
    except (KeyError, RuntimeError, safetensors.SafetensorError):
        raise ValueError(
            f"{path}: no memory model of z with {z_dim} dimensions; train it on this V's latents"
        ) from None
    return memory.eval()


def begin_process() -> None:
    """Leave Ctrl-C to the main process, and end where that one was killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()


@functools.cache
def own_car(*arguments: Any) -> Car:
    """The car of this process."""
    return Car(*arguments)


def drive(car_arguments: tuple[Any, ...], parameters: np.ndarray, track: int) -> tuple[float, int]:
    """`Car.drive` in whatever process this is."""
    return own_car(*car_arguments).drive(parameters, track)


def score(drive_all: DriveAll, solutions: Sequence[np.ndarray], tracks: Sequence[int]) -> tuple[np.ndarray, int]:
    """Returns (solutions, tracks) where each solution drives each track, and the steps of all."""
    jobs = [(solution, track) for solution in solutions for track in tracks]
    returns, steps = zip(*drive_all(*zip(*jobs, strict=True)), strict=True)
    return np.reshape(returns, (len(solutions), len(tracks))), sum(steps)


def write(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(content)
    partial.replace(path)


def read_history(path: Path, settings: dict[str, Any]) -> list[dict[str, Any]]:
    """What earlier calls have found, one entry a generation."""
    if not path.exists():
        return []
    try:
        held = json.loads(path.read_bytes())
        found, generations = held["settings"], held["generations"]
    except (KeyError, TypeError, ValueError):
        raise ValueError(f"{path}: damaged; choose another --out") from None
    if found != settings:
        raise ValueError(f"{path} holds a search with {found}; ask for the same, or choose another --out")
    return generations


def evolve(
    args: argparse.Namespace, settings: dict[str, Any], history: list[dict[str, Any]], size: int, drive_all: DriveAll
) -> None:
    """Search for controllers of so many parameters, and save after each generation."""
    options = {
        "popsize": args.population,
        "CMA_diagonal": True,  # the full covariance of 867 weights would take thousands of generations to learn
        "randn": np.random.RandomState(args.seed).randn,
        "seed": np.nan,  # leave NumPy's global random numbers alone
        "verbose": -9,
    }
    search = cma.CMAEvolutionStrategy(np.zeros(size), args.sigma, options)
    for past in history:  # CMA-ES repeats itself: the same returns lead to the same state
        search.tell(search.ask(), [-value for value in past["returns"]])
    while len(history) < args.generations:
        start, solutions = time.monotonic(), search.ask()
        first = SEARCH + args.tracks * len(history)
        by_track, steps = score(drive_all, solutions, range(first, first + args.tracks))
        returns = by_track.mean(1)
        search.tell(solutions, list(-returns))  # it minimises
        by_track, more_steps = score(drive_all, [search.mean], CHOICE)
        centre, best = by_track.mean(), max((past["centre"] for past in history), default=-np.inf)
        if centre > best:
            weight, bias = map(torch.tensor, unpack(search.mean))
            write(args.out / "controller.safetensors", safetensors.torch.save({"weight": weight, "bias": bias}))
        history.append({"returns": returns.tolist(), "centre": centre})
        write(args.out / "history.json", json.dumps({"settings": settings, "generations": history}).encode())
        print(
            f"generation {len(history)}: best {returns.max():.1f}, mean {returns.mean():.1f}, centre {centre:.1f}, "
            f"best so far {max(centre, best):.1f}, {(steps + more_steps) / (time.monotonic() - start):,.0f} steps/s",
            flush=True,
        )


def main(argv: list[str] | None = None) -> None:
    """Search, then score the best controller on tracks that chose nothing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vae", default="runs/vae", help="the V model's run")
    parser.add_argument("--memory", help="memory.safetensors; without it the controller reads z alone")
    parser.add_argument("--out", type=Path, default="runs/controller", help="folder of the search")
    parser.add_argument("--generations", type=int, default=100)
    parser.add_argument("--population", type=int, default=16, help="controllers in a generation")
    parser.add_argument("--tracks", type=int, default=2, help="tracks that each of them drives")
    parser.add_argument("--max_steps", type=int, default=1000, help="steps of an episode")
    parser.add_argument("--sigma", type=float, default=0.1, help="standard deviation of the first weights")
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="the results do not depend on it")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    settings = {name: value for name, value in vars(args).items() if name not in ("out", "generations", "processes")}
    if min(args.population // 4, args.tracks, args.max_steps, args.generations, args.processes) < 1 or args.sigma <= 0:
        parser.exit(2, f"{parser.prog}: error: a population has 4 controllers or more; the other numbers are above 0\n")
    car_arguments = (args.vae, args.memory, args.max_steps)
    try:
        num_parameters = own_car(*car_arguments).num_parameters
        history = read_history(args.out / "history.json", settings)
        args.out.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        parser.exit(2, f"{parser.prog}: error: {error}\n")
    pool = ProcessPoolExecutor(args.processes, multiprocessing.get_context("spawn"), begin_process)
    drive_all = functools.partial(pool.map if args.processes > 1 else map, functools.partial(drive, car_arguments))
    try:
        with pool:  # its processes start when the first work is given to it
            evolve(args, settings, history, num_parameters, drive_all)
            best = safetensors.torch.load_file(args.out / "controller.safetensors")
            returns, _ = score(drive_all, [torch.cat([best["weight"], best["bias"][:, None]], 1).numpy().ravel()], TEST)
    except KeyboardInterrupt:
        parser.exit(130, f"{parser.prog}: stopped; the same command goes on\n")
    print(
        f"{args.out / 'controller.safetensors'}: return {returns.mean():.1f} (std {returns.std():.1f}) on {len(TEST)} "
        "tracks that chose nothing"
    )


if __name__ == "__main__":
    main()
