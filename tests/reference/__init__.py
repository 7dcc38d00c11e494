"""Naive twins: the plainest form of each fast path, written to be read and compared, never to be fast."""
