"""The version, in a module that a build can read without importing anything else."""

__version__ = "0.1.0"
