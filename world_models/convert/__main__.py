"""Run the command: python -m world_models.convert."""

from world_models.convert import main
from world_models.runtime import host

if __name__ == "__main__":
    host.begin_command("world_models.convert")
    main()
