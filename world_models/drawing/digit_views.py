"""Pictures of a model of MNIST: samples, latents by digit, the manifold, interpolations, arithmetic, chosen digits."""

import itertools
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from world_models.data.mnist import NUM_DIGITS
from world_models.drawing import charts, grids, model_views
from world_models.vae.labelled_frames import Frames, LabelledFrames, Labels
from world_models.vae.model import VAE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SCALE = 2
MAX_POINTS = 5000
STEPS = 12
STROKE_SHARE = 0.3  # share of a digit's images that count as thick, and share that count as thin

Figures = dict[str, grids.Picture]


def validation_pictures(vae: VAE, images: LabelledFrames) -> Figures:
    """The pictures of each validation: test images over their reconstructions, and samples of the prior."""
    return {"recon": reconstructions(vae, images), "samples": model_views.samples(vae)}


def final_pictures(vae: VAE, mu: Float[Tensor, "frames z"], images: LabelledFrames) -> Figures:
    """The pictures at the end of a training: those that make sense for this model and this number of images."""
    figures = {}
    if len(_digits_with(images.labels, 2)) > 1:
        figures = {
            "latents": latents(mu, images.labels),
            "interpolation": interpolation(vae, mu, images.labels),
            "arithmetic": latent_arithmetic(vae, mu, images),
        }
    if vae.config.num_classes:
        figures["chosen_digits"] = chosen_digits(vae)
    elif vae.config.z_dim == 2:
        figures["manifold"] = manifold(vae, mu)
    return figures


def encoded(vae: VAE, images: LabelledFrames) -> Float[Tensor, "frames z"]:
    """Encode every image; mu on the CPU."""
    return torch.cat([vae.encode(*batch).mu.cpu() for batch in images.batches(1024)])


def _decoded(vae: VAE, z: Tensor, digits: int | Tensor) -> Frames:
    """Decode z. A conditional model gets a digit for each z, or one digit for all."""
    labels = torch.full((len(z),), digits) if isinstance(digits, int) else digits
    return vae.decode(z, labels).cpu().numpy()


def reconstructions(vae: VAE, images: LabelledFrames) -> grids.Picture:
    """Two images of each digit, in two rows, each over decode(mu). Digits with fewer images are left out."""
    rows, labels = [], images.labels
    for nth in range(2):
        chosen = np.array([np.flatnonzero(labels == digit)[nth] for digit in _digits_with(labels, nth + 1)], np.int64)
        shown, shown_labels = images.frames[chosen], torch.from_numpy(labels[chosen])
        if len(chosen):
            rows += [shown, _decoded(vae, vae.encode(shown, shown_labels).mu, shown_labels)]
    return grids.grid(rows, SCALE)


def _digits_with(labels: Labels, count: int) -> list[int]:
    """The digits of which there are at least `count` images."""
    return [digit for digit in range(NUM_DIGITS) if (labels == digit).sum() >= count]


def latents(mu: Float[Tensor, "frames z"], labels: Labels) -> grids.Picture:
    """A scatter plot of mu, coloured by digit. If z has more than two dimensions, of its two principal components."""
    points, names = mu[:MAX_POINTS].numpy(), ("z[0]", "z[1]")
    if mu.shape[1] > 2:
        centred = points - points.mean(0)
        points = centred @ np.linalg.svd(centred, full_matrices=False)[2][:2].T
        names = ("first principal component of mu", "second")
    elif mu.shape[1] == 1:
        points, names = np.stack([points[:, 0], labels[:MAX_POINTS]], 1), ("z[0]", "digit")

    def draw(figure: "Figure") -> None:
        axes = figure.add_subplot()
        for digit in range(NUM_DIGITS):
            chosen = points[labels[:MAX_POINTS] == digit]
            axes.scatter(chosen[:, 0], chosen[:, 1], s=4, color=f"C{digit}", label=str(digit))
        axes.set(xlabel=names[0], ylabel=names[1])
        figure.legend(loc="outside right upper", markerscale=4)

    return charts.rendered(draw, 7.0, 6.0)


def manifold(vae: VAE, mu: Float[Tensor, "frames z"], side: int = 20) -> grids.Picture:
    """Images of a plane of z, at the quantiles 0.02 to 0.98 of the prior in each direction; z[1] increases upwards.

    A plain autoencoder has no prior, so its plane spans the quantiles of mu.
    """
    shares = torch.linspace(0.02, 0.98, side)
    normal = torch.special.ndtri(shares)
    across, up = torch.quantile(mu, shares, 0).T if vae.config.posterior == "point" else (normal, normal)
    rows = [_decoded(vae, torch.stack([across, height.expand(side)], 1), 0) for height in reversed(up)]
    return grids.grid(rows, 1)


