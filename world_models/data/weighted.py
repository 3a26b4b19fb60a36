"""Frames of several data sets, drawn by weight: each set gives a fixed share of every epoch.

An epoch has as many frames as all sets together. Each set gives its share of them. A set is drawn from pass after pass:
a pass has each of its frames once, its blocks in a new random order, and an epoch goes on where the one before stopped.
So no frame is drawn again before all other frames of its set were drawn. What an epoch draws depends only on the seed
and the number of the epoch.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Int64

from world_models.data.frames import Drawn, FrameSet
from world_models.data.rollouts import Rollouts


class WeightedFrameSet(FrameSet):
    """The frames of some episodes of several data sets. Epochs draw from each set in proportion to its weight.

    Args:
        data: the data sets.
        episodes: numbers of the episodes.
        weights: the weight of each set, above 0.

    Raises:
        ValueError: a weight is so small that an epoch would have no frame of its set.
    """

    def __init__(self, data: Rollouts, episodes: Sequence[int], weights: Sequence[float]):
        super().__init__(data, episodes)
        numbers = {shard.path: number for number, each in enumerate(data.sets) for shard in each.shards}
        of_block = np.array([numbers[shard.path] for shard in self._shards])
        self._blocks_of = [np.flatnonzero(of_block == number) for number in range(len(weights))]
        self.num_drawn = shares(len(self), weights)
        """Number of frames that each epoch draws from each set."""
        for each, weight, count in zip(data.sets, weights, self.num_drawn, strict=True):
            if not count:
                raise ValueError(
                    f"data_weights gives {each.path} {weight:g} of {sum(weights):g}, which is none of the "
                    f"{len(self):,} frames of an epoch; give it more"
                )

    def drawn(self, seed: int, epoch: int) -> Drawn:
        """The frames of an epoch, in a number that is the same in all epochs."""
        pieces = [
            piece
            for number, (blocks, count) in enumerate(zip(self._blocks_of, self.num_drawn, strict=True))
            for piece in self._passes(blocks, (seed, number), epoch * count, (epoch + 1) * count)
        ]
        return Drawn(*map(np.concatenate, zip(*pieces, strict=True)))

    def _passes(
        self, blocks: Int64[np.ndarray, " blocks"], seeds: tuple[int, int], start: int, stop: int
    ) -> Iterator[Drawn]:
        """Frames `start` to before `stop` of a set's endless sequence of passes."""
        size = int(self.block_lengths[blocks].sum())
        for number in range(start // size, -(-stop // size)):
            seed, set_number = seeds
            # The last number differs from 0, because [seed, epoch] and [seed, epoch, 0] give the same random numbers.
            order = blocks[np.random.default_rng([seed, number, 1 + set_number]).permutation(len(blocks))]
            lengths = self.block_lengths[order]
            before = number * size + np.cumsum(lengths) - lengths
            starts, stops = (np.clip(end - before, 0, lengths) for end in (start, stop))
            chosen = starts < stops
            yield Drawn(order[chosen], starts[chosen], stops[chosen])


def shares(total: int, weights: Sequence[float]) -> list[int]:
    """Divide `total` in proportion to the weights, into whole numbers by the largest remainders.

    Example:
        >>> shares(10, [1.0, 3.0])
        [3, 7]
    """
    exact = total * np.array(weights, np.float64) / np.sum(weights)
    whole = np.floor(exact).astype(np.int64)
    largest = np.argsort(whole - exact, kind="stable")[: total - int(whole.sum())]
    whole[largest] += 1
    return whole.tolist()
