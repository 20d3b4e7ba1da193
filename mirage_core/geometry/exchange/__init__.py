"""Cameras of other programs: COLMAP, RealEstate10K, glTF, Blender, and three.js viewers."""
