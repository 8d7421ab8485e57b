"""What runs, and in which order. Each package makes one pipeline; methods share the classification template."""
