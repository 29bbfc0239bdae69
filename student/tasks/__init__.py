"""Dense prediction tasks: data sets, augmentation, losses and metrics."""
