"""What `fit` does: scan the trusted inputs, split them, extract evidence, learn."""
