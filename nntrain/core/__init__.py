"""Building blocks of the training loop: events, callbacks, batches, optimizers, logging."""
