"""Semantic segmentation as a task: crops of images with their label maps, the FCN that learns from them, and the
picture of answers.
"""
