"""Training data: captions, the moving digits, and the stream of batches."""
