"""Where bars come from when nobody sends them live: recorded files and a paper market."""
