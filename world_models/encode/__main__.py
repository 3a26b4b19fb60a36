"""Run the command: python -m world_models.encode."""

from world_models.encode import main

if __name__ == "__main__":
    main()
