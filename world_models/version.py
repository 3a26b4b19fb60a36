"""The version, in a separate module that a build can read without other imports."""

__version__ = "0.1.0"
