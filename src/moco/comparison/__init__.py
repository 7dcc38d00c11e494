"""What a network is worth on labelled images, beside the networks that it has to beat: puts data, encoder and
evaluation together for `moco evaluate`.
"""
