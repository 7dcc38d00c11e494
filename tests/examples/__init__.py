"""The worked examples run on public names alone."""
