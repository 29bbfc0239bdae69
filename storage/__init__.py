"""What is on disk: cache format, codecs, containers, commits, reading, verification."""
