"""Inception Score: how sure a classifier is of each picture, and how many classes it sees in all of them.

  exp(E KL(p(y | x) ‖ p(y))), for parts of 5,000 pictures, of which the mean and the deviation are reported

"Improved Techniques for Training GANs" (Salimans et al., 2016). The probabilities are those of the Inception network's
1,008 classes; as in the published code, its logits have no bias, and the last part may be shorter than the others.
Invariant: all computation after the logits is in float64.
"""

import numpy as np
from jaxtyping import Float

from nova_jax.utils.errors import UserError

PART = 5000


def inception_score(logits: Float[np.ndarray, "n classes"], part: int = PART) -> tuple[float, float]:
  """Return the mean score of parts of `part` pictures in their order, and the standard deviation.

  A part should show the classes as evenly as all pictures do: shuffle pictures that are sorted by class.

  Raises:
    UserError: there are no logits, or some are not finite.
  """
  logits = np.asarray(logits, np.float64)
  if logits.ndim != 2 or not len(logits) or not np.isfinite(logits).all():
    raise UserError(f"Inception Score: expected finite logits [n, classes], got {list(logits.shape)}")
  scores = [np.exp(_divergence(logits[start : start + part])) for start in range(0, len(logits), part)]
  return float(np.mean(scores)), float(np.std(scores))


def _divergence(logits: Float[np.ndarray, "n classes"]) -> float:
  """Return the mean divergence, in nats, of each picture's distribution of classes from that of all."""
  shifted = logits - logits.max(1, keepdims=True)
  logs = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
  probabilities = np.exp(logs)
  marginal = probabilities.mean(0)
  known = np.log(marginal, out=np.zeros_like(marginal), where=marginal > 0)
  return float((probabilities * (logs - known)).sum(1).mean())
