"""The pictures of digits show what their docstrings say."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from world_models.data import mnist
from world_models.drawing import digit_views
from world_models.vae.config import VAEConfig
from world_models.vae.labelled_frames import LabelledFrames
from world_models.vae.model import VAE

pytestmark = pytest.mark.usefixtures("one_thread")
CELL = 2 * 28 + 2
BLANK = np.zeros((1, 1, 3), np.uint8)


@pytest.fixture(scope="module")
def test_images(mnist_dir: Path) -> LabelledFrames:
    test = mnist.load(mnist_dir).test
    return LabelledFrames(test.frames, test.labels)


def _model(z_dim: int = 4, **config: Any) -> VAE:
    torch.manual_seed(0)
    return VAE(VAEConfig(z_dim, network="mlp", hidden=(16,), **config)).eval()


def _cell(picture: np.ndarray, row: int, column: int, margin: int = 0) -> np.ndarray:
    top, left = 2 + row * CELL, margin + 2 + column * CELL
    return picture[top : top + 56 : 2, left : left + 56 : 2]


@pytest.mark.parametrize(
    ("config", "names"),
    [
        ({}, {"latents", "interpolation", "arithmetic"}),
        ({"z_dim": 2}, {"latents", "interpolation", "arithmetic", "manifold"}),
        ({"z_dim": 1}, {"latents", "interpolation", "arithmetic"}),
        ({"z_dim": 2, "posterior": "point"}, {"latents", "interpolation", "arithmetic", "manifold"}),
        ({"num_classes": 10}, {"latents", "interpolation", "arithmetic", "chosen_digits"}),
    ],
)
def test_a_finished_training_draws_the_pictures_that_suit_its_model(
    config: dict[str, Any], names: set[str], test_images: LabelledFrames
):
    vae = _model(**config)
    shown = digit_views.final_pictures(vae, digit_views.encoded(vae, test_images), test_images)
    assert shown.keys() == names
    assert all(picture.dtype == np.uint8 and picture.shape[2] == 3 for picture in shown.values())


def test_two_images_of_each_digit_are_shown_above_their_reconstructions(test_images: LabelledFrames):
    vae, (frames, labels) = _model(), (test_images.frames, test_images.labels)
    picture = digit_views.reconstructions(vae, test_images)
    for digit in (0, 7):
        for nth in range(2):
            image = frames[labels == digit][nth]
            assert np.array_equal(_cell(picture, 2 * nth, digit), image.repeat(3, 2))
            made = vae.decode(vae.encode(image[None]).mu)[0].numpy()
            assert np.array_equal(_cell(picture, 2 * nth + 1, digit), made.repeat(3, 2))


def test_the_manifold_decodes_quantiles_of_the_prior(test_images: LabelledFrames):
    asked: list[Tensor] = []

    class Asked(VAE):
        def decode(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
            asked.append(z)
            return torch.zeros(len(z), 28, 28, 1, dtype=torch.uint8)

    picture = digit_views.manifold(Asked(VAEConfig(2, network="mlp")), torch.zeros(5, 2), side=5)
    z = torch.cat(asked).reshape(5, 5, 2)
    shares = torch.special.ndtr(z)
    torch.testing.assert_close(shares[0, :, 0], torch.linspace(0.02, 0.98, 5))
    torch.testing.assert_close(shares[:, 0, 1], torch.linspace(0.98, 0.02, 5))  # the first row has the largest value
    assert picture.shape == (5 * 30 + 2, 5 * 30 + 2, 3)


@pytest.mark.parametrize("way", [digit_views.linear, digit_views.spherical])
def test_interpolations_go_from_one_end_to_the_other(way: Callable[..., Tensor]):
    a, b = torch.randn(2, 6)
    path = way(a, b, torch.linspace(0, 1, 5))
    torch.testing.assert_close(path[0], a)
    torch.testing.assert_close(path[-1], b)


def test_an_arc_keeps_its_distance_from_the_origin_and_turns_evenly():
    a, b = torch.tensor([3.0, 0.0, 0.0]), torch.tensor([0.0, 3.0, 0.0])
    path = digit_views.spherical(a, b, torch.linspace(0, 1, 4))
    torch.testing.assert_close(path.norm(dim=1), torch.full((4,), 3.0))
    angles = torch.arccos((path[1:] * path[:-1]).sum(1) / 9)
    torch.testing.assert_close(angles, torch.full((3,), torch.pi / 6))


@pytest.mark.parametrize("b", [[2.0, 0.0], [-1.0, 0.0], [0.0, 0.0]], ids=["one direction", "opposite", "none"])
def test_without_an_angle_for_an_arc_the_interpolation_is_a_straight_line(b: list[float]):
    a, end, shares = torch.tensor([1.0, 0.0]), torch.tensor(b), torch.linspace(0, 1, 4)
    assert torch.equal(digit_views.spherical(a, end, shares), digit_views.linear(a, end, shares))


def test_chosen_digits_use_the_same_z_in_each_column():
    asked: list[tuple[Tensor, Tensor]] = []

    class Asked(VAE):
        def decode(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
            assert labels is not None
            asked.append((z, labels))
            return (20 * labels)[:, None, None, None].expand(-1, 28, 28, 1).to(torch.uint8)

    picture = digit_views.chosen_digits(Asked(VAEConfig(3, network="mlp", num_classes=10)), count=4)
    assert all(torch.equal(z, asked[0][0]) for z, _ in asked)
    assert [int(_cell(picture, digit, 2, 30)[0, 0, 0]) for digit in range(10)] == [20 * digit for digit in range(10)]


def test_the_arithmetic_picture_adds_the_difference_of_thick_and_thin_digits(test_images: LabelledFrames):
    asked: list[Tensor] = []

    class Asked(VAE):
        def decode(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
            asked.append(z)
            return torch.zeros(len(z), 28, 28, 1, dtype=torch.uint8)

    mu = torch.randn(60, 3)
    digit_views.latent_arithmetic(Asked(VAEConfig(3, network="mlp")), mu, test_images)
    thick, thin, c, result = asked[:4]
    torch.testing.assert_close(result, thick - thin + c)
    ink = test_images.frames.sum((1, 2, 3))
    ones = np.flatnonzero(test_images.labels == 1)
    thinnest = ones[np.argsort(ink[ones])][:2]  # a third of the six images of 1
    assert any(torch.equal(c[0], mu[one]) for one in thinnest)


def test_the_picture_of_holes_decodes_the_same_z_with_each_model():
    asked: dict[int, Tensor] = {}

    class Asked(VAE):
        def decode(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
            asked[self.config.z_dim] = z
            return torch.zeros(len(z), 28, 28, 1, dtype=torch.uint8)

    models = {str(z_dim): Asked(VAEConfig(z_dim, network="mlp")) for z_dim in (2, 5)}
    picture = digit_views.holes(models, count=3)
    assert torch.equal(asked[5][:, :2], asked[2])
    assert picture.shape[0] == 4 * CELL + 2


def test_two_dimensional_latents_are_drawn_unchanged(monkeypatch: pytest.MonkeyPatch):
    drawn: list[Any] = []
    monkeypatch.setattr(digit_views.charts, "rendered", lambda draw, *size: drawn.append(draw) or BLANK)
    mu, labels = torch.randn(20, 2), np.arange(20) % 10
    digit_views.latents(mu, labels)
    from matplotlib.figure import Figure

    figure = Figure()
    drawn[0](figure)
    offsets: Any = figure.axes[0].collections[3].get_offsets()
    assert np.allclose(offsets, mu.numpy()[labels == 3])
    assert figure.axes[0].get_xlabel() == "z[0]"


def test_latents_of_more_dimensions_are_drawn_by_their_principal_components(monkeypatch: pytest.MonkeyPatch):
    drawn: list[Any] = []
    monkeypatch.setattr(digit_views.charts, "rendered", lambda draw, *size: drawn.append(draw) or BLANK)
    mu = torch.randn(500, 4) * torch.tensor([0.1, 5.0, 0.1, 2.0])
    digit_views.latents(mu, np.zeros(500, np.int64))
    from matplotlib.figure import Figure

    figure = Figure()
    drawn[0](figure)
    offsets: Any = figure.axes[0].collections[0].get_offsets()
    away = (mu - mu.mean(0)).numpy()
    assert abs(np.corrcoef(offsets[:, 0], away[:, 1])[0, 1]) > 0.99
    assert abs(np.corrcoef(offsets[:, 1], away[:, 3])[0, 1]) > 0.99
