"""Run the command: python -m world_models.train_vae."""

from world_models.runtime import host
from world_models.train_vae import main

if __name__ == "__main__":
    host.begin_command("world_models.train_vae")
    main()
