"""Augmentation: whole batches of small uint8 images on the device, or one decoded image at a time in worker processes."""
