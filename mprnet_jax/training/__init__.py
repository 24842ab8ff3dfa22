"""Training: losses, optimizer, the step and the loop around it."""
