"""Parameters at rest: checkpoints and weight files."""
