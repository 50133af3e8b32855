"""Host memory: where a CPU computes, large blocks stay with the process, and lie in huge pages."""

import ctypes
import glob
import os
import sys

_ACCELERATORS = ("/dev/accel*", "/dev/vfio/[0-9]*", "/dev/nvidia[0-9]*", "/dev/kfd")
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8  # Of glibc's malloc.h.
_MADV_HUGEPAGE = 14  # Of Linux's mman.h.
_PIECE = 2**30  # Bytes, fewer than the largest threshold, above which a block would lie outside of the heap.


def tune_heap() -> None:
  """Make one heap of which nothing is given back, and let the kernel use huge pages for it.

  Otherwise the kernel hands out the large blocks of each step anew, page by page, zeroed. The heap grows to half of the
  machine's memory at once. That takes addresses alone, until something is written there, and marks all of it: the
  kernel uses pages of 2 MB only where it was asked to. Call this before there are other threads, which would have
  heaps of their own. Where there is an accelerator, or no glibc, nothing happens; where addresses are limited, the heap
  grows as it is needed.
  """
  if sys.platform != "linux" or any(map(glob.glob, _ACCELERATORS)):
    return
  import resource  # Not on every system.

  libc = ctypes.CDLL(None)
  if not hasattr(libc, "mallopt"):
    return
  libc.malloc.restype = libc.sbrk.restype = ctypes.c_void_p
  libc.malloc.argtypes, libc.free.argtypes = [ctypes.c_size_t], [ctypes.c_void_p]
  libc.sbrk.argtypes = [ctypes.c_ssize_t]
  libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
  libc.mallopt(_ARENA_MAX, 1)
  libc.mallopt(_MMAP_THRESHOLD, 2**31 - 1)
  libc.mallopt(_TRIM_THRESHOLD, -1)  # Never.
  page = os.sysconf("SC_PAGE_SIZE")
  memory = os.sysconf("SC_PHYS_PAGES") * page
  if any(resource.getrlimit(kind)[0] != resource.RLIM_INFINITY for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA)):
    return
  pieces = [libc.malloc(_PIECE) for _ in range(memory // 2 // _PIECE)]
  for piece in pieces[:-1]:  # The last one stays, since a library that trims the heap would cut off what lies behind.
    libc.free(piece)
  begin, end = (pieces[0] or 0) // page * page if pieces else 0, libc.sbrk(0)
  if 0 < begin < end:  # The machine may refuse to grow it.
    libc.madvise(begin, end - begin, _MADV_HUGEPAGE)
