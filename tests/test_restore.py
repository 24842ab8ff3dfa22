"""The command that restores photos, from files to files."""
