"""The four training stages, one command each, and the loop that they share."""
