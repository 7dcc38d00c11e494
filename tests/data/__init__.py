"""Tests of the data path; `examples` has images and recipes that several of them take."""
