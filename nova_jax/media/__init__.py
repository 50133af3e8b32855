"""Pictures and videos: `footage` and `pictures` read them; `write`, `animations` and `sheets` write files to view."""

from nova_jax.media.animations import write_gif, write_webp
from nova_jax.media.sheets import write_sheet, write_stack
from nova_jax.media.write import NOTE, enlarge, growing_mp4, read_note, tile, write_mp4, write_png

__all__ = [
    "NOTE", "enlarge", "growing_mp4", "read_note", "tile", "write_gif", "write_mp4", "write_png", "write_sheet",
    "write_stack", "write_webp"]
