"""The machinery of the training loop: events, callbacks, batches, optimizers, names and files."""
