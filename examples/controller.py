"""Evolve the controller of World Models in the real environment (Ha & Schmidhuber 2018, appendix A.4).

The controller C is one linear layer: it reads z_t of the V model and h_t of the memory model M, and gives steering, gas
and brake. CMA-ES searches for its weights by the returns of whole episodes. Run it after `memory_model.py`:

    pip install cma
    python examples/controller.py --vae runs/vae --memory runs/memory/memory.safetensors

Each generation prints the returns of its controllers on new tracks (best and mean), and the return of the centre of
the search on tracks that stay the same. The best centre so far is in `controller.safetensors`: weight (3, n), bias
(3,). After Ctrl-C or a crash the same command continues; `--generations` may be larger.
"""

import argparse
import functools
import itertools
import json
import multiprocessing
import os
import signal
from collections.abc import Callable, Sequence
from multiprocessing.pool import Pool
from pathlib import Path
from typing import Any

import cma
import gymnasium
import numpy as np
import torch
from memory_model import MDNRNN
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from world_models import LatentObservation, load_vae

MAX_STEPS = 1000  # length of an episode
PATIENCE = 100  # an episode ends after this many steps without a reward
SIGMA = 0.1  # standard deviation of the first weights
SEARCH = 10_000_000  # seed of the first track for CMA-ES
CHOICE = range(20_000_000, 20_000_008)  # tracks on which the best centre is chosen
TEST = range(30_000_000, 30_000_020)  # tracks on which it is scored at the end
Score = Callable[[Sequence[np.ndarray], Sequence[int]], np.ndarray]


class Car:
    """CarRacing, observed as z of V and h of M."""

    def __init__(self, vae: str, memory: str | None, max_steps: int):
        torch.set_num_threads(1)  # each process has one core
        env = gymnasium.make("world_models/CarRacing-v3", max_episode_steps=max_steps)
        self.env, self.max_steps = LatentObservation(env, load_vae(vae)), max_steps
        (z_dim,) = self.env.observation_space.shape
        self.memory = MDNRNN(z_dim, 3) if memory else None
        if self.memory:
            self.memory.load_state_dict(load_file(memory))
        self.h_dim = self.memory.lstm.hidden_size if self.memory else 0
        self.num_parameters = 3 * (z_dim + self.h_dim + 1)

    @torch.inference_mode()
    def drive(self, parameters: np.ndarray, track: int) -> float:
        """Drive an episode with a controller. Returns the sum of rewards."""
        weight, bias = unpack(parameters)
        z, _ = self.env.reset(seed=track)
        h, c = torch.zeros(2, 1, self.h_dim)
        total, rewarded = 0.0, 0  # the return, and the last step with a reward
        for step in range(1, self.max_steps + 1):
            steer, gas, brake = np.tanh(weight @ np.concatenate([z, h[0]]) + bias)
            action = np.array([steer, (gas + 1) / 2, max(brake, 0)], np.float32)
            if self.memory:  # h_{t+1} depends on z_t and a_t
                seen = torch.from_numpy(np.concatenate([z, action]))[None]
                h, c = torch.lstm_cell(seen, (h, c), *self.memory.lstm.all_weights[0])
            z, reward, terminated, truncated, _ = self.env.step(action)
            total += float(reward)
            rewarded = step if reward > 0 else rewarded
            if terminated or truncated:
                break
            if step - rewarded == PATIENCE:  # count the remaining steps as if the car stood still
                return total - 0.1 * (self.max_steps - step)
        return total


