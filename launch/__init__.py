"""Command-line programs: `python -m launch.<name> --help`."""
