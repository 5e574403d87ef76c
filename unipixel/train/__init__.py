"""Training: recipes, data, losses and the loop around `transformers.Trainer`."""
