"""What train.py leans on: configuration, checkpoints, metrics, progress. The loop is there."""
