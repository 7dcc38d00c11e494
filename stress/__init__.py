"""Kills, signals, full disks, races, damaged files and odd inputs, drawn by seed and number: `python -m stress`."""
