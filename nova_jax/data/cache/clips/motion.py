"""Motion score of a clip by sparse optical flow, as the published authors describe it.

Corners of a frame are tracked into the next one by pyramidal Lucas-Kanade; the score of the pair is the mean length of
their ways, in pixels of the clip as it is stored, and that of the clip the mean over its pairs.
Invariant: a still picture, or one without corners, scores 0.
"""

import itertools
from typing import Any

import cv2
import numpy as np
from jaxtyping import UInt8

# The published authors' settings.
_CORNERS: dict[str, Any] = {"maxCorners": 100, "qualityLevel": 0.1, "minDistance": 7, "blockSize": 7}
_TRACKING: dict[str, Any] = {"winSize": (15, 15), "maxLevel": 2}


def motion_score(clip: UInt8[np.ndarray, "T height width C"]) -> float:
  """Return the mean displacement of corners from frame to frame, in pixels."""
  grey = [frame[..., 0] if frame.shape[-1] == 1 else cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in clip]
  grey = [np.ascontiguousarray(frame) for frame in grey]
  scores = [_displacement(*pair) for pair in itertools.pairwise(grey)]
  return float(np.mean(scores)) if scores else 0.0


def _displacement(before: UInt8[np.ndarray, "height width"], after: UInt8[np.ndarray, "height width"]) -> float:
  corners = cv2.goodFeaturesToTrack(before, **_CORNERS)
  if corners is None:
    return 0.0
  moved, found, _ = cv2.calcOpticalFlowPyrLK(before, after, corners, None, **_TRACKING)  # ty: ignore[no-matching-overload] (takes None)
  ways = np.linalg.norm((moved - corners).reshape(-1, 2)[found.ravel() == 1], axis=-1)
  return float(ways.mean()) if len(ways) else 0.0
