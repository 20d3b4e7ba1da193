"""Procedural rooms with exact depth and cameras."""
