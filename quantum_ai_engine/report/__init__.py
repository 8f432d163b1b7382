"""Pages for people: one HTML file each, whole in itself, with pictures in light and dark."""
