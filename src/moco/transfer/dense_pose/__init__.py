"""Dense pose as a task: the detection of persons, what is measured of their surfaces (with geodesic distances where
there are any), and the picture of parts.
"""
