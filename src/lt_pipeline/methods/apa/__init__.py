"""APA (Alexandridis et al., ECCV 2024): adaptive activations in gates and hidden layers."""
