"""From what users hold to a prepared folder, and from a prepared folder to batches.

`readers` understand the forms in which catalogues come, `prepare` turns them into one folder of
plain arrays, `dataset` opens that folder. Nothing here imports JAX.
"""
