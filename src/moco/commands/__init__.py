"""What each command does, as a Python function with the same name and options.

The modules load without PyTorch, because the command line reads the signatures of all of them.

A command's signature and docstring are its `--help`, an entry for each option. So these functions are longer than 40
lines; their bodies are not (at most 30, which a test holds).
"""
