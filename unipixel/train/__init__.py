"""Training: losses, recipes and the loop around `transformers.Trainer`."""
