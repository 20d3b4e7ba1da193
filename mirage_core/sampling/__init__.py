"""Samplers over the released noise schedule."""
