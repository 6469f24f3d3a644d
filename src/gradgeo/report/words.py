"""Kinds of evidence in plain words, with the field's word in brackets; others are called by their name."""

from gradgeo.classifier.layers import LAYERS

PLAIN = {
    "confidence": "the classifier itself is unsure",
    "mirrored": "the classifier itself is unsure, its mirror image considered",
    "neighbours": "unlike the trusted inputs nearest to it",
    "mahalanobis": "far from trusted inputs of its class",
    "residual": "has what no trusted input has",
    "magnitude": "its features are unusually strong or weak",
    "stability": "small changes shake the decision",
    "shifts": "a step aside shakes the decision",
    "spectrum": "its range, level or detail is unlike that of trusted inputs",
    "columns": "its columns are together as in no trusted row",
    "symmetry": "its mirror image is decided otherwise",
    "flips": "small changes turn over the gradient’s signs",
    "turn": "small changes turn the gradient",
    "neighbourhood": "small changes move decision and gradient",
    "curvature": "the loss bends unusually around it",
    "csm": "classes lie around it as around no trusted input",
    "csm_twice": "classes lie around it as around no trusted input, at either temperature",
    "raw_csm": "classes lie around it as around no trusted input, by size",
    "boundary": "boundaries are unusually near or far",
    "nearest_boundary": "the nearest boundary is unusually near or far",
    **{f"layer_{i + 1}": f"unlike trusted inputs inside the classifier, at layer {i + 1}" for i in range(LAYERS)},
}


def plain(name: str) -> str:
    """What a kind of evidence says where it is significant."""
    return f"{PLAIN[name]} ({name})" if name in PLAIN else name
