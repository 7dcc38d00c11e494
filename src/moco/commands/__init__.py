"""What each command does, as a Python function with the same name and options.

The modules load without PyTorch, because the command line reads the signatures of all of them.
"""
