"""Scores: metrics, benchmark protocols and reports."""
