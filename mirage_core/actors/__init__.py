"""What moves: making actors, casting them, directing them, and knowing them again."""
