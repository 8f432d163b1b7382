"""The page that tells how a training went: figures with their errors, pictures, words."""
