"""How answers are shown: images enlarged to tiles, translucent areas with outlines, labels, rows with a key of colours.
What is drawn on a tile is each task's own.
"""
