"""What serves `config.py`: one variable and its values, and the names that are near it."""
