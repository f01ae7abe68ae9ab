"""Optuna sweeps for Hydra."""
