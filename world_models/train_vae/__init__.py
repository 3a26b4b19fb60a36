"""Train the V model on rollouts, or on MNIST: runs/<name>/ with weights, metrics and pictures.

command     the command: what it checks, and the training loop
config      what a training run is asked for: data, length, schedule, model and objective
data        the frames to train on and those to validate on
learner     a V model, its optimizer, and one step of training
run_writer  what the run writes into its folder
"""

from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command, as `python -m world_models.train_vae` does.

    Args:
        argv: the flags; those of the process when None.

    Raises:
        ValueError, OSError: the input is bad; nothing was written.
        Stopped: the work ended early (`world_models.runtime.errors.Stopped`).

    Example:
        >>> from world_models import train_vae
        >>> train_vae.main(["--data", "rollouts/carracing", "--out", "runs/small", "--num_frames", "100"])
        /...runs/small: SSE ...
        >>> world_models.load_vae("runs/small").config.z_dim
        32
    """
    from world_models.train_vae import command

    command.main(argv)
