"""The array types that several packages share; a type of one package stands in that package."""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
"""Real numbers, in double precision wherever they leave the model."""

IntArray = NDArray[np.int64]
"""Counts, class labels and row numbers."""

BoolArray = NDArray[np.bool_]
"""A row mask."""
