"""The largest sizes of what comes from outside. Each is a bound on memory or time; docs/limits.md explains them.

Invariant: a limit is checked before the memory is taken. The error says what was given, the limit, and its name here.
"""

# Pictures and videos.
PICTURE_PIXELS = 256_000_000  # Of a picture; 200 megapixels of a photographer take 0.6 GB as RGB.
PICTURE_TEXT_BYTES = 16 << 20  # Of a text in a PNG.
FRAME_PIXELS = 8192 * 8192  # Of a frame of a video or of a moving picture.

# Text.
CAPTION_BYTES = 64 << 10  # Of a caption or a prompt.
CELL_BYTES = 1 << 20  # Of a cell of a CSV table, or a line of JSON.
TEXT_FILE_BYTES = 1 << 30  # Of a table or a list of prompts, all of it.
ROWS = 10_000_000  # Of a table.
JSON_FILE_BYTES = 256 << 20  # Of a JSON file that is read as a whole.
JSON_DEPTH = 64  # Of lists and objects within each other in such a file.

# Files around media.
NOTE_BYTES = 1 << 20  # Of what an output says of how it was made.
TAR_HEADER_BYTES = 1 << 20  # Of a tar's extended header (long names).
ROW_BYTES = 512 << 20  # Of media bytes in a cell of a Parquet table.
REQUEST_PIXELS = 4_000_000_000  # Of a request: clips x frames x height x width; also of a given or scored video.
GIVEN_BYTES = 1 << 30  # Of given clips, in the model's size, that a run keeps so as not to decode them again.
ITEM_SECONDS = 1800  # To decode an item of a source, in a process of its own; then it is rejected.
BATCH = 4096  # Clips generated together.
CLIPS = 1_000_000  # Of a list of prompts, all samples included.

# Model folders.
CONFIG_BYTES = 16 << 20  # Of a JSON file that describes a model or lists its shards.
HEADER_BYTES = 16 << 20  # Of a safetensors file's header.
WEIGHTS = 50_000  # In a file.
TOKENIZER_BYTES = 64 << 20  # Of a file of a tokenizer.
TOKENIZER_GROWTH = 1000  # Times that the rules of a tokenizer may lengthen a prompt.
