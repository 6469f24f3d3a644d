"""The version, which stands here alone: pyproject.toml, files, servers and the command line read it."""

__version__ = "0.1.0"
