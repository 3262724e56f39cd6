"""Many notebooks through papermill: what to run, running it, the pages and the site made of it."""
