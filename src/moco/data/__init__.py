"""Images: where they come from, how they are decoded, cropped and coloured, and the two views of each step."""
