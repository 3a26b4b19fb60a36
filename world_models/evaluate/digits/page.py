"""The report page of a model of MNIST, and the chart that shows what beta trades."""

import html
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from world_models.drawing import charts, grids
from world_models.drawing.html import STYLE, figure, row
from world_models.runs.records import RunRecord, number

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TABLE = {
    "sse": "SSE of decode(mu)",
    "pca_sse": "SSE of PCA with as many components",
    "mean_sse": "SSE of the mean image",
    "psnr_db": "PSNR (dB)",
    "ssim": "SSIM",
    "kl_nats": "KL (nats per image)",
    "active_units": "active units (variance of mu above 0.01)",
    "dims_used": "dimensions used (KL above 0.05 nats)",
    "elbo_grey_nats": "ELBO, grey pixels (nats per image)",
    "elbo_binarised_nats": "ELBO, black and white pixels (nats per image)",
    "linear_accuracy": "digits told by logistic regression on mu",
    "knn_accuracy": "digits told by the five nearest neighbours of mu",
    "asked_share": "samples that show the digit asked for",
}
SHARES = {"linear_accuracy", "knn_accuracy", "asked_share"}
SAMPLES = {"prior_samples": "the prior, N(0, I)", "fitted_samples": "a normal with the mean and covariance of mu"}
CAPTIONS = {
    "recon": "Test images, two of each digit, over what the model makes of them from z = mu.",
    "samples": "Images decoded from the prior N(0, I).",
    "chosen_digits": "A row for each digit asked for, a column for each z: z holds the hand, not the digit.",
    "latents": "Mu of the first 5,000 test images at most, coloured by digit; where z has more than two dimensions, "
    "their first two principal components.",
    "manifold": "Images of the whole plane of z, at the quantiles 0.02 to 0.98 of the prior (of a plain autoencoder, "
    "which has none, of mu) in each direction.",
    "interpolation": "From one test image to another, along a straight line in z and along an arc about the origin.",
    "arithmetic": "Latent arithmetic: a, the mean of a digit's thick images; b, of its thin ones; c, a thin image of "
    "another digit; and a - b + c, which is a thick one of it where z holds strokes and digits apart.",
    "holes": "The same random z decoded by each model; those with fewer dimensions take the first of them, and a "
    "conditional one is told 0 to 9 in turn. A plain autoencoder never learned what lies between its codes.",
    "trade_off": "What beta trades: the more the KL weighs, the less is spent, and the more of the image is lost.",
    "kl_per_dim": "KL of each latent dimension in nats per image. Dimensions near zero say nothing about the image.",
}
BOUND = "importance-weighted bound, {kind} pixels, {count} of z, {images:,} images (nats)"
GREY = (
    " Grey pixels are no draws of a Bernoulli distribution, so with it what is named grey is a cross-entropy, good for "
    "comparing with the tutorials; likelihoods of publications are of black and white pixels. Weighted bounds "
    "are of some of the images, so that one sample is the ELBO of those."
)
CHOSEN = (
    "<p>The best weights are those of the validation with the lowest loss, and validations are of these images, so "
    "the scores flatter a little; <code>--weights last</code> does not.</p>"
)
CHARTS = {"latents", "trade_off", "kl_per_dim"}


def page(name: str, scores: Mapping[str, Any], shown: Mapping[str, grids.Picture]) -> str:
    """The report as HTML."""
    title = html.escape(f"model of MNIST {name}")
    rows = [row(label, _number(key, scores[key])) for key, label in TABLE.items() if scores[key] is not None]
    bounds = [
        row(BOUND.format(kind=kind, count=count, images=scores["iwae_images"]), f"{bound:,.2f}")
        for kind, key in {"grey": "iwae_grey_nats", "black and white": "iwae_binarised_nats"}.items()
        for count, bound in (scores[key] or {}).items()
    ]
    drawn = [figure(key, shown[key], caption, key in CHARTS) for key, caption in CAPTIONS.items() if key in shown]
    parts = [
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>',
        f"<style>{STYLE}</style></head><body><h1>{title}</h1><p>{html.escape(summary(scores))}.</p>",
        f"<p>Scored on {scores['images']:,} test images in {html.escape(scores['data'])}. Errors are summed over an "
        f"image's 784 values in [0, 1].{GREY if bounds else ''}</p>",
        *([CHOSEN] if scores["weights"] == "best" else []),
        f"<table>{''.join([*rows, *bounds])}</table>",
        _sample_table(scores),
        *drawn,
        "</body></html>\n",
    ]
    return "\n".join(parts)


