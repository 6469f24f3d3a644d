"""Geometry of input gradients: saliency maps, their cosine similarity matrix, and its statistics."""
