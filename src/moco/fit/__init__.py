"""Options of a run that nobody stated, from the images, the machine and the time; what a run will take."""
