"""Run the benchmark: python -m world_models.bench."""

from world_models.bench import main

main()
