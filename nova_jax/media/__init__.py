"""Pictures and videos: `write` makes the files that a person looks at."""

from nova_jax.media.write import (
    NOTE, enlarge, growing_mp4, read_note, tile, write_gif, write_mp4, write_png, write_sheet, write_stack, write_webp)

__all__ = [
    "NOTE", "enlarge", "growing_mp4", "read_note", "tile", "write_gif", "write_mp4", "write_png", "write_sheet",
    "write_stack", "write_webp"]
