"""Models of the Hugging Face hub, by their ids, wherever the folder of a model may stand.

Invariants: nothing is asked of the hub but what a user names by its id; a local folder wins; a file that was downloaded
has the digest that the hub says, or is not seen.
"""

from nova_jax.checkpoints.hub.download import local_folder, named_part, part_folder, pinned
from nova_jax.checkpoints.hub.ids import identity, parse_id

__all__ = ["identity", "local_folder", "named_part", "parse_id", "part_folder", "pinned"]