def interpolation(vae: VAE, mu: Float[Tensor, "frames z"], labels: Labels) -> grids.Picture:
    """Interpolate between two images, along a straight line in z and along an arc about the origin.

    The z of a conditional model does not encode the digit, so both images show the same digit.
    """
    present = _digits_with(labels, 2)
    pairs = [(a, a if vae.config.num_classes else b) for a, b in zip(present[::2], present[1::2], strict=False)][:4]
    rows, names = [], []
    for a, b in pairs:
        ends = mu[np.flatnonzero(labels == a)[0]], mu[np.flatnonzero(labels == b)[1]]
        for name, between in {"linear": linear, "spherical": spherical}.items():
            rows.append(_decoded(vae, between(*ends, torch.linspace(0, 1, STEPS)), a))
            names.append(f"{a} to {b}\n{name}")
    return grids.labelled(grids.grid(rows, SCALE), names, margin=80)


def linear(a: Float[Tensor, " z"], b: Float[Tensor, " z"], shares: Float[Tensor, " steps"]) -> Float[Tensor, "steps z"]:
    """Points on the straight line from a to b."""
    return torch.lerp(a, b, shares[:, None])


def spherical(
    a: Float[Tensor, " z"], b: Float[Tensor, " z"], shares: Float[Tensor, " steps"]
) -> Float[Tensor, "steps z"]:
    """Points on the arc from a to b about the origin (Shoemake 1985). The length changes gradually from a's to b's.

    With many normal dimensions all z have about the same length. Points on a straight line are shorter, points on an
    arc are not.
    """
    angle = torch.arccos((torch.dot(a, b) / (a.norm() * b.norm())).clamp(-1, 1))
    if not torch.sin(angle) > 1e-4:  # the same direction, opposite directions, or a zero vector
        return linear(a, b, shares)
    return (torch.sin((1 - shares) * angle)[:, None] * a + torch.sin(shares * angle)[:, None] * b) / torch.sin(angle)


def latent_arithmetic(vae: VAE, mu: Float[Tensor, "frames z"], images: LabelledFrames) -> grids.Picture:
    """Latent arithmetic: thick images of a digit minus its thin images, plus a thin image c of another digit.

    If z encodes the stroke and the digit separately, the result is a thick image of c's digit.
    """
    ink, labels = images.frames.sum((1, 2, 3)), images.labels
    first, *others = _digits_with(labels, 2)
    thick, thin = (mu[torch.from_numpy(chosen)].mean(0, keepdim=True) for chosen in _by_ink(ink, labels, first))
    rows, names = [], []
    for digit in others:
        group = mu[torch.from_numpy(_by_ink(ink, labels, digit)[1])]
        c = group[(group - group.mean(0)).square().sum(1).argmin()][None]  # the thin image closest to their mean
        row = [(thick, first), (thin, first), (c, digit), (thick - thin + c, digit)]
        rows.append(np.concatenate([_decoded(vae, z, of) for z, of in row]))
        names.append(f"thick {first} - thin {first}\n+ thin {digit} = ...")
    return grids.labelled(grids.grid(rows, SCALE), names, margin=110)


def _by_ink(ink: np.ndarray, labels: Labels, digit: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions of a digit's images with the most ink (thick), and of those with the least (thin)."""
    chosen = np.flatnonzero(labels == digit)
    ranked = chosen[np.argsort(ink[chosen], kind="stable")]
    count = max(1, round(STROKE_SHARE * len(ranked)))
    return ranked[-count:], ranked[:count]


def chosen_digits(vae: VAE, count: int = 12, seed: int = 0) -> grids.Picture:
    """A row for each digit that the model is asked for, a column for each z. A column has the same handwriting."""
    z = torch.randn(count, vae.config.z_dim, generator=torch.Generator().manual_seed(seed))
    rows = [_decoded(vae, z, digit) for digit in range(vae.config.num_classes)]
    return grids.labelled(grids.grid(rows, SCALE), [str(digit) for digit in range(len(rows))], margin=30)


def holes(models: Mapping[str, VAE], count: int = 16, seed: int = 0) -> grids.Picture:
    """The same random z decoded by each model, in two rows per model.

    A VAE decodes digits. A plain autoencoder has holes: some z decode to no digit. A model with fewer dimensions takes
    the first ones of z.
    """
    widest = max(vae.config.z_dim for vae in models.values())
    z = torch.randn(2 * count, widest, generator=torch.Generator().manual_seed(seed))
    digits = torch.arange(2 * count) % NUM_DIGITS
    drawn = [_decoded(vae, z[:, : vae.config.z_dim], digits) for vae in models.values()]
    rows = list(itertools.chain.from_iterable((images[:count], images[count:]) for images in drawn))
    names = list(itertools.chain.from_iterable((name, "") for name in models))
    return grids.labelled(grids.grid(rows, SCALE), names, margin=110)
