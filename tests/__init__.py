"""Tests state laws; they mirror `src/moco`, and `tests.reference` holds the slow twins that fast paths are held to."""
