"""The detector file: what is written, what is read, and what in it is private."""
