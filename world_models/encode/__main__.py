"""Run the command: python -m world_models.encode."""

from world_models.encode import main
from world_models.runtime import host

if __name__ == "__main__":
    host.begin_command("world_models.encode")
    main()
