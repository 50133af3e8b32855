"""TensorBoard's events, in `tensorboard/`."""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.summary import scalar, text

from nova_jax.media.pictures import read_picture
from nova_jax.train.trackers.base import Line, Tracker

_RGB = 3


class TensorBoard(Tracker):
  """Writes events in the thread of the steps: the library's own thread would die of an error, and calls wait for it."""

  title = "TensorBoard"

  def __init__(self, folder: Path, workdir: Path, first_step: int, notes: Mapping[str, Any]):
    del workdir
    (folder / "tensorboard").mkdir(exist_ok=True)
    self._writer = EventsWriter(str(folder / "tensorboard" / "events"))
    # TensorBoard forgets what an earlier process wrote for this step and later ones.
    start = Event(
        wall_time=time.time(), step=first_step + 1, session_log=SessionLog(status=SessionLog.START))
    self._write(start, self._event(first_step, text("run", _as_code(notes))))

  def line(self, line: Line) -> None:
    self._write(*(self._event(line.step, scalar(name, value)) for name, value in line.values.items()))

  def picture(self, step: int, name: str, path: Path) -> None:
    height, width, _ = read_picture(path).shape
    picture = Summary.Image(height=height, width=width, colorspace=_RGB, encoded_image_string=path.read_bytes())
    self._write(self._event(step, Summary(value=[Summary.Value(tag=name, image=picture)])))

  def close(self) -> None:
    self._writer.close()

  def _event(self, step: int, summary: Summary) -> Event:
    return Event(wall_time=time.time(), step=step, summary=summary)

  def _write(self, *events: Event) -> None:
    for event in events:
      self._writer.write_event(event)
    self._writer.flush()


def _as_code(notes: Mapping[str, Any]) -> str:
  """Return notes as JSON, in the Markdown that TensorBoard shows."""
  return "".join(f"    {line}\n" for line in json.dumps(notes, indent=2).splitlines())
