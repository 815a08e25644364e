"""Images and labels: datasets, download, transforms, augmentation of whole batches, and loaders."""
