"""The regime models: features, training, filter, evidence. Pure but for the worker's own pipe."""
