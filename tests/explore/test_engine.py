"""The page's engine, in a real browser: the same numbers as PyTorch's, exact frames, clear errors."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from world_models import explore, load_vae
from world_models.data import mnist
from world_models.data.rollouts import Rollouts
from world_models.vae.model import VAE

OpenPage = Callable[..., Any]
MOST_GREY_LEVELS = 0.5
MOST_MU = 0.02


def _decoded(page: Any, z: np.ndarray, **options: Any) -> np.ndarray:
    script = "([z, options]) => explorer.decode(z, options).then((pixels) => Array.from(pixels))"
    return np.array([page.evaluate(script, [row.tolist(), options]) for row in z])


def _encoded(page: Any, frames: np.ndarray, **options: Any) -> np.ndarray:
    script = """([frame, options]) => explorer.encode(frame, options)
        .then(({mu, logvar}) => [Array.from(mu), Array.from(logvar)])"""
    rows = [page.evaluate(script, [frame.reshape(-1).tolist(), options]) for frame in frames]
    return np.array(rows).transpose(1, 0, 2)


def _check_agreement(page: Any, vae: VAE, frames: np.ndarray, label: int = 0) -> None:
    """The page and PyTorch encode and decode these frames to the same numbers."""
    labels = torch.full((len(frames),), label)
    posterior = vae.encode(frames, labels)
    z = torch.cat([posterior.mu, torch.randn(4, vae.config.z_dim, generator=torch.Generator().manual_seed(0))])
    wanted = vae.decode(z, torch.full((len(z),), label)).numpy().reshape(len(z), -1)
    found = _decoded(page, z.numpy(), label=label)
    assert found.min() >= 0 and found.max() <= 255
    assert np.abs(found - wanted.astype(float)).mean() <= MOST_GREY_LEVELS
    mu, logvar = _encoded(page, frames, label=label)
    assert np.abs(mu - posterior.mu.numpy()).max() <= MOST_MU
    if vae.config.posterior == "normal":
        assert np.abs(logvar - posterior.logvar.numpy()).max() <= MOST_MU


def test_a_model_of_rollouts_gives_pytorchs_numbers(car: Any, run_dir: Path, heldout_dir: Path):
    _check_agreement(car, load_vae(run_dir), Rollouts(heldout_dir)[1].frames[20::10])


DIGITS = {
    "mlp": ["--vae.z_dim", "2"],
    "autoencoder": ["--vae.posterior", "point", "--vae.likelihood", "gaussian"],
    "conv": ["--vae.network", "conv"],
}


def test_a_conditional_model_gives_pytorchs_numbers(open_page: OpenPage, digits_page: Path, mnist_dir: Path):
    _check_agreement(open_page(digits_page), load_vae(digits_page.parent), mnist.load(mnist_dir).test.frames[:2], 3)


@pytest.mark.slow
@pytest.mark.parametrize("name", DIGITS)
def test_a_model_of_digits_gives_pytorchs_numbers(
    open_page: OpenPage, digits_run: Callable[..., Path], mnist_dir: Path, name: str
):
    run = digits_run(*DIGITS[name])
    explore.main(["--vae", str(run), "--out", str(run / "explorer.html")])
    frames = mnist.load(mnist_dir).test.frames
    _check_agreement(open_page(run / "explorer.html"), load_vae(run), frames[3:20:10], label=3)


def test_frames_are_exact(car: Any, heldout_dir: Path):
    for episode, row in ((0, 0), (1, 40)):
        found = car.evaluate("([e, i]) => Explorer.frame(e, i).then((pixels) => Array.from(pixels))", [episode, row])
        assert np.array_equal(np.reshape(found, (64, 64, 3)), Rollouts(heldout_dir)[episode].frames[row])


def test_the_arrays_of_a_page_are_exact(car: Any, heldout_dir: Path):
    found = car.evaluate("Explorer.array('telemetry-1').then((numbers) => Array.from(numbers))")
    assert np.array_equal(np.reshape(found, (41, -1)), Rollouts(heldout_dir)[1].telemetry)


@pytest.mark.parametrize(
    ("call", "refusal"),
    [
        ("decode([1, 2])", "2 numbers; decode takes 32"),
        ("decode(new Array(32).fill(NaN))", "decode takes finite numbers"),
        ("decode(new Array(32).fill(0), {model: 2})", "there is no model 2; give 0 to 1"),
        ("encode([0])", "1 numbers; encode takes 12288"),
    ],
)
def test_what_cannot_be_computed_is_refused_in_a_sentence(car: Any, call: str, refusal: str):
    assert car.evaluate(f"explorer.{call}.then(() => 'done', (error) => error.message)") == refusal


def test_a_conditional_model_needs_a_label(open_page: OpenPage, digits_page: Path):
    page = open_page(digits_page)
    for label, refusal in (("10", "the model is conditional; give a label of 0 to 9"), ("9", "done")):
        call = f"explorer.decode([0, 0, 0], {{label: {label}}}).then(() => 'done', (error) => error.message)"
        assert page.evaluate(call) == refusal


def test_the_second_model_can_be_asked_too(car: Any):
    z = np.ones((1, 32))
    assert np.array_equal(_decoded(car, z), _decoded(car, z, model=1))  # it is a copy of the first one


def test_answers_belong_to_their_questions(car: Any):
    script = """async () => {
        const z = Array.from({length: 6}, (_, i) => new Array(32).fill(i - 3));
        const alone = [];
        for (const each of z) alone.push(Array.from(await explorer.decode(each)));
        const together = await Promise.all(z.map((each) => explorer.decode(each)));
        return JSON.stringify(alone) === JSON.stringify(together.map((each) => Array.from(each)));
    }"""
    assert car.evaluate(script)


@pytest.mark.parametrize(
    ("missing", "sentence"),
    [
        ("delete window.DecompressionStream", "too old to unpack the page's data"),
        ("window.Worker = function () { throw new Error('no workers here'); }", "no workers here"),
    ],
)
def test_a_browser_that_cannot_show_the_page_is_told_why(chromium: Any, digits_page: Path, missing: str, sentence: str):
    context = chromium.new_context()
    context.add_init_script(missing)
    page = context.new_page()
    page.goto(digits_page.as_uri())
    assert sentence in page.evaluate("explorer.ready.catch((error) => error.message)")
    assert sentence in page.get_by_role("alert").inner_text()
    context.close()