def unpack(parameters: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weight (3, n) and bias (3,) of a controller."""
    matrix = parameters.reshape(3, -1)
    return matrix[:, :-1], matrix[:, -1]


def begin(*car_arguments: Any) -> None:
    """Make the car of this process. Ctrl-C is handled by the main process."""
    global car
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    car = Car(*car_arguments)


def drive(parameters: np.ndarray, track: int) -> float:
    """`Car.drive` with the car of this process."""
    return car.drive(parameters, track)


def score(pool: Pool, controllers: Sequence[np.ndarray], tracks: Sequence[int]) -> np.ndarray:
    """Mean return of each controller over the tracks."""
    returns = pool.starmap(drive, itertools.product(controllers, tracks), chunksize=1)
    return np.reshape(returns, (len(controllers), len(tracks))).mean(1)


def write(path: Path, content: bytes) -> None:
    """Write a file completely or not at all."""
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(content)
    partial.replace(path)


def evolve(args: argparse.Namespace, num_parameters: int, search: dict[str, Any], score: Score) -> None:
    """Continue a search, and save it after each generation."""
    options = {
        "popsize": args.population,
        "CMA_diagonal": True,  # the full covariance of 867 weights would take thousands of generations to learn
        "randn": np.random.RandomState(args.seed).randn,
        "seed": np.nan,  # do not seed NumPy's global random numbers
        "verbose": -9,
    }
    cma_es, generations = cma.CMAEvolutionStrategy(np.zeros(num_parameters), SIGMA, options), search["generations"]
    for past in generations:  # CMA-ES is deterministic: the same returns lead to the same state
        cma_es.tell(cma_es.ask(), [-value for value in past["returns"]])
    while len(generations) < args.generations:
        controllers, first = cma_es.ask(), SEARCH + args.tracks * len(generations)
        returns = score(controllers, range(first, first + args.tracks))
        cma_es.tell(controllers, list(-returns))  # it minimises
        centre = float(score([cma_es.mean], CHOICE)[0])
        best = max((past["centre"] for past in generations), default=-np.inf)
        if centre > best:
            weight, bias = map(torch.tensor, unpack(cma_es.mean))
            write(args.out / "controller.safetensors", save({"weight": weight, "bias": bias}))
        generations.append({"returns": returns.tolist(), "centre": centre})
        write(args.out / "search.json", json.dumps(search).encode())
        print(
            f"generation {len(generations)}: best {returns.max():.1f}, mean {returns.mean():.1f}, "
            f"centre {centre:.1f}, best centre so far {max(centre, best):.1f}",
            flush=True,
        )


def main(argv: list[str] | None = None) -> None:
    """Search, then score the best controller on tracks that were not used before."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vae", default="runs/vae", help="the V model's run")
    parser.add_argument("--memory", help="memory.safetensors; without it the controller reads z alone")
    parser.add_argument("--out", type=Path, default="runs/controller", help="folder of the search")
    parser.add_argument("--generations", type=int, default=100)
    parser.add_argument("--population", type=int, default=16, help="number of controllers in a generation, at least 4")
    parser.add_argument("--tracks", type=int, default=2, help="number of tracks that each controller drives")
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="processes; do not change the results")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    path, car_arguments = args.out / "search.json", (args.vae, args.memory, MAX_STEPS)
    settings = {name: getattr(args, name) for name in ("vae", "memory", "population", "tracks", "seed")}
    search: dict[str, Any] = {"settings": settings, "generations": []}
    try:
        if min(args.population // 4, args.tracks, args.generations, args.processes) < 1:
            raise ValueError("population must be 4 or more, and the other numbers must be above 0")
        if path.exists() and (search := json.loads(path.read_bytes()))["settings"] != settings:
            raise ValueError(f"{path} has the settings {search['settings']}; give the same, or choose another --out")
        num_parameters = Car(*car_arguments).num_parameters
        args.out.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        parser.exit(2, f"{parser.prog}: error: {' '.join(str(error).split())}\n")
    with multiprocessing.get_context("spawn").Pool(args.processes, begin, car_arguments) as pool:
        try:
            evolve(args, num_parameters, search, functools.partial(score, pool))
            found = load_file(args.out / "controller.safetensors")
            parameters = torch.cat([found["weight"], found["bias"][:, None]], 1).numpy().ravel()
            returns = np.array(pool.starmap(drive, [(parameters, track) for track in TEST], chunksize=1))
        except KeyboardInterrupt:
            parser.exit(130, f"{parser.prog}: stopped; the same command continues\n")
    print(f"on {len(TEST)} new tracks: return {returns.mean():.1f}, std {returns.std():.1f}")


if __name__ == "__main__":
    main()
