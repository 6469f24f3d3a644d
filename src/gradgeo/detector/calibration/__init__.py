"""From scores to p-values with a stated false-alarm rate: conformal, for each group, for each batch."""
