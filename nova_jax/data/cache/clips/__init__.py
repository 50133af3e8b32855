"""From an item to a clip of the shape that a cache wants, by processes that decode."""
