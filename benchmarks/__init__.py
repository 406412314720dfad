"""How fast gpustats is, measured beside what its users would run instead."""
