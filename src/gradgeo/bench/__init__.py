"""Compare detectors on the user's own classifier, on all that it should not trust."""
