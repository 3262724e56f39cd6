"""What single chapters need beside the core: their figures, their experiments, the class and the moving figures."""
