"""Images and labels: datasets, download, augmentation and loaders."""
