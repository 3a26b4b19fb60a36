"""Run the command: python -m world_models.explore."""

from world_models.explore import main
from world_models.runtime import host

if __name__ == "__main__":
    host.begin_command("world_models.explore")
    main()