def _number(key: str, value: float | int) -> str:
    if key in SHARES:
        return f"{value:.1%}"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.2f}"


def _sample_table(scores: Mapping[str, Any]) -> str:
    rows = [
        row(label, f"{of['confident_share']:.1%}", f"{of['class_entropy_nats']:.2f}")
        for key, label in SAMPLES.items()
        for of in [scores[key]]
    ]
    head = row("samples of", "confidently a digit", "entropy of the digits (nats)")
    return (
        "<h2>How good the samples are</h2><p>By a classifier that tells "
        f"{scores['classifier_accuracy']:.1%} of the test images right: the share of samples of which it gives one "
        "digit more than 0.9, and how evenly the digits are spread; 2.30 is evenly. Such a classifier was never shown "
        f"anything but digits, so it is too generous to what is none.</p><table>{head}{''.join(rows)}</table>"
    )


def summary(scores: Mapping[str, Any]) -> str:
    """The result in a line."""
    elbo = scores["elbo_grey_nats"]
    likelihood = "" if elbo is None else f"-ELBO {-elbo:,.2f} nats on grey images, KL {scores['kl_nats']:.1f}, "
    return (
        f"{likelihood}SSE {scores['sse']:.2f} per image (PCA-{scores['pca_components']} {scores['pca_sse']:.2f}), "
        f"{scores['prior_samples']['confident_share']:.0%} of prior samples confidently a digit"
    )


class BetaPoint(NamedTuple):
    """What a run with some beta spends and loses, by its last validation; nats per image."""

    beta: float
    kl_nats: float
    reconstruction_nats: float


def beta_points(own: RunRecord, others: Sequence[RunRecord]) -> list[BetaPoint]:
    """The points of a run and of those that differ from it in nothing but beta, seed and how they are logged."""
    alike = [run for run in others if _but_beta(run) == _but_beta(own)]
    return [point for run in (own, *alike) if (point := _beta_point(run))]


def _but_beta(run: RunRecord) -> dict[str, Any]:
    free = {"vae.beta", "out", "data", "seed", "device", "memory_gb", "resume", "tensorboard", "log_every_steps"}
    return {name: value for name, value in run.settings().items() if name not in free and not name.startswith("wandb.")}


def _beta_point(run: RunRecord) -> BetaPoint | None:
    """A run's point; None for one with no distribution, a KL floor, which hides the KL's share, or no validation."""
    settings, last = run.settings(), run.last_validation()
    if settings.get("vae.posterior") == "point" or settings.get("vae.kl_tolerance") != 0:
        return None
    beta, kl, loss = number(settings, "vae.beta"), number(last, "val/kl_nats"), number(last, "val/loss_nats")
    return None if beta is None or kl is None or loss is None else BetaPoint(beta, kl, loss - beta * kl)


def trade_off(points: Sequence[BetaPoint]) -> grids.Picture:
    """Reconstruction error and KL over beta."""
    ordered = sorted(points)

    def draw(figure: "Figure") -> None:
        left = figure.add_subplot()
        right = left.twinx()
        betas = [point.beta for point in ordered]
        sides = (
            (left, "reconstruction_nats", "-log p(x|z) (nats)", "C0"),
            (right, "kl_nats", "KL (nats)", "C1"),
        )
        for axes, name, label, colour in sides:
            axes.plot(betas, [getattr(point, name) for point in ordered], "o-", color=colour)
            axes.set_ylabel(label, color=colour)
            axes.set_ylim(0, None)
        if min(betas) > 0:
            left.set_xscale("log", base=2)
            left.set_xticks(betas, [f"{beta:g}" for beta in betas])
        left.set_xlabel("beta")

    return charts.rendered(draw, 7.0, 4.0)
