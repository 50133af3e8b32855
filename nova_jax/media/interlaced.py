"""Deinterlacing: each picture has lines of two moments; one is kept, and its missing lines are interpolated."""

from collections import deque
from collections.abc import Iterable, Iterator

import av
import av.filter


def progressive(timed: Iterable[tuple[float, av.VideoFrame]]) -> Iterator[tuple[float, av.VideoFrame]]:
  """Yield pictures with their times, deinterlaced by FFmpeg's bwdif from the first that is marked as interlaced."""
  graph, shape, times = None, None, deque()
  for time, image in timed:
    if graph is not None and shape != (image.format.name, image.width, image.height):
      yield from _rest(graph, times)
      graph = None
    if graph is None and not image.interlaced_frame:
      yield time, image
      continue
    if graph is None:
      graph, shape = _graph(image), (image.format.name, image.width, image.height)
    times.append(time)
    graph.vpush(image)
    yield from _ready(graph, times)
  if graph is not None:
    yield from _rest(graph, times)


def _graph(image: av.VideoFrame) -> av.filter.Graph:
  graph = av.filter.Graph()
  graph.threads = 1
  source = graph.add_buffer(
      width=image.width, height=image.height, format=image.format, time_base=image.time_base)
  graph.link_nodes(source, graph.add("bwdif", "mode=send_frame:deint=interlaced"), graph.add("buffersink")).configure()
  return graph


def _ready(graph: av.filter.Graph, times: deque[float]) -> Iterator[tuple[float, av.VideoFrame]]:
  while True:
    try:
      image = graph.vpull()
    except (av.error.BlockingIOError, av.error.EOFError):
      return
    yield times.popleft(), image


def _rest(graph: av.filter.Graph, times: deque[float]) -> Iterator[tuple[float, av.VideoFrame]]:
  graph.vpush(None)
  yield from _ready(graph, times)
