"""What a model is worth: predictions in, honest figures and a report out. Nothing here trains, and nothing here needs torch."""
