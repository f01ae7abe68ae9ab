"""The Hydra plugin of the sweeper."""
