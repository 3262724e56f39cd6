"""What is said of maps: metrics, quality, what can and cannot be read from them, their figures."""
