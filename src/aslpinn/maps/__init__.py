"""What is said of maps: metrics, quality, what can and cannot be read from them, their figures.

`metrics` compares them with a truth, `quality` judges them without one, `caveats` says in words what follows. `regions`
makes tables, `partial_volume` corrects; `figures` draws in the `style` that the book has too.
"""
