"""Items of a source: where a clip or still lies, in a file, an archive or a table, and what is said of it."""
