"""Label maps, which say of each pixel what it shows: the folder layouts that they come in, how they are read and
checked, and mIoU, by which two of them are compared. Semantic segmentation learns from them; Cityscapes' instances are
read from such maps too.
"""
