"""Judging finished shots: measures, contact sheets and reports."""
