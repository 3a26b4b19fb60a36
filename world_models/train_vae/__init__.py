"""Train the V model on rollouts, or on MNIST: runs/<name>/ with weights, metrics and pictures.

command     the command: checks the input, and starts the training
loop        the training loop: steps, logging, validation, saving
config      the settings: data, length, schedule, model and objective
data        the frames for training and those for validation
learner     a V model, its optimizer, and one step of training
fixed_step  the step with its inputs in fixed memory, for a CUDA graph
run_writer  writes the run's folder
"""

from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command, like `python -m world_models.train_vae`.

    Args:
        argv: the flags; None takes those of the process.

    Raises:
        ValueError, OSError: the input is bad. Nothing was written.
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
