"""What makes the book out of the core: the study that runs notebooks, and what its chapters show."""
