"""One-class models: what is learned from trusted inputs alone."""
