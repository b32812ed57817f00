"""Temperature scaling: probabilities that are as high as the share of right predictions."""

import numpy as np
from scipy.optimize import minimize_scalar

from sagehound.evaluation.tables import Floats, Labels, softmax

_RANGE = 0.05, 20.0
_SPREAD = 0.5  # standard deviation of the prior of log T


def fit_temperature(logits: Floats, labels: Labels) -> float:
    """The temperature T with which softmax(logits / T) has the lowest cross entropy; 1 without photos.

    Guo et al., "On calibration of modern neural networks", ICML 2017, section 4.2. The order of the classes is
    unchanged. A normal prior of log T, around 0 with standard deviation 0.5, keeps T near 1 where few photos tell: if
    every photo is right, the cross entropy alone would make T zero.

    Args:
        logits: of photos that the model was not trained on, n x c.
        labels: n.
    """
    if not len(labels):
        return 1.0

    def loss(log_t: float) -> float:
        of_label = softmax(logits.astype(np.float64) / np.exp(log_t))[np.arange(len(labels)), labels]
        return float(-np.log(np.maximum(of_label, 1e-300)).sum() + log_t**2 / (2 * _SPREAD**2))

    best = minimize_scalar(loss, bounds=np.log(_RANGE), method="bounded")
    return round(float(np.exp(best.x)), 4)
