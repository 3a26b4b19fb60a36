"""Noise of a run: the same by position, whatever the parts of a batch, and of one generator."""

import pytest
import torch

from world_models.vae import philox
from world_models.vae.noise import Generator, binarised, black_and_white, noise, of_steps

CPU = torch.device("cpu")
SHAPE = (4, 3, 1)
GENERATORS = pytest.mark.parametrize("generator", ["mersenne", "philox"])


@GENERATORS
def test_a_part_of_a_batch_gets_the_numbers_of_its_rows(generator: Generator):
    run, rows = of_steps(generator, 5, 6, SHAPE, CPU), torch.tensor([0, 3, 8])
    whole, part = run.draw(2, torch.arange(9), 9), run.draw(2, rows, 9)
    assert torch.equal(part.normal, whole.normal[rows])
    assert part.thresholds is not None and whole.thresholds is not None
    assert torch.equal(part.thresholds, whole.thresholds[rows])


@GENERATORS
def test_the_order_of_the_steps_does_not_change_their_numbers(generator: Generator):
    rows, steps = torch.arange(4), [0, 1, 2, 80, 81, 3, 200, 1]
    forward = {step: of_steps(generator, 5, 6, None, CPU).draw(step, rows, 4).normal for step in steps}
    run = of_steps(generator, 5, 6, None, CPU)
    assert all(torch.equal(run.draw(step, rows, 4).normal, forward[step]) for step in steps)


@GENERATORS
def test_without_binarisation_there_are_no_thresholds(generator: Generator):
    assert of_steps(generator, 5, 6, None, CPU).draw(0, torch.arange(4), 4).thresholds is None


def test_mersenne_is_the_noise_of_earlier_versions():
    drawn = of_steps("mersenne", 5, 6, SHAPE, CPU).draw(7, torch.arange(9), 9)
    assert torch.equal(drawn.normal, noise(5, 7, 9, 6))
    frames = torch.randint(0, 256, (9, *SHAPE), dtype=torch.uint8)
    assert drawn.thresholds is not None
    assert torch.equal(black_and_white(frames, drawn.thresholds), binarised(frames, 5, 7))


def test_philox_does_not_depend_on_the_size_of_the_batch():
    run = of_steps("philox", 5, 6, None, CPU)
    small = run.draw(7, torch.arange(4), 4).normal.clone()
    assert torch.equal(run.draw(7, torch.arange(9), 9).normal[:4], small)
    assert torch.equal(small, philox.normal(5, 7, 1, 4, 6, CPU)[0])


def test_few_steps_are_drawn_at_once_if_they_are_large(monkeypatch: pytest.MonkeyPatch):
    drawn: list[int] = []
    normal = philox.normal
    monkeypatch.setattr(
        philox, "normal", lambda seed, first, steps, *others: drawn.append(steps) or normal(seed, first, steps, *others)
    )
    for rows, steps in ((2, 128), (1 << 12, 1)):
        run = of_steps("philox", 0, 256, None, CPU)
        for step in range(steps):
            run.draw(step, torch.arange(rows), rows)
    assert drawn == [64, 64, 1]


@pytest.mark.parametrize(("grey", "share"), [(0, 0.0), (51, 0.2), (255, 1.0)])
@GENERATORS
def test_a_pixel_is_white_with_its_grey_value_as_probability(generator: Generator, grey: int, share: float):
    thresholds = of_steps(generator, 5, 6, (100, 100, 1), CPU).draw(0, torch.arange(8), 8).thresholds
    assert thresholds is not None
    white = black_and_white(torch.full_like(thresholds, grey), thresholds)
    assert set(white.unique().tolist()) <= {0, 255}
    assert white.double().mean().item() / 255 == pytest.approx(share, abs=0.01)
