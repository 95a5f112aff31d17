"""The paper's model in its full size, with random weights: converted, served, and timed against PyTorch.

    python -m pisa_models.full_size

model.py makes it, processes.py runs each step in a process of its own and measures that, plain.py is the side of
PyTorch, and report.py writes the table.
"""
