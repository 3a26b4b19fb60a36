"""The report page of a model of MNIST, and the chart of reconstruction error and KL over beta."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from world_models.drawing import charts, grids, pages
from world_models.evaluate.evaluation import Figures
from world_models.runs.records import RunRecord, number
from world_models.runs.scores import DigitScores
from world_models.runtime.typed_json import Json

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def page(name: str, scores: DigitScores, figures: Figures) -> str:
    """Make the report as HTML."""
    return pages.render("digits.html", name=name, scores=scores, summary=scores.summary(), figures=figures)


class BetaPoint(NamedTuple):
    """A run's beta, KL and reconstruction error by its last validation, in nats per image."""

    beta: float
    kl_nats: float
    reconstruction_nats: float


def beta_points(own: RunRecord, others: Sequence[RunRecord]) -> list[BetaPoint]:
    """The points of a run and of the other runs that differ from it only in beta, seed, place and logging."""
    alike = [run for run in others if _settings_without_beta(run) == _settings_without_beta(own)]
    return [point for run in (own, *alike) if (point := _beta_point(run))]


def _settings_without_beta(run: RunRecord) -> dict[str, Json]:
    free = {"vae.beta", "out", "data", "seed", "device", "memory_gb", "resume", "tensorboard", "log_every_steps"}
    return {name: value for name, value in run.settings().items() if name not in free and not name.startswith("wandb.")}


def _beta_point(run: RunRecord) -> BetaPoint | None:
    """A run's point; None for a plain autoencoder, for a run without validation, and for one with a KL floor.

    A floor makes it impossible to split the validation loss into reconstruction error and KL.
    """
    settings, last = run.settings(), run.last_validation()
    if settings.get("vae.posterior") == "point" or settings.get("vae.kl_tolerance") != 0:
        return None
    beta, kl, loss = number(settings, "vae.beta"), number(last, "val/kl_nats"), number(last, "val/loss_nats")
    return None if beta is None or kl is None or loss is None else BetaPoint(beta, kl, loss - beta * kl)


def trade_off(points: Sequence[BetaPoint]) -> grids.Picture:
    """Draw reconstruction error and KL over beta."""
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
