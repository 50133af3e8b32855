"""Limits on the sizes of inputs, which bound memory and time; docs/limits.md explains them.

Invariant: a limit is checked before memory is allocated. The error has the given size, the limit, and its name here.
"""

# Pictures and videos.
PICTURE_PIXELS = 256_000_000  # Pixels of a picture; 200 megapixels take 0.6 GB as RGB.
PICTURE_TEXT_BYTES = 16 << 20  # A text in a PNG.
FRAME_PIXELS = 8192 * 8192  # Pixels of a frame of a video or an animated picture.

# Text.
CAPTION_BYTES = 64 << 10  # A caption or a prompt.
CELL_BYTES = 1 << 20  # A cell of a CSV table, or a line of JSON.
TEXT_FILE_BYTES = 1 << 30  # A whole table or list of prompts.
ROWS = 10_000_000  # Rows of a table.
JSON_FILE_BYTES = 256 << 20  # A JSON file that is read as a whole.
JSON_DEPTH = 64  # Nested lists and objects in a JSON file.

# Files around media.
NOTE_BYTES = 1 << 20  # The note in an output on how it was generated.
TAR_HEADER_BYTES = 1 << 20  # An extended header of a tar, which has long names.
ROW_BYTES = 512 << 20  # Media in a cell of a Parquet table.
REQUEST_PIXELS = 4_000_000_000  # Clips × frames × height × width of a request; also of a given or scored video.
GIVEN_BYTES = 1 << 30  # Decoded given clips, in the model's size, that a run keeps.
ITEM_SECONDS = 1800  # Time to decode an item of a source in its own process, after which the item is rejected.
BATCH = 4096  # Clips generated together.
CLIPS = 1_000_000  # Clips of a list of prompts, including all samples.

# Model folders.
CONFIG_BYTES = 16 << 20  # A JSON file that describes a model or lists its shards.
HEADER_BYTES = 16 << 20  # The header of a safetensors file.
WEIGHTS = 50_000  # Weights in a file.
TOKENIZER_BYTES = 64 << 20  # A file of a tokenizer.
TOKENIZER_GROWTH = 1000  # Factor by which the rules of a tokenizer may lengthen a prompt.
