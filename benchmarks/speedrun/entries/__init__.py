"""One file for each entry, with one function: train(task: Task) -> nn.Module."""
