"""What every room uses: errors, files, limits, progress."""
