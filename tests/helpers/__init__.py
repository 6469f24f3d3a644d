"""What several test files share: nets, inputs, servers, places."""

from pathlib import Path

TESTS = Path(__file__).parent.parent
"""The folder of the tests."""

ROOT = TESTS.parent
"""The folder of the project."""
