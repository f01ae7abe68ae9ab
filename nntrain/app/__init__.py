"""What the command line does: building, checking, training, tracking and delivering."""
