"""Make one HTML page on which anybody can play with a V model: sliders for z, episodes, a map, drawing.

command   the command
config    its settings
shown     the frames on the page and their numbers: episodes of rollouts, or test images of MNIST
latents   the statistics of z that the page needs: KL, principal components, directions of telemetry
weights   the model's networks as a list of layers, for JavaScript
blobs     arrays as compressed text inside a page
page      the page, from explorer.html, explorer.css and the scripts in js/

js/networks.js computes the layers, js/worker.js calls it in a thread of its own, and js/engine.js reads the arrays and
asks the worker. The other scripts are what a reader of the page sees and touches.
"""

from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command, like `python -m world_models.explore`.

    Args:
        argv: the flags; None takes those of the process.

    Raises:
        ValueError, OSError: the input is bad. Nothing was written.
        Stopped: the work ended early (`world_models.runtime.errors.Stopped`).

    Example:
        >>> from world_models import explore
        >>> explore.main(["--vae", "runs/vae", "--data", "rollouts/heldout", "--out", "explorer.html"])
        /...explorer.html: ... MB, 1 model, ... frames
    """
    from world_models.explore import command

    command.main(argv)
