"""Run the command: python -m world_models.bench."""

from world_models.bench import main
from world_models.runtime import host

if __name__ == "__main__":
    host.begin_command("world_models.bench")
    main()
