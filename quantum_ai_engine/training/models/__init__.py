"""The neural models: each declares what it reads and answers one logit per window."""
